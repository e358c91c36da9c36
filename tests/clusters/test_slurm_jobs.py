"""The batch script of launch.submit under a real Slurm.

The policy is served on one node and learns on the other.
"""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from sophia_jax.servers import backends, environments
from sophia_jax.servers.supervise import free_port
from sophia_jax.types import SophiaError
from tests.clusters.two_nodes import until
from tests.launch import rounds
from tests.launch.commands import ROOT

pytestmark = pytest.mark.clusters

SERVED = "--config=tests/servers/rounds_config.py"
EMBEDDED = "--config=tests/launch/rounds_config.py"
LIMIT_S = 1200


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  server = backends.by_name("sglang_jax")
  try:
    environments.find_python(server.pythons, "the served policy")
  except SophiaError as e:
    pytest.skip(str(e))
  return rounds.ready(tmp_path_factory.mktemp("fresh") / "W", head_dim=32)


@pytest.fixture
def submit(cluster, tmp_path):
  """submit(W) -> the number of the job."""

  def run(workdir, config, *flags):
    done = subprocess.run(
      [
        *(sys.executable, "-m", "launch.submit", config, "--target=slurm"),
        *(f"--workdir={workdir}", f"--out={tmp_path / 'job'}", "--submit"),
        # The importance weights would be of probabilities that servers round.
        *(f"--config.job.port={free_port()}", *flags),
        *(
          "--config.stages.grpo.correction=off",
          "--config.stages.grpo.rounds=4",
        ),
      ],
      cwd=ROOT,
      env={**cluster.environment, "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return re.search(r"Submitted batch job (\d+)", done.stdout)[1]

  return run


def steps(workdir):
  found = workdir.glob("checkpoints/*")
  return max((int(p.name) for p in found if p.name.isdecimal()), default=0)


def finished(cluster, number, workdir):
  until(lambda: cluster.job(number)["JobState"] not in STILL, LIMIT_S)
  state = cluster.job(number)["JobState"]
  assert state == "COMPLETED", cluster.log(workdir)
  return load_file(workdir / "export" / "model.safetensors")


STILL = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING")


def running(cluster, number, restarts):
  job = cluster.job(number)
  assert job["JobState"] in STILL, job
  return (job["JobState"], int(job["Restarts"])) == ("RUNNING", restarts)


def test_a_job_that_is_requeued_and_loses_a_node_ends_as_another(
  cluster, submit, fresh, tmp_path
):
  whole, workdir = (
    shutil.copytree(fresh, tmp_path / name / "W") for name in ("whole", "lost")
  )
  given = (SERVED, "--servers=policy:1")
  wanted = finished(cluster, submit(whole, *given), whole)

  number = submit(workdir, *given)
  until(lambda: steps(workdir) >= 1, LIMIT_S)
  cluster.call("scontrol", "requeue", number)
  before = steps(workdir)
  until(lambda: running(cluster, number, restarts=1), LIMIT_S)
  until(lambda: steps(workdir) > before, LIMIT_S)
  cluster.kill_node("n2")  # where it learns; what runs there is left behind
  cluster.start_node("n2")
  found = finished(cluster, number, workdir)

  assert int(cluster.job(number)["Restarts"]) >= 2
  logs = workdir / "jobs" / number
  assert {"0", "1", "2"} <= {p.name for p in logs.iterdir()}
  assert "resumed at update" in (logs / "2" / "train-grpo.log").read_text()
  start = load_file(workdir / "models" / "policy" / "model.safetensors")
  assert any(np.abs(wanted[n] - x).max() > 1e-3 for n, x in start.items())
  for name, value in found.items():
    np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=name)
  assert (workdir / "report.json").exists()


def test_both_nodes_learn_together(cluster, submit, tmp_path):
  workdir = rounds.ready(tmp_path / "W")
  number = submit(
    workdir, EMBEDDED, "--config.job.hosts=2", "--config.mesh.fsdp=2"
  )
  found = finished(cluster, number, workdir)
  start = load_file(workdir / "models" / "policy" / "model.safetensors")
  assert any(np.abs(found[n] - x).max() > 1e-3 for n, x in start.items())
  logs = workdir / "jobs" / number / "0"
  lines = (logs / "train-grpo.log").read_text().splitlines()
  assert {line[:2] for line in lines} >= {"0:", "1:"}
  report = json.loads((workdir / "report.json").read_text())
  assert set(report["pass_at_1"]) == {"before", "after"}
  assert (logs / "run-report.log").exists()
