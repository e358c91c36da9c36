"""Weights & Biases, for real: offline, it writes what it would send."""

import time

import pytest
import wandb

from sophia_jax.train.trackers import LogConfig, trackers
from sophia_jax.types import SophiaError

WANDB = LogConfig(tensorboard=False, wandb="sophia")


def run(directory, steps):
  (tracker,) = trackers(directory, WANDB, steps[0] - 1)
  for step in steps:
    tracker.log(step, {"loss": 1 / step})
  tracker.close()


@pytest.fixture(autouse=True)
def settings_of_its_own():
  """wandb keeps those of its first use for the process."""
  yield
  wandb.teardown()


def test_a_run_that_goes_on_is_one_run(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  run(tmp_path / "runs" / "one", [1, 2, 3])
  run(tmp_path / "runs" / "one", [2, 3, 4])  # update 3 was in no checkpoint
  written = list(
    (tmp_path / "runs" / "one").glob("wandb/offline-run-*/*.wandb")
  )
  assert len(written) == 2
  assert len({path.name for path in written}) == 1, "both lives are one run"
  # wandb's own process writes, and need not be done when we are.
  deadline = time.monotonic() + 60
  while not all(b"loss" in path.read_bytes() for path in written):
    assert time.monotonic() < deadline
    time.sleep(0.1)


def test_who_is_not_logged_in_is_told_so(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "online")
  monkeypatch.delenv("WANDB_API_KEY", raising=False)
  monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
  with pytest.raises(
    SophiaError, match=r"config\.log\.wandb='sophia': .*login"
  ):
    run(tmp_path / "run", [1])
