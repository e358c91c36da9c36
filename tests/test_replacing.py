"""Files: replaced whole, appended whole, locked by one."""

import errno
import json
import multiprocessing
import os
import resource
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax import files
from sophia_jax.types import SophiaError


def names(path):
  return sorted(p.name for p in path.iterdir())


# ----------------------------------------------------------------- replacement
def test_a_file_is_replaced_whole(tmp_path):
  path = tmp_path / "new" / "a.txt"
  files.write_text(path, "é\n")
  files.write_text(path, "ü\n")
  assert path.read_bytes() == "ü\n".encode()
  files.write_bytes(path, b"\x00\xff")
  assert path.read_bytes() == b"\x00\xff"
  files.write_json(path, {"a": 1})
  assert json.loads(path.read_text()) == {"a": 1}
  assert names(path.parent) == ["a.txt"]


def test_an_exception_leaves_the_old_file_alone(tmp_path):
  path = tmp_path / "a"
  path.write_text("old")
  with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
    file.write("new")
    1 / 0  # noqa: B018
  assert path.read_text() == "old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_honoured(tmp_path, umask):
  before = os.umask(umask)
  try:
    files.write_text(tmp_path / "a", "")
    files.write_jsonl(tmp_path / "b", [])
    files.append_jsonl(tmp_path / "c", {})
    os.close(files.claim(tmp_path / "d", "it", "wait"))
  finally:
    os.umask(before)
  modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
  assert modes == {0o666 & ~umask}


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
  """The order that a power cut cannot break: data, rename, directory."""
  order = []
  synced, replaced = os.fsync, os.replace

  def fsync(fd):
    order.append("dir" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
    synced(fd)

  def replace(*args):
    order.append("rename")
    replaced(*args)

  monkeypatch.setattr(os, "fsync", fsync)
  monkeypatch.setattr(os, "replace", replace)
  files.write_text(tmp_path / "a", "x")
  assert order == ["file", "rename", "dir"]


def test_a_full_disk_is_one_line(tmp_path):
  path = tmp_path / "a"
  path.write_text("old")
  with (
    pytest.raises(SophiaError, match=r"a: No space left.*; free the disk$"),
    files.replacing(path),
  ):
    raise OSError(errno.ENOSPC, "No space left on device")
  assert path.read_text() == "old" and names(tmp_path) == ["a"]


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path):
  path = tmp_path / "a.jsonl"
  files.append_jsonl(path, {"a": 1})
  before = path.read_bytes()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 4, hard))
  try:
    with pytest.raises(SophiaError, match=r"a.jsonl: File too large; free"):
      files.append_jsonl(path, {"a": 2})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert path.read_bytes() == before


def test_a_folder_that_is_a_file(tmp_path):
  (tmp_path / "a").write_text("")
  with pytest.raises(SophiaError, match=r"a/b: .*; write elsewhere"):
    files.write_text(tmp_path / "a" / "b", "")
  with pytest.raises(SophiaError, match=r"a/b: .*; use another file"):
    files.JsonLines(tmp_path / "a" / "b", (), "line", "")


# ------------------------------------------------------------------ JSON lines
def test_records_are_written_and_read(tmp_path):
  path = tmp_path / "a.jsonl"
  records = [{"q": "几?"}, {"q": 1.5}]
  assert files.write_jsonl(path, iter(records)) == 2
  assert "几" in path.read_text(encoding="utf-8")
  assert [line.values for line in files.read_jsonl(path, ("q",))] == records
  with pytest.raises(ValueError, match="JSON"):
    files.write_jsonl(path, [{"q": float("nan")}])
  files.write_jsonl(path, [{"q": float("inf")}], nan=True)
  (line,) = files.read_jsonl(path)
  assert line.values == {"q": float("inf")}


@given(st.lists(st.text()), st.integers(0, 30))
def test_a_line_that_was_cut_short_is_removed(tmp_path_factory, texts, cut):
  path = tmp_path_factory.mktemp("cut") / "a.jsonl"
  for text in texts:
    files.append_jsonl(path, {"t": text})
  whole = path.read_bytes() if texts else b""
  path.write_bytes(whole[: max(0, len(whole) - cut)])
  kept = path.read_bytes().count(b"\n")
  with files.JsonLines(path, ("t",), "text", "remove it") as lines:
    there = [line.values["t"] for line in lines]
    assert there == texts[:kept]
    place = lines.append({"t": "new"})
    assert lines.read(*place) == {"t": "new"}
    found = [*lines]
  assert [line.values["t"] for line in found] == [*texts[:kept], "new"]
  assert (found[-1].start, found[-1].size) == place


def test_a_line_of_another_form_is_named_and_stays(tmp_path):
  path = tmp_path / "a.jsonl"
  for bad in ("{", "[]", "3", '{"b": 1}', "\x00"):
    path.write_text(f'{{"a": 1}}\n{bad}\n{{"a"')
    before = path.read_bytes()
    with (
      files.JsonLines(path, ("a",), "number", "remove the line") as lines,
      pytest.raises(SophiaError, match=r"jsonl:2: not a number; remove the l"),
    ):
      list(lines)
    assert path.read_bytes() == before


# ----------------------------------------------------------------------- locks
def _claimed(path, link):
  try:
    os.close(files.claim(path, "the store", "stop it"))
    link.send("")
  except SophiaError as e:
    link.send(str(e))


def test_one_process_claims_a_file(tmp_path):
  path = tmp_path / "a.lock"
  fd = files.claim(path, "the store", "stop it")
  spawn = multiprocessing.get_context("spawn")
  ours, theirs = spawn.Pipe()
  other = spawn.Process(target=_claimed, args=(path, theirs))
  other.start()
  other.join()
  os.close(fd)
  assert ours.recv() == (
    f"{path}: process {os.getpid()} is writing the store; stop it"
  )
  os.close(files.claim(path, "the store", "stop it"))


def test_two_holders_need_the_same_terms(tmp_path):
  path = tmp_path / "a.lock"
  with files.shared(path, "2 shards"):
    with files.shared(path, "2 shards"):
      pass
    with (
      pytest.raises(SophiaError, match="in 2 shards, not in 3 shards"),
      files.shared(path, "3 shards"),
    ):
      pass
  with files.shared(path, "3 shards"), pytest.raises(SophiaError):
    files.claim(path, "it", "stop it")
