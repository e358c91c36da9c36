"""The index says what the records say, however they were appended."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.evals.browser import search
from sophia_jax.evals.browser.index import Catalogue
from sophia_jax.evals.browser.table import FINISHES, STATUSES, Place
from sophia_jax.rollout.records import Answer, Graded, encode, outline
from sophia_jax.rollout.store import Store
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
