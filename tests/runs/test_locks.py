"""Locks of a workdir: who may write at the same time."""

import pytest
from ml_collections import ConfigDict

from sophia_jax import files
from sophia_jax.runs import locks, pipeline, sampling
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.runs.shards import Shard
from sophia_jax.types import SophiaError
from tests.launch import rounds_config


@pytest.fixture
def run(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_LEFT_S", 0.0)
  config = ConfigDict({"seed": 0, "order": ["a"]})
  return lambda name="": Run(config, str(tmp_path / "W"), name=name)


def refused(lock, match):
  with pytest.raises(SophiaError, match=match) as caught, lock:
    pass
  assert "\n" not in str(caught.value)


def test_one_command_writes_a_workdir(run):
  with locks.updating(run()):
    refused(
      locks.updating(run()), r"W/\.lock: process \d+ is writing this workdir"
    )
    refused(
      locks.writing(run(), share=True), "is writing this workdir; wait for it"
    )
    refused(locks.updating(run("other"), share=True), "is writing this workdir")
  with locks.updating(run()):
    pass


def test_shards_sample_together_and_nothing_else_is_written(run):
  with locks.writing(run(), share=True), locks.writing(run(), share=True):
    refused(locks.updating(run()), "is writing this workdir")


def test_updates_beside_each_other(run):
  with locks.updating(run("b"), share=True), locks.updating(run(), share=True):
    with locks.updating(run("c"), share=True):
      pass
    refused(
      locks.updating(run("b"), share=True),
      r"W/updates/b/\.update\.lock: .* is writing this update; .* --name",
    )
    refused(locks.updating(run("c")), "is writing this workdir")


def test_evaluations_of_different_names(run):
  with locks.evaluating(run(), "a"):
    with locks.evaluating(run(), "b"):
      pass
    refused(
      locks.evaluating(run(), "ab"), "evaluation a; wait .* another --name"
    )


def test_a_check_makes_and_changes_nothing(run):
  one = run("b")
  locks.check(one, update=True)
  locks.check_evaluations(one, "ab")
  assert not one.workdir.exists()
  with locks.updating(one, share=True):
    before = (one.workdir / locks.LOCK).read_bytes()
    locks.check(run(), share=True, update=True)
    assert (one.workdir / locks.LOCK).read_bytes() == before
    with pytest.raises(SophiaError, match="is writing this workdir"):
      locks.check(run())
    with pytest.raises(SophiaError, match="is writing this update"):
      locks.check(one, share=True, update=True)
  with (
    locks.evaluating(one, "b"),
    pytest.raises(SophiaError, match="evaluation b; wait"),
  ):
    locks.check_evaluations(one, "ab")


def test_a_lock_refuses_before_anything_else_is_found(run, tmp_path, caplog):
  config = rounds_config.get_config()
  config.policy.path = "nowhere"
  other = Run(config, str(tmp_path / "W"))
  with (
    locks.writing(run(), share=True),
    pytest.raises(SophiaError, match="is writing this workdir"),
  ):
    pipeline.run_all(other)
  with pytest.raises(SophiaError, match=r"config\.policy\.path"):
    pipeline.run_all(other)
  assert not caplog.records


def test_a_shard_has_one_sampler(run, tmp_path):
  config = rounds_config.get_config()
  config.stages.grpo.rounds = 1
  one = Run(config, str(tmp_path / "W"))
  stage = stages.read(config, "grpo")
  first, whole = Shard.of("0/2"), Shard()
  directory = sampling.store_directory(one, stage)
  locks.check_shard(one, stage, first)
  assert not directory.exists()
  with (
    files.held(directory / f"{first.name}.lock", "it", "wait"),
    files.shared(directory / sampling.LOCK, first.terms),
  ):
    locks.check_shard(one, stage, Shard.of("1/2"))
    with pytest.raises(SophiaError, match="is writing shard '0-of-2'"):
      locks.check_shard(one, stage, first)
    with pytest.raises(SophiaError, match="in 2 shards, not in 1 shard"):
      locks.check_shard(one, stage, whole)
