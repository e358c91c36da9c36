"""Verifies many responses, as they come or all at once.

Extraction and the cheap comparers run in the caller: their cost is linear in a
few hundred characters. Formulas go to workers (`rewards.workers`), the only
processes that import sympy, started when the first formula comes.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import NamedTuple, Self

from sophia_jax.rewards.extract import extract_answer
from sophia_jax.rewards.known_answers import KNOWN_ANSWERS
from sophia_jax.rewards.report import Ledger, Report
from sophia_jax.rewards.verify import Comparison, compare_cheap
from sophia_jax.rewards.workers import Compared, Workers
from sophia_jax.types import (
  ANSWER_TYPES,
  FinishReason,
  Problem,
  SophiaError,
  Status,
  Verdict,
)

CACHE_SIZE = 100_000
COMPARER = "sophia_jax.rewards.verify:compare_slow"

Item = tuple[str, Problem, FinishReason]
Extractor = Callable[[str, Problem], str | None]


class _Asked(NamedTuple):
  """A caller waiting for a comparison in flight."""

  future: Future[Verdict]
  problem_id: str
  counted: bool = True
  """Whether the verdict is one of a response, not of one accepted answer."""


class Verifier:
  """Verdicts of responses. Thread-safe; a context manager.

  Args:
    workers: processes at most; none before the first formula.
    timeout_s: processor seconds of one comparison, then its worker is killed;
      on a machine so busy that it gets none, after MAX_WAIT times as long.
    memory_mb: what a worker may allocate above what its imports need.
    comparer: "module:function" that a worker calls with each task.
    backlog: formulas that may wait; `submit` blocks while there are more.
    extractor: (response, problem) -> answer or None. A benchmark with other
      rules gives them here; `lambda answer, problem: answer` where an LLM
      has extracted the answers already.
    upstream_compatible: `olympiad` repeats the quirks of OpenBMB's judge; its
      extraction is `extractor=openbmb_text.extract_upstream`.
  """

  def __init__(
    self,
    workers: int = 2,
    timeout_s: float = 5.0,
    memory_mb: int = 1024,
    comparer: str = COMPARER,
    backlog: int = 256,
    extractor: Extractor = extract_answer,
    upstream_compatible: bool = False,
  ):
    if min(workers, memory_mb, backlog) < 1 or timeout_s <= 0:
      raise SophiaError(
        f"rewards: workers={workers}, timeout_s={timeout_s}, "
        f"memory_mb={memory_mb}, backlog={backlog}: all must be positive"
      )
    self._pool = Workers(workers, timeout_s, memory_mb, comparer)
    self._extract = extractor
    self._upstream = upstream_compatible
    self._own_rules = comparer == COMPARER and not upstream_compatible
    self._cache: OrderedDict[Comparison, Status] = OrderedDict()
    self._waiting: dict[Comparison, list[_Asked]] = {}
    self._lock = threading.Lock()
    self._room = threading.Semaphore(backlog)
    self._ledger = Ledger()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends every worker. Comparisons in flight raise SophiaError."""
    self._pool.close()

  # ------------------------------------------------------------------ verifying
  def submit(
    self, text: str, problem: Problem, reason: FinishReason
  ) -> Future[Verdict]:
    """Returns a future of the verdict; a formula that hangs delays no other.

    Set at once where no formula has to be compared. Otherwise a thread of the
    verifier sets the result, soon after `timeout_s` of a worker at the latest.
    Callbacks (`add_done_callback`) run there and must be short: put the
    verdict into a queue, submit nothing. While `backlog` formulas wait,
    `submit` blocks.

    A response cut off by length is TRUNCATED without being read. A comparison
    that ran out of time or memory, or whose worker died, is TIMED_OUT.

    Raises:
      SophiaError: the problem's answer_type is unknown. The future raises it
        where workers do not start or the verifier is closed.
    """
    self._ledger.begin()
    asked = _Asked(Future(), problem.id)
    try:
      read = self._read(text, problem, reason)
    except SophiaError:
      self._ledger.end(None, problem.id, 0.0)
      raise
    if isinstance(read, Verdict):
      self._answer(asked, read)
    else:
      self._decide(read, problem.accepted, asked)
    return asked.future

  def verify(self, items: Iterable[Item]) -> list[Verdict]:
    """Returns a verdict for each (response, problem, finish reason), in order.

    Raises the errors of `submit`.
    """
    futures = [self.submit(*item) for item in items]
    return [future.result() for future in futures]

  def verify_stream(
    self, items: Iterable[Item]
  ) -> Iterator[tuple[int, Verdict]]:
    """Yields (index of the item, verdict) in the order of completion.

    Waits for `backlog` formulas at most. Items are drawn in the caller's
    thread, when a verdict is asked for: where drawing one may take long, use
    `submit`.
    """
    done: SimpleQueue[tuple[int, Future[Verdict]]] = SimpleQueue()
    waiting = 0
    for index, item in enumerate(items):
      future = self.submit(*item)
      future.add_done_callback(functools.partial(_put, done, index))
      waiting += 1
      while not done.empty():
        number, future = done.get()
        waiting -= 1
        yield number, future.result()
    for _ in range(waiting):
      number, future = done.get()
      yield number, future.result()

  def report(self) -> Report:
    """Returns counts by status, answers per second and the slowest, so far."""
    return self._ledger.report()

  def self_check(self) -> None:
    """Checks that answers with known verdicts get them.

    Raises:
      SophiaError: names the first answer with another verdict.
    """
    items = [
      (
        f"**Final answer**\n\\boxed{{{answer}}}",
        Problem(
          id=str(i),
          question="",
          answer=gold,
          answer_type=answer_type,
          choices=choices,
        ),
        FinishReason.STOP,
      )
      for i, (answer_type, choices, gold, answer, _) in enumerate(KNOWN_ANSWERS)
    ]
    verdicts = self.verify(items)
    for (answer_type, _, gold, answer, want), got in zip(
      KNOWN_ANSWERS, verdicts
    ):
      if got.status != want:
        raise SophiaError(
          f"rewards: self-check failed, refusing to run: answer {answer!r} to "
          f"gold {gold!r} ({answer_type}) came out {got.status}, not {want}; "
          "reinstall requirements.txt or raise timeout_s and memory_mb"
        )
    self._ledger = Ledger()  # `report` is about what follows

  # ----------------------------------------------------------------- one answer
  def _read(
    self, text: str, problem: Problem, reason: FinishReason
  ) -> Comparison | Verdict:
    """Returns what to compare, or a verdict if there is nothing to compare."""
    if problem.answer_type not in ANSWER_TYPES:
      raise SophiaError(
        f"problem {problem.id!r}: answer_type {problem.answer_type!r} is not "
        f"one of {', '.join(ANSWER_TYPES)}"
      )
    if reason is FinishReason.LENGTH:
      return Verdict(status=Status.TRUNCATED)
    answer = self._extract(text, problem)
    if answer is None:
      return Verdict(status=Status.UNPARSEABLE)
    return Comparison(
      problem.answer_type,
      problem.answer,
      answer,
      problem.choices,
      problem.tolerance,
      self._upstream,
      problem.question if self._own_rules else "",
    )

  def _known(self, question: Comparison) -> Verdict | Comparison:
    """Returns the verdict, or the question if a worker is needed for it."""
    with self._lock:
      status = self._cache.get(question)
      if status is not None:
        self._cache.move_to_end(question)
    if status is None:
      status = compare_cheap(question)
      if status is None:
        return question
    return Verdict(status=status, extracted=question.answer)

  def _decide(
    self, question: Comparison, accepted: Sequence[str], asked: _Asked
  ) -> None:
    """Compares with the gold answer and with every other accepted answer."""
    golds = (question.gold, *accepted)
    known = [self._known(question._replace(gold=gold)) for gold in golds]
    verdicts = [one for one in known if isinstance(one, Verdict)]
    best = min(verdicts, key=_rank, default=None)
    if best and (best.status is Status.RIGHT or len(verdicts) == len(golds)):
      self._answer(asked, best)
      return
    open_ = [one for one in known if isinstance(one, Comparison)]
    if len(golds) == 1:
      self._ask(open_[0], asked)
      return
    votes = _Votes(len(open_), [*verdicts])
    for one in open_:
      vote = _Asked(Future(), asked.problem_id, counted=False)
      vote.future.add_done_callback(functools.partial(self._vote, asked, votes))
      self._ask(one, vote)

  def _vote(
    self, asked: _Asked, votes: _Votes, future: Future[Verdict]
  ) -> None:
    """Answers when the last of several comparisons is done; in its thread."""
    error = future.exception()
    with self._lock:
      votes.missing -= 1
      votes.error = votes.error or error
      if error is None:
        votes.verdicts.append(future.result())
      if votes.missing:
        return
    if votes.error is not None:
      self._fail(asked, votes.error)
    else:
      self._answer(asked, min(votes.verdicts, key=_rank))

  def _ask(self, question: Comparison, asked: _Asked) -> None:
    """Sends a comparison to the workers, once for all callers with the same."""
    with self._lock:
      if question in self._waiting:
        self._waiting[question].append(asked)
        return
    self._room.acquire()
    with self._lock:
      callers = self._waiting.setdefault(question, [])
      callers.append(asked)
      first = len(callers) == 1
    if first:
      future = self._pool.submit(question.task)
      future.add_done_callback(functools.partial(self._compared, question))
    else:  # another thread was quicker
      self._room.release()

  def _compared(self, question: Comparison, future: Future[Compared]) -> None:
    """Answers every caller that waits for a comparison; in the pool's thread."""
    self._room.release()
    error = future.exception()
    with self._lock:
      callers = self._waiting.pop(question)
      if error is None and not future.result().died:
        self._cache[question] = future.result().status
        if len(self._cache) > CACHE_SIZE:
          self._cache.popitem(last=False)
    for asked in callers:
      if error is None:
        status, seconds, _ = future.result()
        verdict = Verdict(status=status, extracted=question.answer)
        self._answer(asked, verdict, seconds)
      else:
        self._fail(asked, error)

  def _answer(
    self, asked: _Asked, verdict: Verdict, seconds: float = 0.0
  ) -> None:
    if asked.counted:
      self._ledger.end(verdict, asked.problem_id, seconds)
    asked.future.set_result(verdict)

  def _fail(self, asked: _Asked, error: BaseException) -> None:
    if asked.counted:
      self._ledger.end(None, asked.problem_id, 0.0)
    asked.future.set_exception(error)


def _rank(verdict: Verdict) -> int:
  """Orders verdicts against several accepted answers: the first one counts."""
  return _RANKS.index(verdict.status)


_RANKS = (Status.RIGHT, Status.TIMED_OUT, Status.WRONG, Status.UNPARSEABLE)


@dataclasses.dataclass
class _Votes:
  """Verdicts of one answer against several accepted ones."""

  missing: int
  verdicts: list[Verdict]
  error: BaseException | None = None


def _put(
  done: SimpleQueue[tuple[int, Future[Verdict]]],
  index: int,
  future: Future[Verdict],
) -> None:
  done.put((index, future))
