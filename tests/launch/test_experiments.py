"""An experiment from the command line, killed and resumed."""

import json

from tests.launch.commands import TINY, assert_refused, until

TOY = """
title = "Toy"
claim = "None."
config = "configs/quickstart.py"
primary = "pass_at_1.after.value"
smallest = 0.05
seeds = 1

[arms.full]
[arms.one]
settings = { "stages.sophia.keep_n" = 1, "stages.sophia.train.epochs" = 2 }

[[hypotheses]]
kind = "above"
arms = ["full", "one"]

[settings]
"stages.sophia.ratios" = 3
"""


def test_a_killed_experiment_resumes(start, command, tmp_path):
  path, results = tmp_path / "toy.toml", tmp_path / "toy.jsonl"
  rows = (f'"{key}" = {json.dumps(value)}' for key, value in TINY.items())
  path.write_text(TOY + "\n".join(rows) + "\n")
  call = ("run", path, f"--results={results}", f"--workdir={tmp_path / 'W'}")
  running = start("sophia_jax.evidence", *call)
  until(running, lambda: results.exists() and results.stat().st_size)
  running.kill()
  running.communicate()
  first = results.read_bytes()
  assert first.count(b"\n") == 1
  measured = json.loads(first)["measures"]
  assert measured["ratio.before.n"] == measured["ratio.after.n"] == 3
  assert 0 <= measured["ratio.after.near"] <= 1

  done = command("sophia_jax.evidence", *call)
  assert done.returncode == 0, done.stderr
  whole = results.read_bytes()
  assert whole.startswith(first) and whole.count(b"\n") == 2
  cost, unit = done.stderr.splitlines()
  assert cost.startswith("toy: 1 of 2 units done, 1 left, about")
  assert unit == "2/2 seed 0 one-0"
  assert "| full > one |" in done.stdout

  told = command("sophia_jax.evidence", "table", path, f"--results={results}")
  assert told.stdout == done.stdout
  done = command("sophia_jax.evidence", *call, "--seeds=0,x")
  assert_refused(done, "--seeds=0,x: numbers with commas")
  done = command("sophia_jax.evidence", *call, "--seeds=0,1")
  assert_refused(done, "--seeds=0,1: 1: the experiment has seeds 0 to 0")
  assert results.read_bytes() == whole
