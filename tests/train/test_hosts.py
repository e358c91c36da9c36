"""Several processes, each with its share of every batch, are one run."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from sophia_jax.train import metrics
from tests.train import on_hosts, toy, training


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """What one process makes of it."""
  directory = tmp_path_factory.mktemp("alone")
  params = training.train(directory, on_hosts.CONFIG, shards=on_hosts.SHARDS)
  return directory, on_hosts.flat(jax.device_get(params))


def start(count, directory, cache):
  toy.write_images(directory / "images", 3)
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{s.getsockname()[1]}"
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
  command = [sys.executable, "-m", "tests.train.on_hosts", address, str(count)]
  return [
    subprocess.Popen(
      [*command, str(process), str(directory)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for process in range(count)
  ]


def end(processes, timeout=600):
  """What each said; none is left running."""
  try:
    said = [p.communicate(timeout=timeout)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  return said


@pytest.mark.parametrize("count", [2, 4])
def test_processes_learn_what_one_learns(count, alone, tmp_path, cache):
  directory, wanted = alone
  processes = start(count, tmp_path, cache)
  said = end(processes)
  assert [p.returncode for p in processes] == [0] * count, said
  found = dict(np.load(tmp_path / "params.npz"))
  assert found.keys() == wanted.keys()
  for name, value in found.items():
    np.testing.assert_allclose(value, wanted[name], atol=1e-4, err_msg=name)
  # Process 0 alone writes, and every update once.
  rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
  theirs = metrics.read(directory / "run" / "metrics.jsonl")
  assert [row["step"] for row in rows] == [row["step"] for row in theirs]
  for row, other in zip(rows, theirs, strict=True):
    assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert row["tokens"] == other["tokens"]


def test_all_end_when_one_dies_and_one_ends_what_two_began(
  alone, tmp_path, cache
):
  directory, wanted = alone
  processes = start(2, tmp_path, cache)
  saved = tmp_path / "run" / "checkpoints" / "3"
  deadline = time.monotonic() + 300
  while not saved.exists():
    assert all(p.poll() is None for p in processes), end(processes)
    assert time.monotonic() < deadline
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGKILL)
  said = end(processes, timeout=120)
  assert processes[0].returncode not in (0, None)
  assert said[0], "it says why"
  # On another number of processes, from their last checkpoint.
  params = training.train(tmp_path, on_hosts.CONFIG, shards=on_hosts.SHARDS)
  for name, value in on_hosts.flat(jax.device_get(params)).items():
    np.testing.assert_allclose(value, wanted[name], atol=1e-4, err_msg=name)
  rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
  theirs = metrics.read(directory / "run" / "metrics.jsonl")
  assert [row["step"] for row in rows] == [row["step"] for row in theirs]
