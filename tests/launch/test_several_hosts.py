"""launch.train in several processes, as a user starts them on several hosts."""

import json
import re
import shutil
import signal
import socket

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from safetensors.numpy import load_file

from sophia_jax.hosts import meeting
from sophia_jax.runs import training
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import SophiaError
from tests.devices import host_devices
from tests.launch import hosts_config, workdirs
from tests.launch.commands import assert_refused, until

CONFIG = "--config=tests/launch/hosts_config.py"
AXES = {"fsdp": 1, "context": 2, "tensor": 2}
GLOO = re.compile(r"\[Gloo\]|peer ranks|^\s*$")
"""Lines that gloo prints; its threads write in pieces, one into another's line."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  """A workdir that is ready to train, for copies."""
  workdir = tmp_path_factory.mktemp("fresh") / "W"
  workdirs.sampled(hosts_config.get_config(), workdir, problems=40)
  return workdir


@pytest.fixture
def workdir(fresh, tmp_path):
  return shutil.copytree(fresh, tmp_path / "W")


@pytest.fixture(scope="module")
def train(start):
  """train(W, "--flag", ..., devices=2) -> the running command."""

  def run(workdir, *arguments, devices=2, **variables):
    environment = {"XLA_FLAGS": host_devices(devices), **variables}
    given = [CONFIG, f"--workdir={workdir}", "--peer_timeout_s=10"]
    return start("launch.train", *given, *arguments, **environment)

  return run


@pytest.fixture(scope="module")
def alone(fresh, train, tmp_path_factory):
  """The workdir that one process trains with all four devices."""
  workdir = shutil.copytree(fresh, tmp_path_factory.mktemp("alone") / "W")
  process = train(workdir, devices=4)
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert out.splitlines() == [
    f"checkpoint: {workdir / 'export'}",
    f"report: {workdir / 'report.html'}",
  ]
  return workdir


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def together(count):
  """The flags of each process."""
  where = f"--coordinator=127.0.0.1:{free_port()}"
  return [
    (where, f"--processes={count}", f"--process={i}") for i in range(count)
  ]


def ended(processes):
  """(exit code, stdout without gloo's lines, stderr) of each."""
  try:
    said = [p.communicate(timeout=300) for p in processes]
  finally:
    for process in processes:
      process.kill()
  return [
    (
      process.returncode,
      "".join(x for x in out.splitlines(True) if not GLOO.search(x)),
      err,
    )
    for process, (out, err) in zip(processes, said)
  ]


def trained(workdir, other):
  """Asserts that both have trained the same, update by update."""
  found, wanted = (
    load_file(w / "export" / "model.safetensors") for w in (workdir, other)
  )
  start = load_file(other / "warmup" / "export" / "model.safetensors")
  assert found.keys() == wanted.keys() == start.keys()
  for name, value in found.items():
    np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=name)
  assert any(np.abs(wanted[n] - x).max() > 1e-3 for n, x in start.items())
  rows, theirs = (metrics.read(w / "metrics.jsonl") for w in (workdir, other))
  assert [row["step"] for row in rows] == list(range(1, len(theirs) + 1))
  for row, wanted in zip(rows, theirs, strict=True):
    assert row["loss"] == pytest.approx(wanted["loss"], abs=1e-4)
    assert row["tokens"] == wanted["tokens"]


def written(workdir):
  """All files except those of orbax and tensorboard, named by the time."""
  found = (p.relative_to(workdir) for p in workdir.rglob("*") if p.is_file())
  own = (p for p in found if p.parts[0] not in ("checkpoints", "tensorboard"))
  return sorted(map(str, own))


@pytest.mark.slow
def test_four_tasks_of_slurm_export_what_one_process_exports(
  train, alone, workdir
):
  port = str(free_port())
  done = ended(
    [
      train(
        workdir,
        devices=1,
        SLURM_JOB_ID="7",
        SLURM_STEP_NODELIST="localhost",
        SLURM_NTASKS="4",
        SLURM_PROCID=str(i),
        SLURM_LOCALID=str(i),
        JAX_COORDINATOR_PORT=port,
      )
      for i in range(4)
    ]
  )
  assert [code for code, _, _ in done] == [0] * 4, done
  trained(workdir, alone)


def steps(workdir):
  found = workdir.glob("checkpoints/*")
  return [int(p.name) for p in found if p.name.isdecimal()]


def test_two_processes_interrupted_twice_export_what_one_exports(
  train, alone, workdir
):
  """First by SIGTERM, then by a kill on another topology."""
  first = [train(workdir, *flags) for flags in together(2)]
  until(first[0], lambda: steps(workdir))
  first[1].send_signal(signal.SIGTERM)
  done = ended(first)
  assert [code for code, _, _ in done] == [0, 0], done
  saved = max(steps(workdir))
  assert done[0][1] == (
    f"preempted: saved update {saved} in {workdir}; the same command resumes "
    "there\n"
  )
  assert done[1][1] == ""

  elsewhere = "--config.topology=cpu:2"
  second = [
    train(workdir, *flags, elsewhere, devices=1) for flags in together(2)
  ]
  until(second[0], lambda: max(steps(workdir)) > saved)
  second[1].kill()
  (code, out, err), _ = ended(second)
  assert (code, out) == (1, "")
  assert f"resumed at update {saved}" in err
  lines = err.splitlines()
  assert [line for line in lines if "error" in line] == lines[-1:]
  assert lines[-1] == (
    "error: process 1 of 2 is lost (its own output says why); start the same "
    "command again on all hosts, it resumes from the last checkpoint"
  )

  third = [train(workdir, *flags) for flags in together(2)]
  done = ended(third)
  assert [code for code, _, _ in done] == [0, 0], done
  assert "resumed at update" in done[0][2]
  assert done[0][1].startswith(f"checkpoint: {workdir / 'export'}\nreport: ")
  assert done[1][1] == ""
  trained(workdir, alone)
  # Process 0 alone writes: nothing is there that one process does not write.
  assert written(workdir) == written(alone)
  stages = json.loads((workdir / "stages.json").read_text())
  assert list(stages) == ["sophia/sample", "sophia"]


def test_a_row_may_lie_on_two_processes(train, alone, workdir):
  mesh = [f"--config.mesh.{x}={n}" for x, n in AXES.items()]
  done = ended([train(workdir, *flags, *mesh) for flags in together(2)])
  assert [code for code, _, _ in done] == [0, 0], done
  trained(workdir, alone)


def test_processes_that_disagree_write_nothing(train, tmp_path):
  done = ended(
    [
      train(tmp_path / "W", *flags, f"--config.seed={i}")
      for i, flags in enumerate(together(2))
    ]
  )
  for code, out, err in done:
    assert (code, out) == (1, "")
    assert err == (
      "error: config: not the same in process 1 as in process 0; give the "
      "same command on every host\n"
    )
  assert not (tmp_path / "W").exists()


def test_a_topology_that_is_not_here(command, workdir):
  given = [CONFIG, f"--workdir={workdir}"]
  done = command("launch.train", *given, "--config.topology=cpu:9")
  assert_refused(
    done, "config.topology=cpu:9: not in config.topologies", "cpu:2, cpu:4"
  )
  done = command("launch.train", *given, "--config.topology=cpu:4")
  assert_refused(done, "config.topology=cpu:4 has 4 devices, there are 1;")


def test_another_layout_of_the_same_batches_is_the_same_run(workdir):
  def identity(rows, microbatches):
    config = hosts_config.get_config()
    layout = hosts_config.layout(rows, microbatches)
    config.stages.sophia.train.update(layout["train"])
    run = Run(config, str(workdir))
    (stage,) = (s for s in run.stages() if s.name == "sophia")
    return training.identity(run, stage)

  assert identity(4, 2) == identity(2, 4)
  assert identity(4, 2) != identity(4, 4)


def test_a_process_without_peers_gives_up(command, tmp_path):
  given = [CONFIG, f"--workdir={tmp_path / 'W'}", "--join_timeout_s=1"]
  done = command("launch.train", *given, *together(2)[1])
  assert_refused(
    done, "127.0.0.1:", "not all processes came within 1 s", "--coordinator"
  )
  assert not (tmp_path / "W").exists()


# -------------------------------------------------------------------------- flags
@pytest.fixture(scope="module")
def flagged():
  """flagged(processes=2) -> the meeting of a command's flags."""
  meeting.define_flags()
  flags.FLAGS.mark_as_parsed()

  def of(**values):
    with flagsaver.flagsaver(**values):
      return meeting.from_flags()

  yield of
  for name in meeting.FLAGS:
    delattr(flags.FLAGS, name)


SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "a,b",
  "SLURM_PROCID": "1",
}


@pytest.mark.parametrize(
  ("variables", "found"),
  [
    ({}, False),
    (SLURM | {"SLURM_NTASKS": "2"}, True),
    (SLURM | {"SLURM_NTASKS": "1"}, False),
    ({"SLURM_NTASKS": "2"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
  ],
)
def test_a_cluster_is_recognised_by_its_variables(
  flagged, monkeypatch, variables, found
):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  meeting = flagged()
  assert (meeting is not None) == found
  if meeting:
    assert meeting.coordinator is meeting.processes is meeting.process is None
  assert flagged(processes=1) is None
  assert flagged(coordinator="auto") is not None


@pytest.mark.parametrize(
  ("values", "said"),
  [
    ({"processes": 2}, "--coordinator and --process: missing"),
    ({"coordinator": "a:1"}, "--processes and --process: missing"),
    ({"coordinator": "a:1", "process": 0}, "--processes: missing"),
    (
      {"coordinator": "auto", "processes": 2, "process": 0},
      "--coordinator=HOST:PORT: missing",
    ),
    (
      {"coordinator": "a", "processes": 2, "process": 0},
      "--coordinator=a: write HOST:PORT",
    ),
    (
      {"coordinator": "a:1", "processes": 2, "process": 2},
      "--process=2: --processes=2 are numbered 0 to 1",
    ),
    ({"peer_timeout_s": 0}, "--peer_timeout_s=0: must be positive"),
  ],
)
def test_contradicting_flags_are_refused(flagged, values, said):
  with pytest.raises(SophiaError) as e:
    flagged(**values)
  assert str(e.value).startswith(said)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "a" * 70])
def test_a_name_that_is_none_is_refused(host):
  where = meeting.Meeting(f"{host}:1", 2, 0, join_timeout_s=3, peer_timeout_s=3)
  with pytest.raises(SophiaError, match=f"^{host}: .*correct --coordinator"):
    meeting._check_name(where)


@pytest.mark.parametrize(
  ("nodes", "first"),
  [
    ("n1", "n1"),
    ("n1,m2", "n1"),
    ("n[001-015],m2", "n001"),
    ("n[3,7-9]", "n3"),
    ("gpu-a[12]", "gpu-a12"),
  ],
)
def test_the_first_node_of_a_slurm_step(nodes, first):
  assert meeting._first_node(nodes) == first


def test_flags_make_a_meeting(flagged):
  meeting = flagged(coordinator="a:1", processes=2, process=1)
  assert (meeting.coordinator, meeting.processes, meeting.process) == (
    "a:1",
    2,
    1,
  )


# Output of jaxlib 0.10.2, shortened.
MET, ALONE = 4, 0
WORDS = [
  (
    MET,
    "F1122 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors. absl::Status: INTERNAL: Shutdown barrier "
    "has failed.\nBarrier result: 'INTERNAL: Barrier failed because: task is "
    "set to ERROR: UNAVAILABLE: Task 2 heartbeat timeout.",
    "process 2 of 4 is lost",
  ),
  (
    MET,
    "E1122 coordination_service.cc:1549] UNAVAILABLE: The following tasks are "
    "unhealthy (stopped sending heartbeats):\n2\nThe tasks have crashed.",
    "process 2 of 4 is lost",
  ),
  (
    MET,
    "F1122 client.h:80] absl::Status: UNAVAILABLE: Failed to send RPC to "
    "coordination service. Either the leader task was preempted",
    "process 0 of 4 is lost",
  ),
  (
    MET,
    "last words: UNKNOWN: Gloo AllGather failed: Connection reset by peer",
    "the connection to another of 4 processes broke",
  ),
  (MET, "F1122 client.h:80] something else", ""),
  (
    ALONE,
    "F1122 client.h:80] absl::Status: DEADLINE_EXCEEDED\n\nRPC: RegisterTask",
    "a:1: not all processes came within 3 s",
  ),
  (
    ALONE,
    "F1122 client.h:80] INVALID_ARGUMENT: Unexpected task registered with "
    "task=2",
    "--process=1: process 0 at a:1 expects fewer",
  ),
  (
    ALONE,
    "E1122 add_port.cc:83] Failed to add port to server: No address added",
    "a:1: process 0 cannot listen at this port",
  ),
]


@pytest.mark.parametrize(("count", "said", "line"), WORDS)
def test_jaxlibs_output_becomes_a_line(count, said, line):
  place = meeting.Meeting("a:1", 4, 1, join_timeout_s=3, peer_timeout_s=3)
  found = meeting.explanation(place, count, said)
  assert found.startswith(line) and bool(found) == bool(line)
