"""launch.submit as a user types it, and what stands in for its clusters here."""

import shutil
import signal
import stat
import subprocess
import time

from sophia_jax.jobs import shell
from tests.jobs import golden
from tests.launch.commands import CONFIG, assert_refused

GRPO = "--config=configs/grpo.py"


def test_it_writes_a_job_with_the_overrides_of_the_command(command, tmp_path):
  done = command(
    "launch.submit",
    GRPO,
    *("--target=slurm", "--servers=policy:2", f"--out={tmp_path}"),
    *(f"--workdir={tmp_path / 'W'}", "--config.job.name=one"),
    "--config.policy.path=/models/it's",
    "--config.stages.grpo.train.learning_rate=2e-6",
    "--config.serve.extra=('--mem-fraction-static','0.8')",
  )
  assert done.returncode == 0, done.stderr
  script, submit = tmp_path / "job.sbatch", tmp_path / "submit.sh"
  said = done.stdout.splitlines()
  assert said[:3] == [
    str(script),
    str(submit),
    "one: h100:8, 1 host; servers 2 x policy on h100:8; workdir "
    f"{tmp_path / 'W'}",
  ]
  assert (
    "note: config.data.problems is empty: the run will stop at once" in said
  )
  assert said[-1] == f"submit it: bash {submit}"
  text = script.read_text()
  # Once for the servers, and in each step of the trainer.
  assert text.count("--config=configs/grpo.py") == 3
  assert text.count("--config.stages.grpo.train.learning_rate=2e-06") == 3
  assert text.count("""'--config.policy.path=/models/it'"'"'s'""") == 3
  assert text.count("mem-fraction-static") == 3
  assert "config.job" not in text
  assert submit.stat().st_mode & stat.S_IXUSR
  assert not (tmp_path / "W").exists()


def test_what_cannot_be_submitted_is_one_line(command, tmp_path):
  given = (GRPO, f"--out={tmp_path / 'job'}")
  done = command("launch.submit", *given, "--target=gke", "--workdir=/home/W")
  assert_refused(done, "--workdir=/home/W: not below config.job.mount=/shared")
  done = command("launch.submit", *given, "--target=gke", "--servers=a:1")
  assert_refused(done, "--servers=a:1: 'a'")
  if not shutil.which("sky"):
    done = command("launch.submit", *given, "--target=sky", "--submit")
    assert_refused(done, "--submit: no sky here")
  assert not (tmp_path / "job").exists()


def test_a_coordinator_without_an_address_is_one_line(start, tmp_path):
  """At once, where jax.distributed would wait for --join_timeout_s."""
  variables = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "nowhere[3-4].invalid",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
  }
  workdir = f"--workdir={tmp_path / 'W'}"
  slurm = start("launch.train", CONFIG, workdir, **variables)
  given = ("--coordinator=nowhere.invalid:99", "--processes=2", "--process=1")
  explicit = start("launch.train", CONFIG, workdir, *given)
  for process, host, remedy in (
    (slurm, "nowhere3: ", "put the first node of the Slurm step into DNS"),
    (explicit, "nowhere.invalid: ", "correct --coordinator"),
  ):
    out, err = process.communicate(timeout=300)
    done = subprocess.CompletedProcess([], process.returncode, out, err)
    assert_refused(done, f"error: {host}", "does not resolve on", remedy)
  assert not (tmp_path / "W").exists()


# ------------------------------------------------------- the script of a container
def container(tmp_path, python):
  """The trainer's script on one host, with another program for Python."""
  fake = tmp_path / "bin" / "python"
  fake.parent.mkdir()
  fake.write_text(f"#!/usr/bin/env bash\n{python}\n")
  fake.chmod(0o755)
  job = golden.job(*golden.JOBS["gke-gpu"])
  script = shell.steps(job, job.steps, {"policy": "http://p:1"}, "$INDEX")
  script = script.replace(job.workdir, str(tmp_path))
  path = f"{fake.parent}:/usr/bin:/bin"
  return lambda index: subprocess.Popen(
    ["bash", "-c", script],
    env={"PATH": path, "INDEX": index},
    cwd=tmp_path,
  )


def test_each_host_does_its_part(tmp_path):
  done = """
    echo "$INDEX $2" >> calls
    [ "$2" != launch.train ] || echo '{"grpo": 1}' > stages.json
  """
  run = container(tmp_path, done)
  assert [run("0").wait(), run("1").wait()] == [0, 0]
  # The update was done when the second came.
  assert (tmp_path / "calls").read_text().splitlines() == [
    "0 launch.train",
    "0 launch.run",
  ]


def test_an_error_ends_the_script(tmp_path):
  run = container(tmp_path, 'echo "$2" >> calls; exit 3')
  assert run("0").wait() == 3
  assert (tmp_path / "calls").read_text() == "launch.train\n"


def test_sigterm_reaches_the_command_and_ends_the_script(tmp_path):
  saving = """
    trap 'echo saved >> calls; exit 0' TERM
    echo began >> calls
    while :; do sleep 0.1; done
  """
  process = container(tmp_path, saving)("0")
  calls = tmp_path / "calls"
  while not calls.exists():
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  assert process.wait() == 143
  assert calls.read_text().splitlines() == ["began", "saved"]
