"""The index says what the records say, however they were appended."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.data.problems import load_problems
from sophia_jax.evals.browser import index, saved, search
from sophia_jax.evals.browser.index import Catalogue
from sophia_jax.evals.browser.table import FINISHES, STATUSES, Place
from sophia_jax.rollout.records import Answer, Graded, encode, outline
from sophia_jax.rollout.store import Store
from sophia_jax.runs.browsing import Workdir
from sophia_jax.types import (
  Completion,
  FinishReason,
  Grade,
  SophiaError,
  Status,
  Verdict,
)
from tests.evals.browser import browsed

TEXTS = st.text(st.characters(codec=None), max_size=40)
KEY = {"problem_id": 'p "1"\n', "digest": "d"}


def catalogue(path: Path) -> Catalogue:
  made = Catalogue(lambda: [Place(name="a/trajectories", directory=path)])
  made.refresh()
  return made


@given(TEXTS, TEXTS, st.integers(0, 9), st.lists(st.integers(1, 3), max_size=3))
def test_an_outline_is_what_decoding_says(text, name, path, versions):
  said = Completion(
    request_id="r",
    text=text,
    token_ids=(1, 2),
    logps=(-0.5, -1.5),
    finish_reason=FinishReason.STOP,
    versions=tuple((v, 2) for v in versions),
  )
  key = {"problem_id": name, "digest": text[:5], "path": (path, 1)}
  line = encode(Answer(**key, completion=said, length=7, turn=2, role=name))
  found = outline(line)
  assert (found.path, found.turn, found.length) == (b"%d,1" % path, 2, 7)
  start, end = found.text
  whole = b'["%s","%s"]' % (line[start:end], found.role)
  assert search.json.loads(whole) == [text, name]
  assert (b"[" in found.tail) == bool(versions)
  grade = Grade(
    verdict=Verdict(status=Status.WRONG, extracted=text), rewards={name: 1.0}
  )
  found = outline(encode(Graded(**key, of="ab", grade=grade)))
  assert (found.detail, found.role) == (b"wrong", b"")
  assert search.json.loads(found.tail) == {name: 1.0}
  assert outline(line[:-3]) is None
  assert outline(line.replace(b'"length":7', b'"length":8')) is None


def test_the_columns_are_those_of_the_records(tmp_path):
  made = catalogue(browsed.sophia_run(tmp_path) / "trajectories")
  table = made.table()
  assert (table.rows, table.groups, made.ready) == (4 * 8, 4, True)
  for g in range(4):
    rows = table.of_group(g)
    right = min(g, 3) + 1
    assert (table.status[rows] == STATUSES.index("right")).sum() == right
    assert (table.status[rows] < 0).sum() == 2
    assert table.mean[g] == pytest.approx(right / 6)
    assert (table.low[g], table.longest[g]) == (0.0, 12)
    records = list(made.records(table, g))
    assert len(records) == 8 + 6
    answers = {r.path: r for r in records if isinstance(r, Answer)}
    order = np.arange(rows.start, rows.stop)
    for row, text in zip(order, made.texts(table, order)):
      answer = answers[table.paths[table.path[row]]]
      assert search.json.loads(b'"%s"' % text) == answer.completion.text
      assert table.length[row] == answer.length
      assert table.roles[table.role[row]] == answer.role


def test_what_is_appended_is_found_and_a_line_in_the_making_waits(tmp_path):
  with Store(tmp_path / "s", {}) as store:
    store.append(*browsed.attempt(KEY, (0,), True))
    made = catalogue(tmp_path / "s")
    assert made.table().rows == 1
    before = made.table()
    made.refresh()
    assert made.table() is before
    store.append(*browsed.attempt(KEY, (1,), False))
  segment = tmp_path / "s" / "0.jsonl"
  line = encode(browsed.attempt(KEY, (2,), True)[0])
  with segment.open("ab") as f:
    f.write(line[:40])
  made.refresh()
  assert (made.table().rows, made.ready) == (2, True)
  with segment.open("ab") as f:
    f.write(line[40:])
  made.refresh()
  table = made.table()
  assert table.rows == 3
  assert table.status.tolist() == [
    STATUSES.index("right"),
    STATUSES.index("wrong"),
    -1,
  ]
  assert table.version.tolist() == [1, 1, 1]


def test_a_damaged_line_is_left_out_and_a_changed_one_refused(tmp_path):
  with Store(tmp_path / "s", {}) as store:
    for n in range(3):
      store.append(*browsed.attempt(KEY, (n,), True))
  segment = tmp_path / "s" / "0.jsonl"
  lines = segment.read_bytes().splitlines(keepends=True)
  lines[2] = lines[2].replace(b"answer", b"ANSWER")
  segment.write_bytes(b"".join(lines))
  made = catalogue(tmp_path / "s")
  assert [made.table().paths[p] for p in made.table().path] == [(0,), (2,)]
  with segment.open("r+b") as f:
    f.seek(len(lines[0]) - 20)
    f.write(b"x")
    os.fsync(f.fileno())
  with pytest.raises(SophiaError, match="has changed"):
    list(made.records(made.table(), 0))


def test_turns_are_one_rollout_and_an_absent_answer_gives_way(tmp_path):
  def answer(role, text, finish=FinishReason.STOP, **values):
    said = Completion(
      request_id="", text=text, token_ids=(), logps=None, finish_reason=finish
    )
    return Answer(**KEY, role=role, completion=said, length=4, **values)

  with Store(tmp_path / "s", {}) as store:
    store.append(
      answer("policy", "b", path=(0,), turn=1),
      answer("policy", "a", path=(0,), turn=0),
      answer("policy", "c", path=(1,)),
      answer("teacher", "none", FinishReason.ABSENT, path=(1,)),
      answer("scorer", "0.5", path=(0,)),
    )
  made = catalogue(tmp_path / "s")
  table = made.table()
  assert table.length.tolist() == [8, 4]
  assert list(made.texts(table, np.arange(2))) == [b"b", b"c"]
  assert {table.roles[r] for r in table.role} == {"policy"}
  assert [FINISHES[f] for f in table.finish] == ["stop", "stop"]


# ---------------------------------------------------------------- a kept index
SAME = (
  "group",
  "path",
  "role",
  "length",
  "finish",
  "version",
  "status",
  "text",
)
SAME_OF_GROUPS = ("place", "problem", "first", "records", "mean", "longest")


@pytest.fixture
def small(monkeypatch):
  """Even the smallest index is kept."""
  monkeypatch.setattr(index, "SAVE_BYTES", 1)


def opened(*workdirs):
  sources = [Workdir(str(w), letter) for w, letter in zip(workdirs, "ab")]
  made = Catalogue(
    lambda: [p for s in sources for p in s.places()],
    {s.letter: s.path for s in sources},
  )
  made.refresh()
  return made


def fresh(*workdirs):
  """The index of workdirs from the segments alone."""
  for workdir in workdirs:
    saved.forget(workdir)
  return opened(*workdirs)


def assert_same(one, other):
  a, b = one.table(), other.table()
  assert (a.names, a.roles, a.paths) == (b.names, b.roles, b.paths)
  assert [p.name for p in a.places] == [p.name for p in b.places]
  for name in (*SAME, *SAME_OF_GROUPS):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  for name, part in a.rewards.items():
    np.testing.assert_array_equal(part, b.rewards[name])
  rows = np.arange(a.rows)
  assert list(one.texts(a, rows)) == list(other.texts(b, rows))
  for g in range(a.groups):
    assert list(one.records(a, g)) == list(other.records(b, g))


def again(monkeypatch, *workdirs):
  """The index of workdirs that are opened again, and the lines read for it."""
  lines, seen = [], index.outline
  with monkeypatch.context() as patch:
    patch.setattr(index, "outline", lambda x: lines.append(x) or seen(x))
    return opened(*workdirs), len(lines)


def test_a_kept_index_is_the_one_that_was_made(tmp_path, small, monkeypatch):
  made = browsed.sophia_run(tmp_path / "s"), browsed.grpo_run(tmp_path / "g")
  first = opened(*made)
  found, read = again(monkeypatch, *made)
  assert read == 0 and found.ready
  assert_same(found, first)


def test_workdirs_in_another_order_have_other_numbers(
  tmp_path, small, monkeypatch
):
  made = browsed.sophia_run(tmp_path / "s"), browsed.grpo_run(tmp_path / "g")
  wanted = sorted(lines_of(opened(*made)))
  found, read = again(monkeypatch, *made[::-1])
  assert read == 0 and sorted(lines_of(found)) == wanted
  alone, read = again(monkeypatch, made[1])
  assert read == 0 and alone.table().roles == ("policy",)
  assert sorted(lines_of(alone)) == sorted(lines_of(fresh(made[1])))


def lines_of(made):
  """What is known of each rollout, without the names of workdirs."""
  table = made.table()
  texts = made.texts(table, np.arange(table.rows))
  for row, (g, text) in enumerate(zip(table.group, texts)):
    place = table.places[table.place[g]].name[1:]
    path, status = table.paths[table.path[row]], int(table.status[row])
    yield place, table.names[table.problem[g]], path, status, text


def test_what_was_appended_since_is_read_alone(tmp_path, small, monkeypatch):
  workdir = browsed.grpo_run(tmp_path)
  opened(workdir)
  meta = browsed.META | {"round": 1}
  with Store(workdir / "rounds" / "000001", meta) as store:
    store.append(*browsed.attempt(KEY, (7,), True))
  file = workdir / "data" / "problems.jsonl"
  browsed.add_round(workdir, 2, load_problems(file))
  found, read = again(monkeypatch, workdir)
  assert read == 2 + 4 * (4 * 2 + 1)
  assert found.table().rows == 3 * 16 + 1
  assert sorted(lines_of(found)) == sorted(lines_of(fresh(workdir)))


@pytest.mark.parametrize(
  "change",
  [
    lambda text: text[:-400],
    lambda text: text.replace(b"thought 0.1", b"THOUGHT 0.1", 1),
    lambda text: b"\n" + text + text,
  ],
)
def test_an_index_of_a_segment_that_has_changed_is_not_used(
  tmp_path, small, change
):
  workdir = browsed.sophia_run(tmp_path)
  opened(workdir)
  segment = workdir / "trajectories" / "0.jsonl"
  before = segment.stat().st_mtime_ns
  segment.write_bytes(change(segment.read_bytes()))
  os.utime(segment, ns=(before, before + 1))
  assert_same(opened(workdir), fresh(workdir))


def test_a_store_that_was_removed_is_not_found_in_the_index(tmp_path, small):
  workdir = browsed.grpo_run(tmp_path)
  opened(workdir)
  shutil.rmtree(workdir / "rounds" / "000000")
  assert_same(opened(workdir), fresh(workdir))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """A workdir and its index: as bytes, and as it was made."""
  workdir = browsed.grpo_run(tmp_path_factory.mktemp("kept"), rounds=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(index, "SAVE_BYTES", 1)
    made = opened(workdir)
  return workdir, saved.location(workdir).read_bytes(), made


@settings(max_examples=10)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
def test_a_damaged_index_is_made_again(kept, share, bit, cut):
  workdir, whole, wanted = kept
  place = int(share * len(whole))
  broken = bytearray(whole[:place] if cut else whole)
  if not cut:
    broken[place] ^= 1 << bit
  saved.location(workdir).write_bytes(broken)
  assert saved.read(workdir) is None
  assert_same(opened(workdir), wanted)


def test_an_index_of_another_version_is_not_used(kept, monkeypatch):
  workdir, whole, _ = kept
  saved.location(workdir).write_bytes(whole)
  assert saved.read(workdir) is not None
  monkeypatch.setattr(saved, "FORMAT", saved.FORMAT + 1)
  assert saved.read(workdir) is None


def test_nothing_is_written_where_it_must_not_be(tmp_path, small, monkeypatch):
  workdir = browsed.grpo_run(tmp_path)
  (workdir / ".browse").write_text("a file")
  assert opened(workdir).ready
  (workdir / ".browse").unlink()
  monkeypatch.setattr(saved.os, "access", lambda path, mode: False)
  assert opened(workdir).ready and not saved.location(workdir).exists()


def test_a_small_store_keeps_no_index(tmp_path):
  workdir = browsed.grpo_run(tmp_path)
  assert opened(workdir).ready and not saved.location(workdir).exists()


def test_an_index_that_proves_wrong_is_removed(tmp_path, small):
  workdir = browsed.sophia_run(tmp_path)
  made = opened(workdir)
  segment = workdir / "trajectories" / "0.jsonl"
  segment.write_bytes(segment.read_bytes().replace(b"caption", b"CAPTION"))
  with pytest.raises(SophiaError, match="start the browser again"):
    list(made.records(made.table(), 0))
  assert not saved.location(workdir).exists()


# ------------------------------------------------------------------------ search
def test_a_search_reads_the_texts_as_they_were_said(tmp_path):
  made = catalogue(browsed.sophia_run(tmp_path, 9) / "trajectories")
  table = made.table()

  def hits(pattern, regex=False):
    found = search.search(made, table, pattern, regex)
    assert found.searched == table.rows
    return int(found.mask.sum())

  assert hits("THOUGHT") == 9 * 6
  for hostile in browsed.HOSTILE[:8]:
    assert hits(hostile) == 8
  assert hits("surrogate") == 8
  assert hits(r"thought [01]\.2", regex=True) == 9 * 2
  assert hits("thought [01].2") == 0
  assert hits(r"^caption \d", regex=True) == 9 * 2


def test_no_pattern_takes_long_or_breaks_it():
  texts = ["a" * 50_000 + "!"] * 20
  for pattern in ("(a+)+$", "(a|a)*b", "(.*)*x", "(a?){60}a{60}$"):
    search.matches(texts, pattern, True)
  for pattern in ("(", r"(a)\1", "(?=a)", "[z-a]", "a" * 501):
    with pytest.raises(SophiaError):
      search.matches(texts, pattern, True)


def test_a_search_reads_in_pieces(tmp_path, monkeypatch):
  made = catalogue(browsed.sophia_run(tmp_path) / "trajectories")
  table = made.table()
  for size in (1, 50, 333):
    monkeypatch.setattr(search, "CHUNK", size)
    found = search.search(made, table, "thought 1.2", False)
    assert (found.searched, found.mask.sum()) == (table.rows, 4)


def test_a_search_ends_at_its_time_limit(tmp_path):
  made = catalogue(browsed.sophia_run(tmp_path) / "trajectories")
  found = search.search(made, made.table(), "thought", False, limit_s=0)
  assert (found.searched, found.mask.any()) == (0, False)
