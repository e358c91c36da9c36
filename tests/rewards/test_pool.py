import dataclasses
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sophia_jax.rewards.extract import ANSWER_CHARS
from sophia_jax.rewards.known_answers import KNOWN_ANSWERS
from sophia_jax.rewards.pool import COMPARER, Verifier
from sophia_jax.rewards.report import SLOWEST
from sophia_jax.rewards.workers import MAX_WAIT
from sophia_jax.types import (
  ANSWER_TYPES,
  FinishReason,
  Problem,
  SophiaError,
  Status,
)

NAUGHTY = "pool_comparers:naughty"


def item(gold, answer, kind="math", reason=FinishReason.STOP, choices=()):
  problem = Problem(
    id="p", question="q", answer=gold, answer_type=kind, choices=choices
  )
  return f"so \\boxed{{{answer}}}", problem, reason


def statuses(verifier, items):
  return [v.status for v in verifier.verify(items)]


def alive(pid):
  """Returns whether a process runs; a zombie does not."""
  try:
    return (
      Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    )
  except FileNotFoundError:
    return False


def children():
  """Returns the pids of the workers that this process has started."""
  task = Path(f"/proc/{os.getpid()}/task")
  pids = " ".join(p.read_text() for p in task.glob("*/children")).split()
  return [int(pid) for pid in pids if b"rewards.worker" in cmdline(pid)]


def cmdline(pid):
  try:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
  except FileNotFoundError:
    return b""


@pytest.fixture(scope="module")
def verifier():
  with Verifier(workers=2, timeout_s=2, memory_mb=512) as v:
    yield v


def test_verdicts_come_in_order_with_what_was_extracted(verifier):
  answers = ["7", "8", r"\sqrt{49}", r"\sqrt{50}", "7.0"] * 20
  got = verifier.verify(item("7", a, "auto") for a in answers)
  assert [v.extracted for v in got] == answers
  right, wrong = Status.RIGHT, Status.WRONG
  assert [v.status for v in got] == [right, wrong, right, wrong, right] * 20


def test_every_status_is_told_apart(verifier):
  items = [
    item("x+1", "1+x"),
    item("x+1", "x-1"),
    item("x+1", r"\frac{"),
    ("no answer", item("x+1", "")[1], FinishReason.STOP),
    item("x+1", "1+x", reason=FinishReason.LENGTH),
    item("1", r"\binom{99999999}{49999999}"),
  ]
  assert statuses(verifier, items) == [
    Status.RIGHT,
    Status.WRONG,
    Status.UNPARSEABLE,
    Status.UNPARSEABLE,
    Status.TRUNCATED,
    Status.TIMED_OUT,
  ]


HANGING = (
  r"\binom{99999999}{49999999}",
  r"\binom{9^{99}}{9^{98}}",
  r"\int_0^1 \int_0^1 \int_0^1 \sin(x^y^z) dx dy dz",
)


@pytest.mark.parametrize("hostile", HANGING)
def test_a_formula_that_hangs_costs_one_answer(verifier, hostile):
  items = [item("x+1", f"x+1+{i}-{i}") for i in range(1, 20)]
  items.insert(7, item("1", hostile))
  got = statuses(verifier, items)
  assert got.pop(7) == Status.TIMED_OUT
  assert got == [Status.RIGHT] * 19


@pytest.mark.parametrize("deed", ["die", "crash", "swallow"])
def test_a_worker_that_dies_costs_one_answer(deed):
  with Verifier(workers=2, memory_mb=256, comparer=NAUGHTY) as v:
    items = [item(f"a^{i}", f"a^{i}+") for i in range(30)]
    items.insert(11, item("x", "\\" + deed))
    got = statuses(v, items)
    assert got.pop(11) == Status.TIMED_OUT
    assert got == [Status.WRONG] * 30


def test_a_hang_is_ended_after_the_time_limit():
  with Verifier(workers=1, timeout_s=0.5, comparer=NAUGHTY) as v:
    assert statuses(v, [item("x", "y")]) == [Status.WRONG]
    start = time.monotonic()
    assert statuses(v, [item("x", r"\hang")]) == [Status.TIMED_OUT]
    assert 0.5 <= time.monotonic() - start < 60
    assert statuses(v, [item("x", r"\hang")]) == [Status.TIMED_OUT]  # cached
    assert statuses(v, [item("z", "y")]) == [Status.WRONG]


def test_workers_killed_in_the_middle_and_while_idle():
  with Verifier(workers=2, comparer=NAUGHTY) as v:
    answers = [rf"\slow{i}" for i in range(60)]
    items = [item(str(i), a) for i, a in enumerate(answers)]
    got = []
    run = threading.Thread(target=lambda: got.extend(statuses(v, items)))
    run.start()
    while not children():
      time.sleep(0.02)
    time.sleep(1.0)
    os.kill(children()[0], signal.SIGKILL)
    run.join(60)
    assert len(got) == 60 and got.count(Status.TIMED_OUT) <= 1
    assert got.count(Status.RIGHT) == 60 - got.count(Status.TIMED_OUT)
    for idle in children():
      os.kill(idle, signal.SIGKILL)
    again = statuses(v, [item(str(i), rf"\slow{i}") for i in range(60, 70)])
    assert again.count(Status.RIGHT) >= 8  # at most one for each killed worker


def test_equal_comparisons_are_computed_once():
  with Verifier(workers=1, timeout_s=30, comparer=NAUGHTY) as v:
    items = [item("1", r"\slow1")] * 20_000
    start = time.monotonic()
    assert set(statuses(v, items)) == {Status.RIGHT}
    assert set(statuses(v, items)) == {Status.RIGHT}
    assert time.monotonic() - start < 60  # 40,000 x 0.05 s otherwise


def test_threads_share_a_verifier(verifier):
  got = {}

  def work(name):
    items = [item("x+1", f"x+{name}+{i}-{i}") for i in range(1, 15)]
    got[name] = statuses(verifier, items)

  threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3)]
  for t in threads:
    t.start()
  for t in threads:
    t.join(60)
  assert got[1] == [Status.RIGHT] * 14
  assert got[2] == got[3] == [Status.WRONG] * 14


def test_submit_waits_for_no_formula_that_hangs():
  with Verifier(workers=2, timeout_s=60, comparer=NAUGHTY) as v:
    v.verify([item("x", "y1"), item("x", "y2")])  # the workers are there
    hanging = v.submit(*item("x", r"\hang"))
    assert v.submit(*item("7", "7", "number")).result(0).status == Status.RIGHT
    quick = [v.submit(*item("z", f"z{i}")) for i in range(20)]
    assert {f.result(60).status for f in quick} == {Status.WRONG}
    assert not hanging.done()


def test_the_limit_is_of_processor_time():
  """Gives a worker that waits more time than one that computes."""
  with Verifier(workers=1, timeout_s=0.5, comparer=NAUGHTY) as v:
    v.verify([item("x", "y")])
    v.verify([item("x", r"\spin"), item("x", r"\hang")])
    slow = {s.extracted: s.seconds for s in v.report().slowest}
  assert slow[r"\hang"] >= 0.5 * MAX_WAIT


def test_callbacks_get_every_verdict_once():
  done = queue.SimpleQueue()
  with Verifier(workers=2, comparer=NAUGHTY) as v:
    for i in range(50):
      future = v.submit(*item("a", rf"\slow{i % 10}"))
      future.add_done_callback(lambda f, i=i: done.put((i, f.result().status)))
    got = dict(done.get(timeout=60) for _ in range(50))
  assert got == dict.fromkeys(range(50), Status.WRONG)
  assert done.empty()


def test_a_stream_is_drawn_as_there_is_room():
  drawn = []

  def items():
    for i in range(60):
      drawn.append(i)
      yield item(str(i), rf"\slow{i}")

  with Verifier(workers=1, backlog=5, comparer=NAUGHTY) as v:
    stream = v.verify_stream(items())
    first = next(stream)
    assert len(drawn) <= 5 + 2  # one to be drawn, one that came back
    rest = dict([first, *stream])
  assert sorted(rest) == list(range(60))
  assert {verdict.status for verdict in rest.values()} == {Status.RIGHT}


def test_the_report_counts_and_names_the_slowest():
  with Verifier(workers=2, timeout_s=1, comparer=NAUGHTY) as v:
    assert v.report().lines() == ["0 answers verified (none), 0/s"]
    items = [item("7", "7", "number"), item("7", "8", "number")]
    items += [item("x", rf"\slow{i}") for i in range(15)]
    items += [item("x", r"\hang"), item("x", "x", reason=FinishReason.LENGTH)]
    v.verify(items)
    report = v.report()
  assert report.answers == len(items)
  assert report.statuses == {
    Status.RIGHT: 1,
    Status.WRONG: 16,
    Status.UNPARSEABLE: 0,
    Status.TIMED_OUT: 1,
    Status.TRUNCATED: 1,
  }
  assert report.rate > 0 and len(report.slowest) == SLOWEST
  assert report.slowest[0].extracted == r"\hang"
  assert report.slowest[0].seconds >= 1
  assert "1 timed_out" in report.lines()[0] and "p: " in report.lines()[1]


def test_what_is_in_flight_when_it_is_closed_is_an_error():
  with Verifier(workers=1, timeout_s=60, comparer=NAUGHTY) as v:
    futures = [v.submit(*item("x", r"\hang")), v.submit(*item("x", "y"))]
  for future in (*futures, v.submit(*item("x", "z"))):
    with pytest.raises(SophiaError, match="closed"):
      future.result(10)


def test_an_extractor_of_ones_own(verifier):
  with Verifier(extractor=lambda text, problem: text[::-1] or None) as v:
    problem = item("12", "", "number")[1]
    got = v.verify((t, problem, FinishReason.STOP) for t in ("21", "12", ""))
  assert [g.status for g in got] == [
    Status.RIGHT,
    Status.WRONG,
    Status.UNPARSEABLE,
  ]


def test_a_tolerance_reaches_the_workers(verifier):
  text, problem, reason = item("1.41", r"\sqrt{2}", "olympiad")
  near = dataclasses.replace(problem, tolerance=(0.01,))
  got = verifier.verify([(text, near, reason), (text, problem, reason)])
  assert [g.status for g in got] == [Status.RIGHT, Status.WRONG]


def test_hostile_responses(verifier):
  problem = item("x+1", "")[1]
  texts = [
    "\\boxed{" * 10_000,
    "\\boxed{" + "{" * 5000 + "}" * 5001,
    "A" * 10**6,
    "\\boxed{" + "9" * 10**6 + "}",
    "\\boxed{%s%n{0.__class__}}",
    "\\boxed{<script>alert(1)</script>}",
    "\\boxed{\ud800\x00}",
    "\\boxed{__import__('os').system('false')}",
    "\\boxed{nan}",
    "\\boxed{9**9**9}",
    "<think>" * 100_000,
  ]
  got = verifier.verify((t, problem, FinishReason.STOP) for t in texts)
  assert Status.RIGHT not in {v.status for v in got}
  assert max(len(v.extracted) for v in got) <= ANSWER_CHARS


def test_self_check_passes_and_has_right_and_wrong_of_every_type(verifier):
  verifier.self_check()
  for kind in ANSWER_TYPES:
    wanted = {status for k, _, _, _, status in KNOWN_ANSWERS if k == kind}
    assert {"right", "wrong"} <= wanted


def test_self_check_refuses_and_names_the_case():
  with (
    Verifier(comparer="pool_comparers:generous") as v,
    pytest.raises(SophiaError, match=r"\(x-1\)\^2.*came out right, not wrong"),
  ):
    v.self_check()


def test_a_worker_that_cannot_start_is_an_error():
  with (
    Verifier(comparer="pool_comparers:never_starts") as v,
    pytest.raises(SophiaError, match="does not start"),
  ):
    v.verify([item("x", "y")])


@pytest.mark.parametrize(
  "arguments",
  [{"workers": 0}, {"timeout_s": 0}, {"memory_mb": 0}, {"backlog": 0}],
)
def test_arguments_must_be_positive(arguments):
  with pytest.raises(SophiaError, match="must be positive"):
    Verifier(**arguments)


def test_an_unknown_answer_type_names_the_problem(verifier):
  with pytest.raises(SophiaError, match=r"problem 'p'.*'essay'"):
    verifier.verify([item("a", "a", "essay")])


def test_workers_start_with_the_first_formula_and_end_with_close():
  before = set(children())
  with Verifier(workers=2) as v:
    items = [item("7", "7", "number"), item("a", "(A)", "choice")]
    assert statuses(v, items) == [Status.RIGHT] * 2
    assert set(children()) == before
    v.verify([item("x+1", "1+x")])
    assert set(children()) > before
  assert set(children()) == before


SCRIPT = """
import os, signal, time
from sophia_jax.rewards.pool import COMPARER, Verifier
from sophia_jax.types import FinishReason, Problem
v = Verifier(workers=2, timeout_s=1, comparer="pool_comparers:naughty")
p = Problem(id="p", question="", answer="x", answer_type="math")
v.verify([("\\\\boxed{y%d}" % i, p, FinishReason.STOP) for i in range(40)])
print(*[w.process.pid for w in v._pool._workers], flush=True)
v.submit("\\\\boxed{\\\\hang}", p, FinishReason.STOP)
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_worker_outlives_a_killed_parent_not_even_a_hanging_one(tmp_path):
  """And none of them says a word."""
  here = Path(__file__)
  paths = os.pathsep.join([str(here.parents[2]), str(here.parent)])
  said = tmp_path / "stderr"
  with said.open("w") as stderr:
    run = subprocess.run(
      [sys.executable, "-c", SCRIPT],
      stdout=subprocess.PIPE,
      stderr=stderr,
      env={**os.environ, "PYTHONPATH": paths},
      text=True,
    )
  pids = run.stdout.split()
  assert run.returncode == -signal.SIGKILL and pids
  end = time.monotonic() + 30
  while any(map(alive, pids)) and time.monotonic() < end:
    time.sleep(0.1)
  assert not any(map(alive, pids))
  assert not said.read_text()


@pytest.mark.parametrize(
  "command",
  [
    ("rewards.worker", COMPARER, "512", "5"),
    ("planning.sql_worker", "512", "5"),
  ],
)
def test_a_worker_that_starts_after_its_parent_has_ended_is_silent(command):
  ours, theirs = multiprocessing.Pipe()
  ours.close()
  module, *rest = command
  done = subprocess.run(
    [sys.executable, "-m", f"sophia_jax.{module}", str(theirs.fileno()), *rest],
    pass_fds=(theirs.fileno(),),
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
  ("kind", "gold", "accepted", "answer", "status"),
  [
    ("auto", "24/7", ("3.429",), "3.429", "right"),
    ("auto", "24/7", ("3.429",), r"\frac{24}{7}", "right"),
    ("auto", "24/7", ("3.429",), "3.43", "wrong"),
    ("string", "cat", ("kitten", "a cat"), "kitten", "right"),
    ("string", "cat", ("kitten", "a cat"), "dog", "wrong"),
    ("math", "x^2+1", ("(x+1)^2-2x", "y"), "1+x^2", "right"),
    ("math", "x^2", ("x^3", "x^4"), "x*x*x", "right"),
    ("math", "x^2", ("x^3", "x^4"), "x^5", "wrong"),
  ],
)
def test_every_accepted_answer_is_right(kind, gold, accepted, answer, status):
  text, problem, reason = item(gold, answer, kind)
  problem = dataclasses.replace(problem, accepted=accepted)
  with Verifier(workers=1) as verifier:
    first, again = verifier.verify([(text, problem, reason)] * 2)
    assert first == again
    assert first.status == status
    assert verifier.report().answers == 2
