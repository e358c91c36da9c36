"""The batch script alone under a real Slurm, with programs that take no time."""

import dataclasses

import pytest

from configs import internvl3_8b
from sophia_jax.jobs import machines, slurm
from tests.clusters.two_nodes import until
from tests.jobs import golden

pytestmark = pytest.mark.clusters

LIMIT_S = 300
SERVER = """
launch.serve)
  for flag; do
    case $flag in --ready_file=*) echo up > "${flag#--ready_file=}" ;; esac
  done
  exec sleep 1000
  ;;
"""
FINISHED = "echo '{\"grpo\": 1}' > stages.json"
WAITS = """
trap 'echo saved >> calls; exit 0' TERM
echo began >> calls
while :; do sleep 0.1; done
"""


@pytest.fixture
def submit(cluster, tmp_path):
  """submit(what launch.train does) -> the number of the job."""

  def run(train, job=None):
    python = tmp_path / "python"
    python.write_text(
      "#!/usr/bin/env bash\n"
      f"cd {tmp_path}\n"
      'echo "${SOPHIA_ATTEMPT#*.} $2" >> calls\n'
      f"case $2 in {SERVER} launch.train)\n{train}\n;; esac\n"
    )
    python.chmod(0o755)
    target, module, _, given = golden.JOBS["gke-gpu"]
    job = dataclasses.replace(
      job or golden.job(target, module, "policy:1", given),
      trainer=machines.read("cpu:1", hosts=2 if job else 1),
      server=machines.read("cpu:1"),
      workdir=str(tmp_path / "W"),
      root=str(tmp_path),
      python=str(python),
    )
    (tmp_path / "W" / "jobs").mkdir(parents=True)
    # The programs write where they are started.
    (tmp_path / "W" / "stages.json").symlink_to(tmp_path / "stages.json")
    script = tmp_path / "job.sbatch"
    script.write_text(slurm.files(job)["job.sbatch"])
    return cluster.call("sbatch", "--parsable", script)

  return run


def calls(tmp_path):
  path = tmp_path / "calls"
  return path.read_text().splitlines() if path.exists() else []


def ended(cluster, number):
  final = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
  until(lambda: cluster.job(number)["JobState"] in final, LIMIT_S)
  return cluster.job(number)["JobState"]


def test_steps_follow_each_other(cluster, submit, tmp_path):
  number = submit(FINISHED)
  assert ended(cluster, number) == "COMPLETED", cluster.log(tmp_path / "W")
  assert calls(tmp_path) == ["0 launch.serve", "0 launch.train", "0 launch.run"]


def test_hosts_share_the_sampling_and_one_reports(cluster, submit, tmp_path):
  """Both nodes train; the programs of a step run beside each other."""
  given = {"topology": "h100:32", "policy.engine": "embedded"}
  job = golden.job("slurm", internvl3_8b, "", given)
  number = submit(
    """
    for last; do :; done
    echo "$last" >> flags
    echo '{"sophia/sample": 1, "sophia": 1}' > stages.json ;;
    launch.sample)
    for last; do :; done
    echo "$last" >> flags
    echo '{"sophia/sample": 1}' > stages.json
    """,
    job,
  )
  assert ended(cluster, number) == "COMPLETED", cluster.log(tmp_path / "W")
  steps = calls(tmp_path)
  assert steps == [
    *["0 launch.sample"] * 2,
    *["0 launch.train"] * 2,
    "0 launch.run",
  ]
  flags = (tmp_path / "flags").read_text().splitlines()
  # The builder counted four hosts; the script has the two of this cluster.
  assert sorted(flags[:2]) == ["--shard=0/2", "--shard=1/2"]
  assert flags[2:] == ["--config.topology=h100:32"] * 2


def test_near_the_time_limit_it_saves_and_is_requeued(
  cluster, submit, tmp_path
):
  number = submit(f"[ $SLURM_RESTART_COUNT ] && {{ {FINISHED}; exit; }}{WAITS}")
  until(lambda: "began" in calls(tmp_path), LIMIT_S)
  cluster.call("scancel", "--signal=USR1", "--batch", number)
  assert ended(cluster, number) == "COMPLETED", cluster.log(tmp_path / "W")
  assert calls(tmp_path) == [
    *("0 launch.serve", "0 launch.train", "began", "saved"),
    *("1 launch.serve", "1 launch.train", "1 launch.run"),
  ]


def test_a_cancelled_job_stays_cancelled(cluster, submit, tmp_path):
  number = submit(f"echo > W/a.jsonl{WAITS}")
  until(lambda: "began" in calls(tmp_path), LIMIT_S)
  cluster.call("scancel", number)
  assert ended(cluster, number) == "CANCELLED"
  until(lambda: set(cluster.states().values()) == {"idle"}, LIMIT_S)
  assert cluster.job(number)["JobState"] == "CANCELLED"
  assert "0 launch.run" not in calls(tmp_path)


def test_a_failure_is_repeated_if_there_was_progress(cluster, submit, tmp_path):
  number = submit(
    "[ $SLURM_RESTART_COUNT ] && exit 3\nsleep 1.1; echo > W/a.jsonl; exit 3"
  )
  assert ended(cluster, number) == "FAILED"
  # The second attempt has changed nothing.
  assert calls(tmp_path).count("0 launch.train") == 1
  assert calls(tmp_path)[-1] == "1 launch.train"
  said = cluster.log(tmp_path / "W")
  assert "error: train-grpo ended with code 3" in said


def test_a_server_that_never_answers_ends_the_job(cluster, submit, tmp_path):
  number = submit("exit 0")
  until(lambda: calls(tmp_path), LIMIT_S)
  cluster.call("scancel", number)  # it is in its first step
  ended(cluster, number)
  (tmp_path / "calls").unlink()
  python = tmp_path / "python"
  python.write_text("#!/usr/bin/env bash\necho no model >&2; exit 1\n")
  number = cluster.call("sbatch", "--parsable", tmp_path / "job.sbatch")
  assert ended(cluster, number) == "FAILED"
  assert "error: policy-0 did not start" in cluster.log(tmp_path / "W")
