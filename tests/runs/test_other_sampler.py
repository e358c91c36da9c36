"""A stage that samples with other weights than those that learn."""

import pytest

from configs.evidence import further
from sophia_jax.runs import sampling
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError


def opened(place, **values):
  config = further.get_config()
  config.stages.further.update(values)
  return Run(config, str(place)), stages.read(config, "further")


def test_captions_are_an_earlier_stage_s(tmp_path):
  run, stage = opened(tmp_path)
  assert run.start(stage) == tmp_path / "sophia/export"
  assert run.sampler(stage) == tmp_path / "warmup/export"
  run, stage = opened(tmp_path, sampler="")
  assert run.sampler(stage) == run.start(stage)
  run, stage = opened(tmp_path, sampler="base")
  assert run.sampler(stage) == tmp_path / "models/policy"


def test_a_store_depends_on_who_captions_and_not_on_who_learns(tmp_path):
  for name, text in (("sophia", "a"), ("warmup", "b")):
    (tmp_path / name / "export").mkdir(parents=True)
    (tmp_path / name / "export" / "config.json").write_text(text)
  (tmp_path / "models/reasoner").mkdir(parents=True)
  found = {
    sampler: sampling.store_meta(*opened(tmp_path, sampler=sampler))["policy"]
    for sampler in ("", "sophia", "warmup")
  }
  assert found[""] == found["sophia"] != found["warmup"]
  run, stage = opened(tmp_path, start="warmup")
  assert sampling.store_meta(run, stage)["policy"] == found["warmup"]


def test_a_mistake_names_its_key(tmp_path):
  run, stage = opened(tmp_path, sampler="warm-up")
  with pytest.raises(
    SophiaError, match=r"further\.sampler=warm-up: no earlier"
  ):
    run.sampler(stage)
  with pytest.raises(SophiaError, match=r"sampler=warmup: the stage learns in"):
    opened(tmp_path, rounds=2, groups=4)
  with pytest.raises(
    SophiaError, match=r"train\.updates=150: the stage learns"
  ):
    opened(tmp_path, rounds=2, groups=4, sampler="")
