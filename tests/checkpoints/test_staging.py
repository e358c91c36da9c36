"""Directories that are replaced as a whole, and what killed writers leave."""

import os
import subprocess
import sys

import pytest

from sophia_jax.checkpoints import staging
from sophia_jax.types import SophiaError

CONFIG = '{"model_type": "internvl"}'


def write(directory, text):
  with staging.replacing(directory) as work:
    (work / "config.json").write_text(CONFIG)
    (work / "text").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_directory_is_replaced(exchange, tmp_path, monkeypatch):
  if not exchange:  # as on a file system that cannot
    monkeypatch.setattr(staging, "_exchange", lambda a, b: False)
  for text in ("first", "second"):
    write(tmp_path / "out", text)
    assert (tmp_path / "out/text").read_text() == text
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(mask, tmp_path):
  before = os.umask(mask)
  try:
    write(tmp_path / "out", "text")
  finally:
    os.umask(before)
  modes = [(tmp_path / n).stat().st_mode & 0o777 for n in ("out", "out/text")]
  assert modes == [0o777 & ~mask, 0o666 & ~mask]


def test_after_an_error_it_is_as_it_was(tmp_path):
  write(tmp_path / "out", "first")
  with (
    pytest.raises(SophiaError, match="not written"),
    staging.replacing(tmp_path / "out") as work,
  ):
    (work / "text").write_text("half")
    raise OSError(28, "No space left on device")
  assert (tmp_path / "out/text").read_text() == "first"
  assert os.listdir(tmp_path) == ["out"]


def test_two_names_change_places(tmp_path):
  for name in "ab":
    (tmp_path / name).mkdir()
    (tmp_path / name / name).touch()
  if not staging._exchange(tmp_path / "a", tmp_path / "b"):
    pytest.skip("this file system cannot")
  assert os.listdir(tmp_path / "a") == ["b"]
  assert not staging._exchange(tmp_path / "a", tmp_path / "none")


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path):
  killed = (
    "import os, sys, signal\n"
    "from sophia_jax.checkpoints import staging\n"
    "with staging.replacing(sys.argv[1]) as work:\n"
    "  (work / 'part').touch()\n"
    "  os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  line = [sys.executable, "-c", killed, str(tmp_path / "out")]
  assert subprocess.run(line, check=False).returncode == -9
  (left,) = tmp_path.iterdir()
  (tmp_path / ".other.x").mkdir()  # of another directory
  with staging.replacing(tmp_path / "out") as work:
    (work / "config.json").write_text(CONFIG)
    staging._clear_left(tmp_path / "out")  # as another writer would
    assert work.exists() and not left.exists()
  assert sorted(os.listdir(tmp_path)) == [".other.x", "out"]
