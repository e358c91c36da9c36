"""A run that is killed and started again ends as if nothing had happened."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from sophia_jax.train import metrics
from sophia_jax.train.metrics import MetricsFile
from sophia_jax.train.trackers import LogConfig
from sophia_jax.types import SophiaError
from tests.devices import host_devices
from tests.train import toy, training
from tests.train.training import rows, steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  directory = tmp_path_factory.mktemp("undisturbed")
  params = jax.device_get(training.train(directory))
  return directory / "run", params


def cut_off(directory, how):
  """A run that gets a signal in its middle: its exit code, what it printed."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.train.training", str(directory), how.name],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
    },
    stdout=subprocess.PIPE,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout


def assert_same_run(directory, undisturbed):
  run, params = undisturbed
  before = len(rows(directory / "run"))
  assert 4 <= before < len(rows(run)), "it was killed too late to show anything"
  again = training.train(directory)
  assert rows(directory / "run") == rows(run)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), params)


# ------------------------------------------------------------------------- kills
def test_sigterm_saves_and_a_restart_goes_on(tmp_path, undisturbed):
  code, said = cut_off(tmp_path, signal.SIGTERM)
  assert code == 0
  last = len(rows(tmp_path / "run"))
  assert said == f"preempted: saved update {last} in {tmp_path / 'run'}\n"
  assert steps(tmp_path / "run")[-1] == last
  assert_same_run(tmp_path, undisturbed)


def test_sigkill_loses_no_more_than_since_the_checkpoint(tmp_path, undisturbed):
  code, _ = cut_off(tmp_path, signal.SIGKILL)
  assert code == -signal.SIGKILL
  assert steps(tmp_path / "run")[-1] % training.CONFIG.checkpoint_every == 0
  assert_same_run(tmp_path, undisturbed)


def test_a_run_on_a_mesh_ends_the_same_to_the_last_bit(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "tests.train.on_a_mesh", str(tmp_path)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": host_devices(8),
    },
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  assert done.stdout.startswith("preempted: saved update ")


def test_a_finished_run_is_not_trained_again(undisturbed):
  run, params = undisturbed
  before = (run / "metrics.jsonl").read_bytes()
  again = training.train(run.parent)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), params)
  assert (run / "metrics.jsonl").read_bytes() == before


# ----------------------------------------------------------------------- metrics
def test_every_update_has_its_row(undisturbed):
  run, _ = undisturbed
  found = metrics.read(run / "metrics.jsonl")
  assert [row["step"] for row in found] == list(range(1, len(found) + 1))
  assert len(found) > 8
  names = {"step", "seconds", "loss", "policy", "logp", "grad_norm", "tokens"}
  assert all(row.keys() >= {*names, "input_wait"} for row in found)
  assert all(0 <= row["input_wait"] < 60 for row in found)
  assert steps(run)[-1] == len(found)
  assert len(steps(run)) == training.CONFIG.keep


def test_a_trace_and_event_files_on_request(tmp_path):
  log = LogConfig(profile_at=2, profile_updates=1)
  training.train(tmp_path, log=log)
  run = tmp_path / "run"
  assert list(run.glob("profile/**/*.trace.json.gz"))
  (events,) = (run / "tensorboard").iterdir()
  assert events.stat().st_size > 1000


def test_utilisation_counts_what_is_there():
  """No padding: half a batch of 1,000 places in 2 seconds."""
  row = {"live": 500.0, "seconds": 2.0, "pairs": 9.0, "image_tokens": 0.0}
  derived = metrics.utilisation(toy.CFG, ("language",))
  assert derived(row) == {
    "tokens_per_s_per_device": 250.0 / len(jax.devices())
  }  # a CPU's peak is not known


def test_seconds_of_sampling_are_no_update_s(tmp_path):
  file = MetricsFile(tmp_path / "metrics.jsonl", 0, 9)
  with file.waiting("timing_s/gen"):
    time.sleep(0.5)
  file.add({"loss": 1.0, "grad_norm": 1.0, "tokens": 1.0})
  file.flush()
  (row,) = metrics.read(tmp_path / "metrics.jsonl")
  assert row["timing_s/gen"] >= 0.5
  assert row["seconds"] < row["timing_s/gen"]


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  written = [json.dumps({"step": i, "loss": 1.0}) + "\n" for i in (1, 2, 3)]
  path.write_text("".join(written) + '{"step": 4, "lo')
  MetricsFile(path, 2, 9)
  assert path.read_text() == "".join(written[:2])
  assert os.listdir(tmp_path) == ["metrics.jsonl"]


# ------------------------------------------------------------------------ errors
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  config = dataclasses.replace(
    training.CONFIG, checkpoint_every=1, log_every=100
  )
  broken = jax.tree.map(lambda x: x * np.float32(1e30), toy.fresh_params())
  with pytest.raises(SophiaError) as error:
    training.train(tmp_path, config, start=broken)
  path = tmp_path / "run" / "metrics.jsonl"
  message = str(error.value)
  assert message.startswith(f"{path}: loss is nan at update 1; ")
  assert (
    "lower the stage's train.learning_rate" in message and "\n" not in message
  )
  assert not steps(tmp_path / "run"), "no checkpoint holds what came of it"
  rows_of_it = tmp_path / "run" / "update-1.npz"
  assert message.endswith(f"which is in {rows_of_it}")
  with np.load(rows_of_it) as batch:
    places = config.microbatches, config.rows, config.length
    assert batch["tokens"].shape == batch["weights"].shape == places
    assert batch["tiles"].any() and batch["segment_ids"].any()


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_either_is_looked_at(tmp_path, name):
  file = MetricsFile(tmp_path / "metrics.jsonl", 0, 9)
  file.add({"loss": 1.0, "grad_norm": 1.0, "tokens": 1.0})
  file.add({"loss": 1.0, "grad_norm": 1.0, "tokens": 1.0, name: np.inf})
  with pytest.raises(SophiaError, match=f"{name} is inf at update 2"):
    file.flush()


@pytest.mark.parametrize(
  ("changed", "how"),
  [
    ("model", {"identity": "another"}),
    (
      "optimizer",
      {
        "config": dataclasses.replace(
          training.CONFIG, trained=("language", "vision")
        )
      },
    ),
  ],
)
def test_a_checkpoint_of_another_run_is_refused(changed, how, undisturbed):
  run, _ = undisturbed
  before = rows(run)
  with pytest.raises(SophiaError) as error:
    training.train(run.parent, **how)
  message = str(error.value)
  assert message.startswith(f"{run / 'checkpoints'}/")
  assert f"a checkpoint of another {changed}; use the config" in message
  assert "\n" not in message
  assert rows(run) == before


def test_a_checkpoint_of_other_data_is_refused(undisturbed):
  run, _ = undisturbed
  config = dataclasses.replace(training.CONFIG, rows=4)
  with pytest.raises(SophiaError, match="of other data"):
    training.train(run.parent, config)
