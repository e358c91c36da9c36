"""Trackers, for real: event files, Weights & Biases offline, trackio where it is installed."""

import contextlib
import resource
import sqlite3
import struct
import sys
import time

import pytest
import wandb
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from sophia_jax.train.trackers import LogConfig, check, trackers
from sophia_jax.types import SophiaError

WANDB = LogConfig(tensorboard=False, wandb="sophia")


TRACKIO = LogConfig(tensorboard=False, trackio="sophia")


def run(directory, steps, config=WANDB):
  (tracker,) = trackers(directory, config, steps[0] - 1)
  for step in steps:
    tracker.log(step, {"loss": 1 / step})
  tracker.close()


@pytest.fixture(autouse=True)
def settings_of_its_own():
  """wandb keeps those of its first use for the process."""
  yield
  wandb.teardown()


EVENTS = LogConfig()


def events(path):
  """The events of a file, whose checksums are those of TensorFlow's records."""
  data, found = path.read_bytes(), []
  while data:
    (size,) = struct.unpack("<Q", data[:8])
    parts = data[:8], data[12 : 12 + size]
    sums = struct.unpack("<I", data[8:12])
    sums += struct.unpack("<I", data[12 + size : 16 + size])
    assert sums == tuple(map(masked_crc32c, parts))
    found.append(event_pb2.Event.FromString(parts[1]))
    data = data[16 + size :]
  return found


def test_event_files_are_those_that_tensorboard_reads(tmp_path):
  run(tmp_path, [3, 4], EVENTS)
  (path,) = (tmp_path / "tensorboard").iterdir()
  version, start, *steps = events(path)
  assert version.file_version == "brain.Event:2"
  # What an earlier life wrote from here on is hidden.
  assert start.step == 3 and start.session_log.status == 1
  assert [event.step for event in steps] == [3, 4]
  (value,) = steps[1].summary.value
  assert (value.tag, value.simple_value) == ("loss", 0.25)


def test_a_full_disk_is_one_line(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  (tracker,) = trackers(tmp_path, EVENTS, 0)
  (path,) = (tmp_path / "tensorboard").iterdir()
  whole = path.read_bytes()
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 9, hard))
  try:
    with pytest.raises(SophiaError, match=rf"{path}: .*; free the disk$"):
      tracker.log(1, {"loss": 1.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert path.read_bytes() == whole
  tracker.log(1, {"loss": 1.0})
  assert len(events(path)) == 3


def test_a_resumed_run_is_one_run_of_wandb(tmp_path, monkeypatch):
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


def test_a_missing_login_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "online")
  monkeypatch.delenv("WANDB_API_KEY", raising=False)
  monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
  with pytest.raises(
    SophiaError, match=r"config\.log\.wandb='sophia': .*login"
  ):
    run(tmp_path / "run", [1])
  with pytest.raises(SophiaError, match=r"wandb='sophia': .*WANDB_MODE=off"):
    check(WANDB)
  monkeypatch.setenv("WANDB_MODE", "offline")
  check(WANDB)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line(
  tmp_path, monkeypatch, name
):
  monkeypatch.setitem(sys.modules, name, None)
  config = LogConfig(tensorboard=False, **{name: "sophia"})
  for opened in (check, lambda config: run(tmp_path / "run", [1], config)):
    with pytest.raises(SophiaError) as error:
      opened(config)
    assert str(error.value) == (
      f"config.log.{name}='sophia': pip install {name}, or leave it empty"
    )


def test_a_resumed_run_is_one_run_of_trackio(tmp_path, monkeypatch):
  # The folder of its projects is read at import.
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
  pytest.importorskip("trackio", reason="trackio is not installed")
  run(tmp_path / "runs" / "one", [1, 2], TRACKIO)
  run(tmp_path / "runs" / "one", [3], TRACKIO)
  (path,) = (tmp_path / "store").glob("*.db")
  with contextlib.closing(sqlite3.connect(path)) as database:
    query = "select run_name, step from metrics order by step"
    rows = database.execute(query).fetchall()
  names, steps = zip(*rows)
  assert steps == (1, 2, 3) and len(set(names)) == 1
  assert names[0].startswith("runs-one-")
