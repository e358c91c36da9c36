"""Locks of a workdir: who may write at the same time."""

import pytest
from ml_collections import ConfigDict

from sophia_jax import files
from sophia_jax.runs import evaluation
from sophia_jax.runs.evaluation import Exam
from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError


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
  with run().updating():
    refused(run().updating(), r"W/\.lock: process \d+ is writing this workdir")
    refused(run().locked(share=True), "is writing this workdir; wait for it")
    refused(run("other").updating(share=True), "is writing this workdir")
  with run().updating():
    pass


def test_shards_sample_together_and_nothing_else_is_written(run):
  with run().locked(share=True), run().locked(share=True):
    refused(run().updating(), "is writing this workdir")


def test_updates_beside_each_other(run):
  with run("b").updating(share=True), run().updating(share=True):
    with run("c").updating(share=True):
      pass
    refused(
      run("b").updating(share=True),
      r"W/updates/b/\.update\.lock: .* is writing this update; .* --name",
    )
    refused(run("c").updating(), "is writing this workdir")


def test_evaluations_of_different_names(run):
  exams = [Exam(name=name, problems=()) for name in "ab"]
  with evaluation.locked(run(), exams[:1]):
    with evaluation.locked(run(), exams[1:]):
      pass
    refused(
      evaluation.locked(run(), exams), "evaluation a; wait .* another --name"
    )
