"""SIGTERM as a flag, locks that end with it, and the last resort of a command."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch import cli, evaluate
from sophia_jax import faults, files, stopping
from sophia_jax.types import SophiaError


@pytest.fixture
def watched():
  before = signal.getsignal(signal.SIGTERM)
  with stopping.watched():
    yield
  assert signal.getsignal(signal.SIGTERM) is before
  assert not stopping.requested()


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_a_flag(watched):
  stopping.check()
  terminate()
  assert stopping.requested()
  with (
    pytest.raises(stopping.Preempted, match=r"^SIGTERM; stored in W$"),
    stopping.explained("stored in W"),
  ):
    stopping.check()
  with stopping.watched():  # a session inside a command
    assert stopping.requested()
  assert stopping.requested()


def test_other_threads_change_no_handler():
  before = signal.getsignal(signal.SIGTERM)
  seen = []

  def work():
    with stopping.watched():
      seen.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


HOLDER = """
import sys, time
from pathlib import Path
from sophia_jax import files
with files.exclusive(Path(sys.argv[1]), "work"):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
  """A process that holds the lock tmp_path/lock, and would for ever."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.communicate()


def test_a_process_that_waits_for_others_ends_by_sigterm(
  watched, other, tmp_path
):
  """Also where the others are stopped, and would never let it continue."""
  other.send_signal(signal.SIGSTOP)
  timer = threading.Timer(0.3, terminate)
  timer.start()
  with (
    pytest.raises(stopping.Preempted, match="waited for setup"),
    files.exclusive(tmp_path / "lock", "setup"),
  ):
    pass


def test_one_command_writes_a_workdir(other, tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_LEFT_S", 0.1)
  with (
    pytest.raises(SophiaError, match="is writing this workdir; wait"),
    files.held(tmp_path / "lock", "this workdir", "wait"),
  ):
    pass
  other.kill()
  other.wait()
  with files.held(tmp_path / "lock", "this workdir", "wait", share=True):
    with files.held(tmp_path / "lock", "this workdir", "wait", share=True):
      pass
    with (
      pytest.raises(SophiaError, match=f"process {os.getpid()} is writing"),
      files.held(tmp_path / "lock", "this workdir", "wait"),
    ):
      pass


def test_children_of_a_killed_process_are_waited_for(tmp_path):
  fd = files.claim(tmp_path / "lock", "work", "wait")
  timer = threading.Timer(0.3, os.close, [fd])
  timer.start()
  start = time.monotonic()
  with files.held(tmp_path / "lock", "work", "wait"):
    assert time.monotonic() > start


EARLY = """
import os, signal, sys
sys.argv[0] = "-m"  # as while `python -m launch.run` imports its package
import launch
os.kill(os.getpid(), signal.SIGTERM)
from sophia_jax import stopping
print(stopping.requested())
"""


def test_sigterm_during_start_up_is_a_flag():
  done = subprocess.run(
    [sys.executable, "-c", EARLY], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


RELEASED = EARLY + "stopping.release()\nprint('alive')\n"


def test_a_command_that_saves_nothing_ends_at_once():
  done = subprocess.run(
    [sys.executable, "-c", RELEASED],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == -signal.SIGTERM
  assert "alive" not in done.stdout and not done.stderr


# --------------------------------------------------------------- the last resort
def raised(error):
  def command():
    raise error

  return command


def test_a_fault_is_one_line_with_a_report(monkeypatch, tmp_path, capsys):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  code = cli._last_resort(raised(IndexError("line\nline " * 200)))
  (line,) = capsys.readouterr().err.splitlines()
  assert code == faults.CODE and len(line) < 900
  assert line.startswith("error: IndexError: line line")
  (report,) = tmp_path.rglob("*.txt")
  assert str(report) in line
  text = report.read_text()
  assert "Traceback" in text and "in command" in text and "command:" in text


def test_a_fault_on_a_full_disk_is_still_one_line(monkeypatch, capsys):
  def full(*_):
    raise SophiaError("no room")

  monkeypatch.setattr(files, "write_text", full)
  assert cli._last_resort(raised(KeyError("x"))) == faults.CODE
  (line,) = capsys.readouterr().err.splitlines()
  assert "no report can be written: no room" in line


@pytest.mark.parametrize(
  "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR]
)
def test_trouble_with_a_file_is_the_users(number, capsys):
  error = OSError(number, os.strerror(number), "/data/x")
  assert cli._last_resort(raised(error)) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"error: /data/x: {os.strerror(number)}; ")


def test_an_interrupt_is_one_line(capsys):
  assert cli._last_resort(raised(KeyboardInterrupt())) == 130
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_line_quotes_at_most_200_characters(capsys):
  error = SophiaError(
    f"--x={'9' * 400}: {'a' * 5000!r} is too long; shorten it"
  )
  assert cli._last_resort(raised(error)) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert len(line) < 500 and line.endswith("is too long; shorten it")


@pytest.mark.parametrize(
  "name", ["../../evil", "a/b", "/tmp/x", "..", ".", "", ".x", "a" * 200, "a\n"]
)
def test_a_name_is_no_path(name):
  with pytest.raises(SophiaError, match="--name="):
    evaluate._check_name(name)


def test_names():
  for name in (None, "before", "InternVL3-8B", "v1.2 greedy", "评测"):
    evaluate._check_name(name)
