"""Commands as processes of their own."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from sophia_jax import faults
from tests.launch import forks
from tests.launch.commands import ROOT

LATE = {"XLA_FLAGS"}
"""Variables that are read when a command first uses a device."""


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
  """Environment of every command."""
  shared = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    shared = shared.parent
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
    "XDG_CACHE_HOME": str(shared / "xdg-cache"),
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

  python = [*with_us, sys.executable]
  forked = forks.Forks(python, environment, str(ROOT)) if forks.HERE else None

  def run(module, *arguments, **variables):
    # jax reads variables of its own when it is imported.
    if forked and module.startswith("launch.") and variables.keys() <= LATE:
      given = [str(each) for each in arguments]
      return forked.start(module, given, environment | variables)
    return subprocess.Popen(
      [*python, "-m", module, *map(str, arguments)],
      cwd=ROOT,
      env=environment | variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  yield run
  if forked:
    forked.close()


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
