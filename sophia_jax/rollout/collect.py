"""Problems -> captions -> trajectories -> verdicts, into the store.

Each reasoner has a line of two threads: in one the policy describes what is to
be described, in the other the reasoner thinks about it, and between them is a
queue of captions. A thread that finds nothing to ask, or no room, waits: so what
is sampled together with what does not depend on how fast anything is, and
nothing is held but what is under way, however many problems there are.

Every text is stored the moment it comes and verified on the side: the models
wait for no formula. What is in the store is not asked again, so a killed run
goes on where it stopped.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType

from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.records import Reasoning
from sophia_jax.rollout.requests import (
  Asking,
  caption_request,
  reasoning_request,
)
from sophia_jax.rollout.store import Store
from sophia_jax.types import (
  Caption,
  Completion,
  Engine,
  Problem,
  Request,
  SophiaError,
  Trajectory,
  Verdict,
)

AHEAD = 256
"""Captions that may wait for a reasoner before no more are begun for it."""
UNHEARD = 1024
"""Verdicts that may wait for whoever iterates over `collect`."""
GRACE_S = 10.0
"""For the engines to come to a stop, where it ends early."""


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Both are 8 in the paper."""

  captions: int = 8
  """K, per problem."""
  trajectories: int = 8
  """N, per caption."""


def collect(
  problems: Iterable[Problem],
  policy: Engine,
  reasoners: Mapping[str, Engine],
  asking: Asking,
  verifier: Verifier,
  store: Store,
) -> Generator[Caption | Trajectory]:
  """Samples what the store lacks; yields each record once it is stored.

  Close it where it is to end early: what is finished by then is stored.

  K and N are the store's.

  Args:
    problems: iterated over several times, by several threads at once.
    policy: `generate` runs once for each reasoner, all at the same time.
    reasoners: difficulty -> who thinks about such problems.

  Raises:
    SophiaError: a problem's difficulty names no reasoner. What an engine or
      the verifier raises is raised here.
  """
  for problem in problems:
    if problem.difficulty not in reasoners:
      raise SophiaError(
        f"problem {problem.id}: difficulty {problem.difficulty!r} names no "
        f"reasoner; config.reasoners has {', '.join(sorted(reasoners))}"
      )
  work = _Work(policy=policy, asking=asking, verifier=verifier, store=store)
  lines = [
    _Line(difficulty, problems, reasoner, work)
    for difficulty, reasoner in reasoners.items()
  ]
  try:
    for line in lines:
      line.start()
    yield from _reported(work, sum(len(line.threads) for line in lines))
  finally:
    work.stop.set()
    work.room.release(len(lines))
    for line in lines:
      line.captions.end()
    deadline = time.monotonic() + GRACE_S
    for thread in itertools.chain(*(line.threads for line in lines)):
      # An engine that hangs is left behind: nothing of it is stored.
      thread.join(max(0.0, deadline - time.monotonic()))


# ---------------------------------------------------------------------- reports
@dataclasses.dataclass(frozen=True)
class _Judged:
  reasoning: Reasoning
  verdict: Future[Verdict]


@dataclasses.dataclass(frozen=True)
class _Ended:
  """A thread is through, after asking for so many verdicts."""

  asked: int


@dataclasses.dataclass(frozen=True)
class _Failed:
  """A thread ended by an error."""

  error: BaseException


_Report = Caption | _Judged | _Ended | _Failed


@dataclasses.dataclass(frozen=True)
class _Work:
  """What all lines share."""

  policy: Engine
  asking: Asking
  verifier: Verifier
  store: Store
  reports: queue.SimpleQueue[_Report] = dataclasses.field(
    default_factory=queue.SimpleQueue
  )
  room: threading.Semaphore = dataclasses.field(
    default_factory=lambda: threading.Semaphore(UNHEARD)
  )
  """For verdicts among the reports."""
  stop: threading.Event = dataclasses.field(default_factory=threading.Event)


def _reported(work: _Work, running: int) -> Iterator[Caption | Trajectory]:
  """Until all threads are through, and all verdicts there that they asked for.

  Args:
    running: how many threads there are.
  """
  asked = judged = 0
  while running or judged < asked:
    report = work.reports.get()
    if isinstance(report, Caption):
      yield report
    elif isinstance(report, _Judged):
      judged += 1
      work.room.release()
      yield work.store.judge(report.reasoning, report.verdict.result())
    elif isinstance(report, _Failed):
      raise report.error
    else:
      running, asked = running - 1, asked + report.asked


class _Captions:
  """A queue that takes whatever comes, and of which one may wait for room."""

  def __init__(self) -> None:
    self._waiting: collections.deque[tuple[Problem, Caption]] = (
      collections.deque()
    )
    self._changed = threading.Condition()
    self._ended = False

  def put(self, problem: Problem, caption: Caption) -> None:
    with self._changed:
      self._waiting.append((problem, caption))
      self._changed.notify_all()

  def wait_for_room(self) -> None:
    """Returns once fewer than AHEAD captions wait, or after the end.

    Whoever finishes what is under way must not call it: it would be kept from
    storing that. It is for whoever begins something new.
    """
    with self._changed:
      self._changed.wait_for(lambda: self._ended or len(self._waiting) < AHEAD)

  def end(self) -> None:
    """There are no more; what waits is still taken."""
    with self._changed:
      self._ended = True
      self._changed.notify_all()

  def __iter__(self) -> Iterator[tuple[Problem, Caption]]:
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._ended or self._waiting)
        if not self._waiting:
          return
        taken = self._waiting.popleft()
        self._changed.notify_all()
      yield taken


# ------------------------------------------------------------------------ a line
class _Line:
  """All problems of one difficulty, with the reasoner that thinks about them."""

  def __init__(
    self,
    difficulty: str,
    problems: Iterable[Problem],
    reasoner: Engine,
    work: _Work,
  ):
    self._difficulty, self._all = difficulty, problems
    self._reasoner, self._work = reasoner, work
    self.captions = _Captions()
    self._under_way: dict[str, Problem] = {}
    """By the id of the request that is about it."""
    self.threads = [
      threading.Thread(
        name=f"sample-{difficulty}", target=self._run, args=(task,), daemon=True
      )
      for task in (self._describe, self._think)
    ]

  def start(self) -> None:
    for thread in self.threads:
      thread.start()

  def _run(self, task: Callable[[], int]) -> None:
    with contextlib.ExitStack() as stack:
      stack.push(self._failed)
      self._work.reports.put(_Ended(task()))

  def _failed(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> bool:
    """Whatever a thread dies of, whoever iterates over `collect` is told."""
    if error is not None:
      self._work.reports.put(_Failed(error))
    return True

  def _problems(self) -> Iterator[Problem]:
    return (p for p in self._all if p.difficulty == self._difficulty)

  # ------------------------------------------------------------------- captions
  def _describe(self) -> int:
    """Stored captions first, then the missing ones as the policy writes them.

    Returns how many verdicts it asked for: none.
    """
    with contextlib.ExitStack() as stack:
      stack.callback(self.captions.end)
      self._take_up_stored_captions()
      policy, requests = self._work.policy, self._caption_requests()
      for completion in stack.enter_context(
        self._completions(policy, requests)
      ):
        problem_id, k = _split(completion.request_id)
        caption = Caption(problem_id=problem_id, k=k, completion=completion)
        self._work.store.append(caption)
        self._work.reports.put(caption)
        self.captions.put(self._under_way.pop(caption.id), caption)
    return 0

  def _take_up_stored_captions(self) -> None:
    store = self._work.store
    if not store.captions:
      return
    for problem in self._problems():
      for k in range(store.meta["K"]):
        if store.holds(problem.id, k) and self._missing(problem, k):
          self.captions.wait_for_room()
          self.captions.put(problem, store.captions[problem.id, k])

  def _caption_requests(self) -> Iterator[Request]:
    for problem in self._problems():
      for k in range(self._work.store.meta["K"]):
        if not self._work.store.holds(problem.id, k):
          self.captions.wait_for_room()
          if self._work.stop.is_set():
            return
          request = caption_request(self._work.asking, problem, k)
          self._under_way[request.id] = problem
          yield request

  def _missing(self, problem: Problem, k: int) -> list[int]:
    """The n of the reasonings that are not stored."""
    store = self._work.store
    ns = range(store.meta["N"])
    return [n for n in ns if not store.holds(problem.id, k, n)]

  # ------------------------------------------------------------------ reasoning
  def _think(self) -> int:
    """Reasons about captions as they come; how many verdicts it asked for."""
    asked = self._verify_the_unverified()
    requests = self._reasoning_requests()
    with self._completions(self._reasoner, requests) as completions:
      for completion in completions:
        caption_id, n = _split(completion.request_id)
        problem_id, k = _split(caption_id)
        reasoning = Reasoning(
          problem_id=problem_id,
          k=k,
          n=n,
          completion=completion,
          length=self._work.asking.policy.count(completion.text),
        )
        self._work.store.append(reasoning)
        self._judge(self._under_way.pop(reasoning.id), reasoning)
        asked += 1
    return asked

  def _reasoning_requests(self) -> Iterator[Request]:
    """Requests side by side for one caption, so its prompt is prefilled once."""
    for problem, caption in self.captions:
      if self._work.stop.is_set():
        return
      for n in self._missing(problem, caption.k):
        request = reasoning_request(self._work.asking, problem, caption, n)
        self._under_way[request.id] = problem
        yield request

  def _verify_the_unverified(self) -> int:
    """What an earlier life had written down and not yet judged: how many."""
    store, asked = self._work.store, 0
    if store.index.reasonings == len(store.trajectories):
      return 0
    for problem in self._problems():
      for reasoning in store.unverified(problem.id):
        if not self._work.stop.is_set():
          self._judge(problem, reasoning)
          asked += 1
    return asked

  def _judge(self, problem: Problem, reasoning: Reasoning) -> None:
    reports, completion = self._work.reports, reasoning.completion
    self._work.room.acquire()
    self._work.verifier.submit(
      completion.text, problem, completion.finish_reason
    ).add_done_callback(
      lambda verdict: reports.put(_Judged(reasoning, verdict))
    )

  @contextlib.contextmanager
  def _completions(
    self, engine: Engine, requests: Iterator[Request]
  ) -> Iterator[Iterator[Completion]]:
    """What the engine makes of the requests, until it is to stop.

    What is under way then is aborted, in an engine that can.
    """
    completions = engine.generate(requests)

    def until_stopped() -> Iterator[Completion]:
      for completion in completions:
        yield completion
        if self._work.stop.is_set():
          return

    try:
      yield until_stopped()
    finally:
      if isinstance(completions, Generator):
        completions.close()


def _split(request_id: str) -> tuple[str, int]:
  """ "mv-17/3" -> ("mv-17", 3); a problem's id may itself hold slashes."""
  head, _, tail = request_id.rpartition("/")
  return head, int(tail)
