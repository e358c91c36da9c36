"""The store: what was written is there, once, whatever happens to the files."""

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.data.problems import problem_digest
from sophia_jax.rollout.records import (
  Answer,
  Finished,
  Graded,
  Head,
  decode,
  encode,
  head,
  identity,
)
from sophia_jax.rollout.store import Store, check_header, round_directory
from sophia_jax.types import (
  Completion,
  FinishReason,
  Grade,
  Problem,
  SophiaError,
  Status,
  Verdict,
)

META = {"recipe": [2, 2], "seed": 0, "config": "ab12"}
RIGHT = Grade(
  verdict=Verdict(status=Status.RIGHT, extracted="6"), rewards={"accuracy": 1.0}
)
WRONG = Grade(
  verdict=Verdict(status=Status.WRONG, extracted="5"), rewards={"accuracy": 0.0}
)

texts = st.one_of(
  st.text(max_size=60), st.sampled_from(['"}\n{', "\ud800", "\x00\u2028"])
)
numbers = st.integers(0, 10**6)
completions = st.builds(
  Completion,
  request_id=texts,
  text=texts,
  token_ids=st.lists(st.integers(0, 2**31), max_size=5).map(tuple),
  logps=st.none() | st.lists(st.floats(allow_nan=False), max_size=5).map(tuple),
  finish_reason=st.sampled_from(FinishReason),
  versions=st.lists(st.tuples(numbers, numbers), max_size=2).map(tuple),
)
key = {"problem_id": texts, "digest": texts}
paths = st.lists(numbers, min_size=1, max_size=3).map(tuple)
verdicts = st.builds(Verdict, status=st.sampled_from(Status), extracted=texts)
answers = st.builds(
  Answer,
  **key,
  path=paths,
  turn=numbers,
  role=texts,
  completion=completions,
  length=numbers,
)
rewards = st.dictionaries(texts, st.floats(allow_nan=False), max_size=2)
graded = st.builds(
  Graded,
  **key,
  path=paths,
  of=completions.map(identity),
  grade=st.builds(Grade, verdict=verdicts, rewards=rewards),
)
finished = st.builds(Finished, **key, records=numbers)
records = answers | graded | finished


def completion(text="red"):
  return Completion(
    request_id="r",
    text=text,
    token_ids=(5, 6),
    logps=(-0.1, -1e-30),
    finish_reason=FinishReason.STOP,
    versions=((3, 1), (4, 1)),
  )


def answer(problem="p", *path, text="red", **place):
  return Answer(
    problem_id=problem,
    digest="d",
    path=path or (0,),
    completion=completion(text),
    length=9,
    **place,
  )


def grade(problem="p", *path, text="red", grade=RIGHT):
  return Graded(
    problem_id=problem,
    digest="d",
    path=path or (0,),
    of=identity(completion(text)),
    grade=grade,
  )


def held(store, problem="p", paths=range(10)):
  """The k of the stored answers (k,)."""
  return [k for k in paths if store.answer(problem, "d", (k,))]


# ---------------------------------------------------------------------- records
@given(records)
def test_a_record_comes_back_as_it_was(record):
  line = encode(record)
  assert decode(line) == record
  assert line.count(b"\n") == 1 and line.isascii()


@given(records)
def test_a_line_begins_with_its_key(record):
  is_grade = isinstance(record, Graded)
  assert head(encode(record)) == Head(
    problem_id=record.problem_id,
    digest=record.digest,
    key=getattr(record, "key", 0),
    status=record.grade.verdict.status.value if is_grade else None,
    finished=getattr(record, "records", None),
  )


def test_every_part_of_a_key_counts():
  first = answer("p", 1, 2, turn=3, role="policy")
  others = [
    answer("p", 1, turn=3, role="policy"),
    answer("p", 12, turn=3, role="policy"),
    answer("p", 1, 2, turn=0, role="policy"),
    answer("p", 1, 2, turn=3, role="teacher"),
    grade("p", 1, 2),
    grade("p", 1, 2, text="blue"),
  ]
  assert len({r.key for r in (first, *others)}) == len(others) + 1


def test_what_is_absent_takes_no_place_and_is_not_zero():
  bare = Completion(
    request_id="r",
    text="t",
    token_ids=(),
    logps=None,
    finish_reason=FinishReason.LENGTH,
  )
  line = encode(
    Answer(problem_id="p", digest="d", path=(1,), completion=bare, length=1)
  )
  for name in (b"token_ids", b"logps", b"versions"):
    assert name not in line
  assert decode(line).completion == bare


@given(records, st.data())
def test_one_wrong_byte_is_noticed(record, data):
  line = encode(record)
  at = data.draw(st.integers(0, len(line) - 1))
  byte = data.draw(st.integers(0, 255).filter(lambda b: b != line[at]))
  damaged = line[:at] + bytes([byte]) + line[at + 1 :]
  assert decode(damaged) is None and head(damaged) is None


# ------------------------------------------------------------------------ store
def test_append_and_open_again(tmp_path):
  with Store(tmp_path / "s", META) as store:
    store.append(answer("p", 0), answer("p", 1))
    store.append(grade("p", 0))
    store.append()
    assert store.position == 3
  with Store(tmp_path / "s", META) as again:
    assert again.answer("p", "d", (1,)) == answer("p", 1)
    assert again.grade("p", "d", (0,), completion()) == RIGHT
    assert again.grade("p", "d", (0,), completion("blue")) is None
    assert again.grade("p", "d", (1,), completion()) is None
    assert again.answer("p", "d", (0,), 1) is None
    assert again.answer("p", "d", (0,), 0, "teacher") is None
    assert again.answer("p", "other", (0,)) is None
    assert again.position == 3
    again.append(answer("p", 2))
  reader = Store(tmp_path / "s", read_only=True)
  assert reader.position == 4 and not reader.writable
  assert reader.index.statuses[Status.RIGHT] == 1 == reader.index.grades


def test_the_first_of_two_equal_keys_counts(tmp_path):
  with (
    Store(tmp_path, META, shard="a") as a,
    Store(tmp_path, META, shard="b") as b,
  ):
    b.append(answer(text="second"))
    a.append(answer(text="first"), answer(text="never written"))
    a.append(answer(text="nor this"))
  again = Store(tmp_path, read_only=True)
  assert again.answer("p", "d", (0,)).completion.text == "first"
  assert again.position == 1
  lines = b"".join(p.read_bytes() for p in tmp_path.glob("*.jsonl"))
  assert lines.count(b"\n") == 2


def test_a_group_is_complete_while_all_of_it_is_there(tmp_path):
  problem = Problem(id="p", question="What?", answer="6")
  digest = problem_digest(problem)
  place = {"problem_id": "p", "digest": digest, "path": (0,)}
  said = Answer(**place, completion=completion(), length=2)
  graded = Graded(**place, of=identity(completion()), grade=RIGHT)
  with Store(tmp_path, META) as store:
    store.append(said, graded)
    assert not store.complete(problem)
    store.finish("p", digest)
    store.finish("p", digest)
    assert store.complete(problem)
  segment = tmp_path / "0.jsonl"
  whole = segment.read_bytes()
  assert whole.count(b"\n") == 3
  assert Store(tmp_path, read_only=True).complete(problem)
  # Reworded, or its answer corrected: the records are another problem's.
  for change in ({"question": "Which?"}, {"answer": "7"}):
    other = Problem(**{"id": "p", "question": "What?", "answer": "6"} | change)
    assert not store.complete(other)
    assert store.answer("p", problem_digest(other), (0,)) is None
  segment.write_bytes(whole.replace(b"red", b"rot"))
  with Store(tmp_path, META) as damaged:
    assert damaged.position == 1 and not damaged.complete(problem)
    damaged.append(said)
    assert damaged.complete(problem)


def test_truncated_at_every_byte_of_the_last_record(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(answer(), grade())
  segment = tmp_path / "0.jsonl"
  whole = segment.read_bytes()
  first = whole.index(b"\n") + 1
  for end in range(first, len(whole)):
    segment.write_bytes(whole[:end])
    reader = Store(tmp_path, read_only=True)
    assert (reader.index.answers, reader.index.grades) == (1, 0)
    assert segment.stat().st_size == end  # a reader changes nothing
    with Store(tmp_path, META) as writer:
      assert writer.position == 1
      assert segment.stat().st_size == first
      writer.append(grade())
    assert segment.read_bytes() == whole


@given(tail=st.binary(min_size=1, max_size=80))
def test_any_rubbish_at_the_end_is_dropped(tmp_path_factory, tail):
  path = tmp_path_factory.mktemp("store")
  with Store(path, META) as store:
    store.append(answer())
  segment = path / "0.jsonl"
  whole = segment.read_bytes()
  segment.write_bytes(whole + tail)
  with Store(path, META) as store:
    assert store.position == 1
    store.append(grade())
  assert segment.read_bytes() == whole + encode(grade())


def test_damage_in_the_middle_costs_the_damaged_record(tmp_path, caplog):
  with Store(tmp_path, META) as store:
    store.append(*(answer("p", k) for k in range(5)))
  segment = tmp_path / "0.jsonl"
  lines = segment.read_bytes().splitlines(keepends=True)
  lines[2] = lines[2].replace(b"red", b"rot")
  segment.write_bytes(b"".join(lines))
  with Store(tmp_path, META) as store:
    assert held(store) == [0, 1, 3, 4]
    assert "left out" in caplog.text
    store.append(answer("p", 2))
  assert held(Store(tmp_path, read_only=True)) == [0, 1, 2, 3, 4]


def test_a_reader_sees_what_a_writer_appends(tmp_path):
  with Store(tmp_path, META) as writer:
    reader = Store(tmp_path, META, read_only=True)
    for k in range(5):
      writer.append(answer("p", k))
      reader.refresh()
      assert held(reader) == held(writer) == list(range(k + 1))
    half = encode(answer("p", 9))[:20]
    with (tmp_path / "0.jsonl").open("ab") as f:
      f.write(half)
    reader.refresh()
    with (tmp_path / "0.jsonl").open("ab") as f:
      f.write(encode(answer("p", 9))[20:])
    reader.refresh()
    assert held(reader)[-1] == 9


def test_a_grade_holds_for_no_other_text(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(answer(text="so 6"), grade(text="so 6"))
  segment = tmp_path / "0.jsonl"
  lines = segment.read_bytes().splitlines(keepends=True)
  segment.write_bytes(lines[0].replace(b"so 6", b"so 7") + lines[1])
  with Store(tmp_path, META) as store:
    assert store.answer("p", "d", (0,)) is None
    store.append(answer(text="so 8"))
    assert store.grade("p", "d", (0,), completion("so 8")) is None
    store.append(grade(text="so 8", grade=WRONG))
    assert store.grade("p", "d", (0,), completion("so 8")) == WRONG
    store.append(grade(text="so 8"))  # the first counts
    assert store.grade("p", "d", (0,), completion("so 8")) == WRONG


def test_each_round_has_a_store(tmp_path):
  assert round_directory(tmp_path, 17) == tmp_path / "rounds" / "000017"
  with Store(round_directory(tmp_path, 17), META | {"round": 17}) as store:
    store.append(answer())
  with pytest.raises(SophiaError, match="made with round=17, not 18"):
    Store(round_directory(tmp_path, 17), META | {"round": 18})


def test_many_threads_may_append(tmp_path):
  def write(k):
    for i in range(50):
      store.append(answer(f"p{i}", k), grade(f"p{i}", k))

  with Store(tmp_path, META) as store, ThreadPoolExecutor(8) as pool:
    list(pool.map(write, [*range(8), 0, 1]))
  again = Store(tmp_path, read_only=True)
  assert again.position == 2 * 8 * 50
  assert (tmp_path / "0.jsonl").read_bytes().count(b"\n") == 2 * 8 * 50


def test_texts_stay_on_the_disk(tmp_path):
  """Opening a store of 20 MB takes less than a tenth of that."""
  with Store(tmp_path, META) as store:
    for i in range(1000):
      store.append(answer(f"p{i}", 0), answer(f"p{i}", 1, text="so " * 7000))
  size = (tmp_path / "0.jsonl").stat().st_size
  assert size > 20e6
  tracemalloc.start()
  again = Store(tmp_path, read_only=True)
  assert tracemalloc.get_traced_memory()[1] < size / 10
  tracemalloc.stop()
  assert again.position == 2000


def test_a_record_takes_few_bytes_of_memory(tmp_path):
  """16 for its key and place; the rest is shared by those of a problem."""
  with Store(tmp_path, META) as store:
    for i in range(50):
      for k in range(72):
        store.append(answer(f"p{i}", k, text=""))
  tracemalloc.start()
  again = Store(tmp_path, read_only=True)
  assert tracemalloc.get_traced_memory()[0] < 32 * again.position
  tracemalloc.stop()


# ----------------------------------------------------------------------- errors
def test_a_segment_that_changes_after_it_was_opened(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(answer())
  reader = Store(tmp_path, read_only=True)
  segment = tmp_path / "0.jsonl"
  segment.write_bytes(segment.read_bytes().replace(b"red", b"rot"))
  with pytest.raises(SophiaError, match=r"0\.jsonl: the record at byte 0 has"):
    reader.answer("p", "d", (0,))


def test_other_meta_is_refused_and_named(tmp_path):
  Store(tmp_path, META).close()
  with pytest.raises(SophiaError, match="made with seed=0, not 1"):
    Store(tmp_path, {**META, "seed": 1})
  with pytest.raises(SophiaError, match="made with config='ab12', not None"):
    Store(tmp_path, {"recipe": [2, 2], "seed": 0}, read_only=True)
  assert Store(tmp_path, read_only=True).meta == META
  assert Store(tmp_path).meta == META  # a writer may take it as it is


def test_one_writer_for_each_segment(tmp_path):
  with Store(tmp_path, META):
    with pytest.raises(SophiaError, match=f"process {os.getpid()} is writing"):
      Store(tmp_path, META)
    Store(tmp_path, META, shard="other").close()
  Store(tmp_path, META).close()


def test_mistakes_are_one_line(tmp_path):
  with pytest.raises(SophiaError, match="no store here"):
    Store(tmp_path / "none", read_only=True)
  with pytest.raises(SophiaError, match="needs meta"):
    Store(tmp_path / "new")
  with pytest.raises(SophiaError, match=r"shard '\.\./x'"):
    Store(tmp_path / "new", META, shard="../x")
  Store(tmp_path / "s", META).close()
  reader = Store(tmp_path / "s", read_only=True)
  with pytest.raises(SophiaError, match="not open for writing"):
    reader.append(answer())


@pytest.mark.parametrize(
  ("header", "said"),
  [
    ("{", "not JSON"),
    ("[]", "not a store of format 2"),
    ('{"format": 1, "meta": {"K": 8, "N": 8}}', "sample into a new workdir"),
    ('{"format": 2}', "no meta"),
  ],
)
def test_a_foreign_header_is_named(tmp_path, header, said):
  (tmp_path / "store.json").write_text(header)
  with pytest.raises(SophiaError, match=rf"store\.json: .*{said}"):
    Store(tmp_path, META)


# ---------------------------------------------------------------------- SIGKILL
WRITER = """
import sys
from sophia_jax.rollout.records import Answer
from sophia_jax.rollout.store import Store
from sophia_jax.types import *
path, shard = sys.argv[1:]
meta = {"recipe": [2, 2], "seed": 0, "config": "ab12"}
with Store(path, meta, shard=shard) as store:
  i = 0
  while True:
    if not store.answer(f"{shard}-{i}", "d", (0,)):
      said = Completion(
        request_id="r", text="long " * 2000, token_ids=(1,) * 300, logps=None,
        finish_reason=FinishReason.STOP)
      store.append(Answer(problem_id=f"{shard}-{i}", digest="d", path=(0,),
        completion=said, length=1))
      print(i, flush=True)
    i += 1
"""


def _killed_writer(path, shard, after_s):
  """Records that a writer reported before it was killed."""
  process = subprocess.Popen(
    [sys.executable, "-c", WRITER, str(path), shard],
    stdout=subprocess.PIPE,
    cwd=Path(__file__).parents[2],
    text=True,
  )
  process.stdout.readline()  # it is writing now; this one counts too
  time.sleep(after_s)
  process.send_signal(signal.SIGKILL)
  reported = process.stdout.read().splitlines()
  process.wait()
  return [int(line) for line in reported]


def test_a_killed_writer_loses_nothing_it_reported_and_doubles_nothing(
  tmp_path,
):
  reported = set()
  for _ in range(3):
    fresh = _killed_writer(tmp_path, "w", random.uniform(0.02, 0.2))
    assert not reported & set(fresh)
    reported |= set(fresh)
  store = Store(tmp_path, META)
  assert all(store.answer(f"w-{i}", "d", (0,)) for i in reported)
  lines = (tmp_path / "w.jsonl").read_bytes().splitlines(keepends=True)
  whole = [r for r in map(decode, lines) if r is not None]
  assert len(whole) == len({r.problem_id for r in whole}) == store.position
  assert len(lines) - len(whole) <= 1  # the tail the last kill cut short


def test_a_store_may_have_been_made_with_more_than_is_asked(tmp_path):
  path = tmp_path / "store"
  check_header(path, {"seed": 1})  # none is fine
  Store(path, {"seed": 0, "prompts": {"a": "x", "b": "y"}}).close()
  check_header(path, {"seed": 0, "prompts": {"a": "x"}})
  for other in ({"a": "z"}, {"c": "x"}):
    with pytest.raises(SophiaError, match=r"made with prompts\.[ac]="):
      check_header(path, {"seed": 0, "prompts": other})
  with pytest.raises(SophiaError, match="made with seed=0, not 1"):
    check_header(path, {"seed": 1, "prompts": {}})
