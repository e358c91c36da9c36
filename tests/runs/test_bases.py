"""A run that starts from a run that started from another."""

import json

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from sophia_jax.runs import preflight
from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError


def workdir(place, order, done, **config):
  place.mkdir()
  made = {"order": order, "base": "", **config}
  (place / "config.json").write_text(json.dumps(made))
  (place / "stages.json").write_text(json.dumps(dict.fromkeys(done, 1.0)))
  return place


@pytest.fixture
def chain(tmp_path):
  first = workdir(
    tmp_path / "first", ["warmup", "sophia"], ["data", "warmup", "sophia"]
  )
  (first / "data.jsonl").write_text("")
  second = workdir(
    tmp_path / "second",
    ["warmup", "sophia", "grpo"],
    ["practice", "grpo"],
    base=str(first),
  )
  (second / "practice.jsonl").write_text("")
  return first, second


def third(chain, tmp_path):
  config = ConfigDict({"seed": 0, "base": str(chain[1])})
  config.order = ("warmup", "sophia", "grpo", "papo")
  return Run(config, str(tmp_path / "third"))


def test_stages_and_files_of_the_whole_chain_are_there(chain, tmp_path):
  first, second = chain
  run = third(chain, tmp_path)
  assert all(map(run.made, ["data", "warmup", "practice", "grpo"]))
  assert not run.made("papo")
  assert run.directory("warmup") == first / "warmup"
  assert run.directory("sophia") == first
  assert run.directory("grpo") == second
  assert run.path("data.jsonl") == first / "data.jsonl"
  assert run.path("practice.jsonl") == second / "practice.jsonl"
  assert run.base.origin.workdir == first


def test_a_base_whose_base_is_gone_serves_what_it_has(chain, tmp_path):
  first, second = chain
  first.rename(tmp_path / "moved")
  run = third(chain, tmp_path)
  assert run.made("grpo") and not run.made("warmup")
  assert run.directory("grpo") == second


def test_a_base_without_the_world_that_is_continued(tmp_path):
  own = workdir(tmp_path / "own", ["grpo"], ["grpo"], prepare=None)
  config = quickstart.get_config()
  config.base = str(own)
  with pytest.raises(SophiaError, match=r"own: its config makes no corpus of"):
    preflight.check(Run(config, str(tmp_path / "W")))
  assert not (tmp_path / "W").exists()
