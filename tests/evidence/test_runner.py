"""The runner: what is finished is kept, what failed or was killed is run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sophia_jax.evidence import experiment, runner
from sophia_jax.types import SophiaError

TOY = Path(__file__).with_name("toy.toml")
# Takes the flags of launch.run and leaves its report, as launch.run does, at the
# end; "fail" and "hang" name the run that does so instead.
RUN = """
import json, os, pathlib, sys, time
flags = dict(f[2:].split("=", 1) for f in sys.argv[1:])
place = pathlib.Path(flags["workdir"])
if "config.base" in flags:
  assert (pathlib.Path(flags["config.base"]) / "report.json").exists()
if "name" in flags:
  assert (place / "report.json").exists()
  place = place / "updates" / flags["name"]
place.mkdir(parents=True, exist_ok=True)
here = pathlib.Path(__file__).parent
name = str(place.relative_to(here / "work" / "toy"))
with open(here / "began", "a") as f:
  f.write(name + "\\n")
told = here / "told"
how = told.read_text().split() if told.exists() else ["", ""]
if how == ["fail", name]:
  sys.exit("the disk is full")
if how == ["hang", name]:
  (here / "hangs").write_text(str(os.getpid()))
  time.sleep(600)
value = {"value": 0.5 + 0.01 * int(flags.get("config.seed", 0))}
report = {"pass_at_1": {"before": value, "after": value}, "versions": {}}
(place / "config.json").write_text(json.dumps({"seed": 0}))
(place / "report.json").write_text(json.dumps(report))
"""
SEED = [
  *("base", "base/updates/random-0", "grpo-0"),
  *("base/updates/full-1", "base/updates/random-1", "grpo-1"),
]


@pytest.fixture
def place(tmp_path):
  (tmp_path / "run.py").write_text(RUN)
  given = '[given]\nstages = ["reasoner"]\n\n[arms.full]'
  text = TOY.read_text().replace("[arms.full]", given, 1)
  (tmp_path / "toy.toml").write_text(text)
  return tmp_path


def run(place, seeds=(0, 1), say=lambda line: None, given=None):
  what = experiment.read(place / "toy.toml")
  program = (sys.executable, str(place / "run.py"))
  results = place / "results.jsonl"
  work = place / "work"
  runner.run(what, seeds, work, results, say, program, given)
  return runner.read(what, results)


def began(place):
  return (place / "began").read_text().split()


def test_every_unit_is_run_once_what_seeds_share_first(place):
  said = []
  rows = run(place, say=said.append)
  every = [f"{seed}/{name}" for seed in (0, 1) for name in SEED]
  assert began(place) == ["given", *every]
  assert said[0] == "what all seeds share: reasoner"
  assert said[1] == "1/12 seed 0 full-0"
  assert len(rows) == 12
  assert {row["measures"]["pass_at_1.after.value"] for row in rows} == {
    0.5,
    0.51,
  }
  assert run(place) == rows and began(place)[13:] == []


def test_what_seeds_share_may_be_there_already(place):
  with pytest.raises(SophiaError, match="no finished run; leave it out"):
    run(place, (0,), given=place / "finished")
  finished(place / "finished")
  assert len(run(place, (0,), given=place / "finished")) == 6
  assert began(place) == [f"0/{name}" for name in SEED]


def finished(given, value=0.5, seconds=60.0):
  given.mkdir()
  (given / "config.json").write_text('{"seed": 0}')
  stages = [{"name": "sophia", "seconds": seconds}]
  report = {"pass_at_1": {"after": {"value": value}}, "stages": stages}
  (given / "report.json").write_text(json.dumps(report))


def test_results_name_what_their_seeds_share(place):
  finished(place / "finished")
  finished(place / "same", seconds=61.0)
  finished(place / "other", 0.6)
  rows = run(place, (0,), given=place / "finished")
  own = runner.identity(place / "finished")
  assert {row["given"] for row in rows} == {own}
  assert runner.identity(place / "same") == own
  assert runner.identity(place / "other") != own
  with pytest.raises(SophiaError, match="jsonl:1: its seeds share another run"):
    run(place, (1,), given=place / "other")
  assert len(run(place, (1,), given=place / "same")) == 12


def test_a_unit_that_fails_is_one_line_and_is_run_again(place):
  (place / "told").write_text("fail 0/base/updates/random-0")
  with pytest.raises(SophiaError) as e:
    run(place, (0,))
  assert str(e.value).endswith("random-0.log: exit code 1: the disk is full")
  (place / "told").unlink()
  assert len(run(place, (0,))) == 6
  names = ["base", "base/updates/random-0", *SEED[1:]]
  assert began(place) == ["given", *(f"0/{name}" for name in names)]


def test_what_was_killed_ends_and_is_run_again(place):
  unit = "0/grpo-0"
  (place / "told").write_text(f"hang {unit}")
  code = (
    "import pathlib, sys; from tests.evidence.test_runner import run; "
    "run(pathlib.Path(sys.argv[1]), (0,))"
  )
  with subprocess.Popen([sys.executable, "-c", code, place]) as process:
    while not (place / "hangs").exists() or not (place / "hangs").read_text():
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
  pid = int((place / "hangs").read_text())
  while _alive(pid):
    time.sleep(0.01)
  (place / "told").unlink()
  rows = run(place, (0,))
  assert len(rows) == len({runner._key(row) for row in rows}) == 6
  names = ["given", *(f"0/{name}" for name in SEED)]
  assert sorted(began(place)) == sorted([*names, unit])
  lines = (place / "results.jsonl").read_text().splitlines()
  assert len([json.loads(line) for line in lines if line]) == 6


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True
