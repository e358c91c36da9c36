"""Commands as processes of their own."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from sophia_jax import faults
from tests.launch.commands import ROOT


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
  """Environment of every command, with one compilation cache for all."""
  shared = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    shared = shared.parent
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
    "XDG_CACHE_HOME": str(shared / "xdg-cache"),
    # A third of the time to compile.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }


@pytest.fixture(scope="session")
def start(environment):
  """start("launch.run", "--flag=...", ..., XLA_FLAGS=...) -> the running command."""

  # A background job of a shell ignores Ctrl-C, and so would all it starts.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  # A test that is killed leaves none behind; not even one that it has stopped
  # (SIGSTOP), which no SIGTERM would end.
  with_us = (
    ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
  )

  def run(module, *arguments, **variables):
    return subprocess.Popen(
      [*with_us, sys.executable, "-m", module, *map(str, arguments)],
      cwd=ROOT,
      env=environment | variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return run


@pytest.fixture(scope="session")
def command(start):
  """command("launch.run", "--flag=...", ...) -> the finished process.

  A fault of the program fails the test, whatever it asks.
  """

  def run(module, *arguments):
    process = start(module, *arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode != faults.CODE, err
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess([], process.returncode, out, err)

  return run
