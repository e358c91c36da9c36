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

from sophia_jax.rollout.records import (
  Head,
  Judgement,
  Reasoning,
  decode,
  encode,
  head,
)
from sophia_jax.rollout.store import Store
from sophia_jax.types import (
  Caption,
  Completion,
  FinishReason,
  Problem,
  SophiaError,
  Status,
  Trajectory,
  Verdict,
)

META = {"K": 2, "N": 2, "seed": 0, "config": "ab12"}
RIGHT = Verdict(status=Status.RIGHT, extracted="6")
WRONG = Verdict(status=Status.WRONG, extracted="5")

texts = st.one_of(
  st.text(max_size=60), st.sampled_from(['"}\n{', "\ud800", "\x00\u2028"])
)
completions = st.builds(
  Completion,
  request_id=texts,
  text=texts,
  token_ids=st.lists(st.integers(0, 2**31), max_size=5).map(tuple),
  logps=st.none() | st.lists(st.floats(allow_nan=False), max_size=5).map(tuple),
  finish_reason=st.sampled_from(FinishReason),
)
numbers = st.integers(0, 10**6)
captions = st.builds(
  Caption, problem_id=texts, k=numbers, completion=completions
)
key = {"problem_id": texts, "k": numbers, "n": numbers}
verdicts = st.builds(Verdict, status=st.sampled_from(Status), extracted=texts)
reasonings = st.builds(Reasoning, **key, completion=completions, length=numbers)
trajectories = st.builds(
  Trajectory, **key, completion=completions, verdict=verdicts, length=numbers
)
judgements = st.builds(
  Judgement, **key, of=st.integers(0, 2**32 - 1), verdict=verdicts
)
records = captions | reasonings | trajectories | judgements


def completion(text="red"):
  return Completion(
    request_id="r",
    text=text,
    token_ids=(5, 6),
    logps=(-0.1, -1e-30),
    finish_reason=FinishReason.STOP,
  )


def caption(problem="p", k=0, text="red"):
  return Caption(problem_id=problem, k=k, completion=completion(text))


def trajectory(problem="p", k=0, n=0, text="so 6"):
  return reasoning(problem, k, n, text).judged(RIGHT)


def reasoning(problem="p", k=0, n=0, text="so 6"):
  return Reasoning(
    problem_id=problem, k=k, n=n, completion=completion(text), length=9
  )


# ---------------------------------------------------------------------- records
@given(records)
def test_a_record_comes_back_as_it_was(record):
  line = encode(record)
  assert decode(line) == record
  assert line.count(b"\n") == 1 and line.isascii()


@given(records)
def test_a_line_begins_with_its_key(record):
  found = head(encode(record))
  is_caption = isinstance(record, Caption)
  verdict = getattr(record, "verdict", None)
  assert found == Head(
    problem_id=record.problem_id,
    k=record.k,
    n=None if is_caption else record.n,
    text=not isinstance(record, Judgement),
    status=verdict and verdict.status.value,
    crc=getattr(record, "of", found.crc),
  )


def test_what_is_absent_takes_no_place_and_is_not_zero():
  bare = Completion(
    request_id="r",
    text="t",
    token_ids=(),
    logps=None,
    finish_reason=FinishReason.LENGTH,
  )
  line = encode(Caption(problem_id="p", k=1, completion=bare))
  assert b"token_ids" not in line and b"logps" not in line
  assert decode(line).completion.logps is None


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
    store.append(caption(k=0), caption(k=1))
    store.append(trajectory(n=0))
    store.append()
    assert store.position == 3
  with Store(tmp_path / "s", META) as again:
    assert again.captions == store.captions
    assert again.trajectories == {("p", 0, 0): trajectory(n=0)}
    assert again.position == 3
    again.append(trajectory(n=1))
  assert Store(tmp_path / "s", read_only=True).position == 4


def test_the_first_of_two_equal_keys_counts(tmp_path):
  with (
    Store(tmp_path, META, shard="a") as a,
    Store(tmp_path, META, shard="b") as b,
  ):
    b.append(caption(text="second"))
    a.append(caption(text="first"), caption(text="never written"))
    a.append(caption(text="nor this"))
  again = Store(tmp_path, read_only=True)
  assert again.captions["p", 0].completion.text == "first"
  assert again.position == 1
  lines = b"".join(p.read_bytes() for p in tmp_path.glob("*.jsonl"))
  assert lines.count(b"\n") == 2


def test_groups_are_the_complete_problems_in_the_order_asked(tmp_path):
  problems = [Problem(id=i, question="", answer="6") for i in ("b", "p", "a")]
  with Store(tmp_path, META) as store:
    for name in ("a", "b"):
      for k in (1, 0):
        store.append(caption(name, k))
        store.append(*(trajectory(name, k, n) for n in (1, 0)))
    store.append(caption("p", 0), caption("p", 1), trajectory("p", 0, 0))
    groups = list(store.groups(problems))
  assert [g.problem.id for g in groups] == ["b", "a"]
  assert [c.k for c in groups[0].captions] == [0, 1]
  assert [[(t.k, t.n) for t in row] for row in groups[1].trajectories] == [
    [(0, 0), (0, 1)],
    [(1, 0), (1, 1)],
  ]


def test_truncated_at_every_byte_of_the_last_record(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(caption(k=0), trajectory(n=0))
  segment = tmp_path / "0.jsonl"
  whole = segment.read_bytes()
  first = whole.index(b"\n") + 1
  for end in range(first, len(whole)):
    segment.write_bytes(whole[:end])
    reader = Store(tmp_path, read_only=True)
    assert (len(reader.captions), len(reader.trajectories)) == (1, 0)
    assert segment.stat().st_size == end  # a reader changes nothing
    with Store(tmp_path, META) as writer:
      assert writer.position == 1
      assert segment.stat().st_size == first
      writer.append(trajectory(n=0))
    assert segment.read_bytes() == whole


@given(tail=st.binary(min_size=1, max_size=80))
def test_any_rubbish_at_the_end_is_dropped(tmp_path_factory, tail):
  path = tmp_path_factory.mktemp("store")
  with Store(path, META) as store:
    store.append(caption())
  segment = path / "0.jsonl"
  whole = segment.read_bytes()
  segment.write_bytes(whole + tail)
  with Store(path, META) as store:
    assert store.position == 1
    store.append(trajectory())
  assert segment.read_bytes() == whole + encode(trajectory())


def test_damage_in_the_middle_costs_the_damaged_record(tmp_path, caplog):
  meta = META | {"K": 5}
  with Store(tmp_path, meta) as store:
    store.append(*(caption(k=k) for k in range(5)))
  segment = tmp_path / "0.jsonl"
  lines = segment.read_bytes().splitlines(keepends=True)
  lines[2] = lines[2].replace(b"red", b"rot")
  segment.write_bytes(b"".join(lines))
  with Store(tmp_path, meta) as store:
    assert sorted(store.captions) == [("p", k) for k in (0, 1, 3, 4)]
    assert "passed over" in caplog.text
    store.append(caption(k=2))
  assert Store(tmp_path, read_only=True).position == 5


def test_a_reader_sees_what_a_writer_appends(tmp_path):
  meta = META | {"K": 10}
  with Store(tmp_path, meta) as writer:
    reader = Store(tmp_path, meta, read_only=True)
    for k in range(5):
      writer.append(caption(k=k))
      reader.refresh()
      assert reader.captions == writer.captions
    half = encode(caption(k=9))[:20]
    with (tmp_path / "0.jsonl").open("ab") as f:
      f.write(half)
    reader.refresh()
    with (tmp_path / "0.jsonl").open("ab") as f:
      f.write(encode(caption(k=9))[20:])
    reader.refresh()
    assert ("p", 9) in reader.captions


# -------------------------------------------------------- texts and then verdicts
def test_a_reasoning_is_kept_before_its_verdict(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(reasoning(n=0), reasoning(n=1))
    assert store.judge(reasoning(n=1), RIGHT) == trajectory(n=1)
    assert list(store.unverified("p")) == [reasoning(n=0)]
    assert list(store.unverified("q")) == []
    assert store.trajectories == {("p", 0, 1): trajectory(n=1)}
  with Store(tmp_path, META) as again:
    assert again.index.reasonings == 2 and len(again.trajectories) == 1
    again.append(reasoning(n=0, text="never written"))
    [left] = again.unverified("p")
    again.judge(left, WRONG)
    again.judge(left, RIGHT)  # the first counts
    assert again.trajectories["p", 0, 0] == reasoning(n=0).judged(WRONG)
    assert again.index.statuses[Status.RIGHT] == 1
    assert again.index.statuses[Status.WRONG] == 1
  assert (tmp_path / "0.jsonl").read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("second", ["1", "3"], ids=["before", "after"])
def test_another_shard_may_verify(tmp_path, second):
  """Its segment is read before or after the one that holds the text."""
  with Store(tmp_path, META, shard="2") as store:
    store.append(reasoning())
  with Store(tmp_path, META, shard=second) as store:
    store.judge(*store.unverified("p"), RIGHT)
  again = Store(tmp_path, read_only=True)
  assert again.trajectories == {("p", 0, 0): trajectory()}
  assert list(again.unverified("p")) == []


def test_a_verdict_holds_for_no_other_text(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(reasoning(text="so 6"))
    store.judge(reasoning(), RIGHT)
  segment = tmp_path / "0.jsonl"
  segment.write_bytes(segment.read_bytes().replace(b"so 6", b"so 7"))
  with Store(tmp_path, META) as store:
    assert store.position == 0 and not list(store.unverified("p"))
    store.append(reasoning(text="so 8"))
    assert [r.completion.text for r in store.unverified("p")] == ["so 8"]
    store.judge(reasoning(text="so 8"), WRONG)
  again = Store(tmp_path, read_only=True)
  assert again.trajectories["p", 0, 0].completion.text == "so 8"
  assert again.trajectories["p", 0, 0].verdict == WRONG


def test_many_threads_may_append(tmp_path):
  def write(k):
    for i in range(50):
      store.append(caption(f"p{i}", k), reasoning(f"p{i}", k))
      store.judge(reasoning(f"p{i}", k), RIGHT)

  meta = META | {"K": 8}
  with Store(tmp_path, meta) as store, ThreadPoolExecutor(8) as pool:
    list(pool.map(write, [*range(8), 0, 1]))
  again = Store(tmp_path, read_only=True)
  assert again.position == 2 * 8 * 50
  assert (tmp_path / "0.jsonl").read_bytes().count(b"\n") == 3 * 8 * 50


def test_texts_stay_on_the_disk(tmp_path):
  """Opening a store of 20 MB takes less than a tenth of that."""
  with Store(tmp_path, META) as store:
    for i in range(1000):
      store.append(caption(f"p{i}"), trajectory(f"p{i}", text="so " * 7000))
  size = (tmp_path / "0.jsonl").stat().st_size
  assert size > 20e6
  tracemalloc.start()
  again = Store(tmp_path, read_only=True)
  assert tracemalloc.get_traced_memory()[1] < size / 10
  tracemalloc.stop()
  assert again.position == 2000


# ----------------------------------------------------------------------- errors
def test_what_does_not_belong_is_refused_and_passed_over(tmp_path):
  with Store(tmp_path, META) as store:
    with pytest.raises(ValueError, match="2 x 2"):
      store.append(caption(k=2))
    with pytest.raises(ValueError, match="2 x 2"):
      store.append(trajectory(n=2))
    assert not store.position and not (tmp_path / "0.jsonl").stat().st_size
  (tmp_path / "1.jsonl").write_bytes(encode(caption(k=2)) + encode(caption()))
  reader = Store(tmp_path, read_only=True)
  assert list(reader.captions) == [("p", 0)]
  assert ("p", 2) not in reader.captions
  with pytest.raises(KeyError):
    reader.captions["p", 2]
  with pytest.raises(KeyError):
    reader.trajectories["p", 0, 0]


def test_a_segment_that_changes_after_it_was_opened(tmp_path):
  with Store(tmp_path, META) as store:
    store.append(caption())
  reader = Store(tmp_path, read_only=True)
  segment = tmp_path / "0.jsonl"
  segment.write_bytes(segment.read_bytes().replace(b"red", b"rot"))
  with pytest.raises(SophiaError, match=r"0\.jsonl: the record at byte 0 is"):
    reader.captions["p", 0]


def test_other_meta_is_refused_and_named(tmp_path):
  Store(tmp_path, META).close()
  with pytest.raises(SophiaError, match="made with seed=0, not 1"):
    Store(tmp_path, {**META, "seed": 1})
  with pytest.raises(SophiaError, match="made with config='ab12', not None"):
    Store(tmp_path, {"K": 2, "N": 2, "seed": 0}, read_only=True)
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
  with pytest.raises(SophiaError, match="needs meta with K and N"):
    Store(tmp_path / "new", {"seed": 0})
  with pytest.raises(SophiaError, match=r"shard '\.\./x'"):
    Store(tmp_path / "new", META, shard="../x")
  Store(tmp_path / "s", META).close()
  reader = Store(tmp_path / "s", read_only=True)
  with pytest.raises(SophiaError, match="not open for writing"):
    reader.append(caption())


@pytest.mark.parametrize(
  "header", ["{", "[]", '{"format": 99}', '{"format": 1}']
)
def test_a_foreign_header_is_named(tmp_path, header):
  (tmp_path / "store.json").write_text(header)
  with pytest.raises(SophiaError, match=r"store\.json"):
    Store(tmp_path, META)


# ---------------------------------------------------------------------- SIGKILL
WRITER = """
import sys
from sophia_jax.rollout.store import Store
from sophia_jax.types import *
path, shard = sys.argv[1:]
meta = {"K": 2, "N": 2, "seed": 0, "config": "ab12"}
with Store(path, meta, shard=shard) as store:
  i = 0
  while True:
    if (f"{shard}-{i}", 0) not in store.captions:
      store.append(Caption(problem_id=f"{shard}-{i}", k=0, completion=Completion(
        request_id="r", text="long " * 2000, token_ids=(1,) * 300, logps=None,
        finish_reason=FinishReason.STOP)))
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
  assert {(f"w-{i}", 0) for i in reported} <= set(store.captions)
  lines = (tmp_path / "w.jsonl").read_bytes().splitlines(keepends=True)
  whole = [r for r in map(decode, lines) if r is not None]
  assert len(whole) == len({r.problem_id for r in whole}) == store.position
  assert len(lines) - len(whole) <= 1  # the tail the last kill cut short
