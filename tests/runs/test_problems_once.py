"""A file of problems is read and checked once a run."""

from sophia_jax.files import write_jsonl
from sophia_jax.runs import run as runs
from sophia_jax.runs import sampling
from sophia_jax.runs import stage as stages
from tests.launch import rounds_config


def test_problems_are_read_once(tmp_path, monkeypatch):
  config = rounds_config.get_config()
  row = {"question": "Q", "answer": "1"}
  rows = [{"id": f"p{i}", **row} for i in range(config.stages.grpo.groups)]
  write_jsonl(tmp_path / "data" / "problems.jsonl", rows)
  read = []
  load = runs.load_problems
  monkeypatch.setattr(
    runs, "load_problems", lambda path: read.append(path) or load(path)
  )
  run = runs.Run(config, str(tmp_path))
  stage = stages.read(config, "grpo")
  assert sampling.problems(run, stage) is sampling.problems(run, stage)
  assert sampling.problems(run.laid_out(), stage)[0].id == "p0"
  assert read == [tmp_path / "data" / "problems.jsonl"]
