"""The event loop of sampling, and what happens when no coroutine can continue.

Coroutines ask engines and the verifier. asyncio runs those that can continue in
the order in which they became able to; when none can, the embedded engines
advance by one tick, each in a separate thread. So which requests are decoded
together depends on nothing but the requests: two undisturbed runs are equal to
the last bit. A verdict comes from another process after an unknown time; it is
delivered a fixed number of ticks after it was asked for, and waited for then.

An engine behind a server is awaited like any coroutine; of its batches nothing
is promised.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import selectors
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sophia_jax import stopping
from sophia_jax.rollout import threads
from sophia_jax.types import Completion, Problem, Request, Verdict

GRADE_TICKS = 16
"""Ticks from the question for a verdict to its delivery. Few make a coroutine
wait less that asks again after a grade; many give a slow formula more time
before the engines wait for it."""
GRACE_S = 10.0
"""Time an engine has to finish its tick when sampling is stopped."""
_LOOK_S = 0.1
"""Seconds between two looks at whether sampling is stopped."""


@runtime_checkable
class Ticking(Protocol):
  """An engine in this process, such as rollout.embedded.EmbeddedEngine."""

  @property
  def busy(self) -> bool: ...

  def submit(self, request: Request) -> int: ...

  def tick(self) -> list[tuple[int, Completion]]: ...

  def clear(self) -> None: ...


@runtime_checkable
class Asked(Protocol):
  """An engine behind a server, such as rollout.sglang.SGLangEngine."""

  async def ask(self, request: Request) -> Completion: ...


@runtime_checkable
class Recorded(Protocol):
  """Answers that were written down before, such as rollout.teachers.Traces."""

  def recorded(self, request: Request, problem: Problem) -> Completion: ...


class _Grading(NamedTuple):
  due: int
  """Tick of its delivery."""
  verdict: Future[Verdict]
  awaited: asyncio.Future[Verdict]


class Ticks:
  """Advances the engines of one event loop; see the module."""

  def __init__(self) -> None:
    self.count = 0
    self._engines: list[Ticking] = []
    self._awaited: dict[tuple[int, int], asyncio.Future[Completion]] = {}
    """Requests by (number of the engine, ticket)."""
    self._grades: collections.deque[_Grading] = collections.deque()
    self._stopped: BaseException | None = None
    self._closing = False
    """Whether the loop only runs to cancel what is in flight."""
    self._loop: asyncio.AbstractEventLoop | None = None
    self._hung: set[int] = set()
    """Numbers of engines that have not returned from a tick."""

  def new_loop(self) -> asyncio.AbstractEventLoop:
    """Returns an event loop that calls `advance` whenever it is idle."""
    self._closing = False
    self._loop = asyncio.SelectorEventLoop(_Selector(self.advance))
    return self._loop

  def stop(self, error: BaseException) -> None:
    """Ends sampling by `error` before the next tick.

    May be called from another thread. What has finished by
    then is stored.
    """
    self._stopped = error
    if self._loop is not None:
      with contextlib.suppress(RuntimeError):  # it is closed
        self._loop.call_soon_threadsafe(lambda: None)

  def close(self) -> None:
    """Drops the requests in flight, in every engine that is not hung."""
    self._stopped, self._closing = None, True
    self._grades.clear()
    self._awaited.clear()
    for number, engine in enumerate(self._engines):
      if number not in self._hung:
        engine.clear()
    self._engines.clear()

  # --------------------------------------------------------------------- asking
  def ask(
    self, engine: Ticking, request: Request
  ) -> asyncio.Future[Completion]:
    """Submits a request; to be called in the loop."""
    if engine not in self._engines:
      self._engines.append(engine)
    key = self._engines.index(engine), engine.submit(request)
    awaited = self._awaited[key] = asyncio.get_running_loop().create_future()
    return awaited

  def grade(self, verdict: Future[Verdict]) -> asyncio.Future[Verdict]:
    """Delivers a verdict GRADE_TICKS later; to be called in the loop."""
    awaited: asyncio.Future[Verdict]
    awaited = asyncio.get_running_loop().create_future()
    self._grades.append(_Grading(self.count + GRADE_TICKS, verdict, awaited))
    return awaited

  # ------------------------------------------------------------------ advancing
  def advance(self) -> bool:
    """Runs one tick; returns False where only servers are waited for.

    Raises:
      BaseException: what `stop` was given, or an engine or the verifier raised.
      Preempted: SIGTERM arrived.
    """
    if self._stopping():
      raise self._end()
    busy = [n for n, engine in enumerate(self._engines) if engine.busy]
    if not busy and not self._grades:
      return False
    if busy:
      self.count += 1
      self._tick(busy)
    else:
      self.count = self._grades[0].due
    while self._grades and self._grades[0].due <= self.count:
      self._deliver(self._grades.popleft())
    return True

  def _tick(self, busy: Sequence[int]) -> None:
    """Ticks engines side by side, and delivers in the order of their numbers."""
    ticks = [threads.in_thread(self._engines[number].tick) for number in busy]
    self._hung.update(busy)
    self._wait(ticks, GRACE_S)
    self._hung.difference_update(busy)
    for number, tick in zip(busy, ticks):
      for ticket, completion in tick.result():
        awaited = self._awaited.pop((number, ticket))
        if not awaited.done():
          awaited.set_result(completion)

  def _deliver(self, grading: _Grading) -> None:
    _, verdict, awaited = grading
    self._wait([verdict], 0.0)
    if awaited.done():
      return
    if error := verdict.exception():
      awaited.set_exception(error)
    else:
      awaited.set_result(verdict.result())

  def _wait(self, futures: Collection[Future[Any]], grace_s: float) -> None:
    """Waits for all of them, or until the grace after `stop` is over."""
    deadline: float | None = None
    while concurrent.futures.wait(futures, _LOOK_S).not_done:
      if self._stopping():
        deadline = deadline or time.monotonic() + grace_s
        if time.monotonic() >= deadline:
          raise self._end()

  def _stopping(self) -> bool:
    if self._closing:
      return False
    return self._stopped is not None or stopping.requested()

  def _end(self) -> BaseException:
    return self._stopped or stopping.Preempted("SIGTERM")


class _Selector(selectors.DefaultSelector):
  """Calls `idle` where the loop would sleep: no coroutine can continue."""

  def __init__(self, idle: Callable[[], bool]):
    super().__init__()
    self._idle = idle

  def select(
    self, timeout: float | None = None
  ) -> list[tuple[selectors.SelectorKey, int]]:
    if (timeout is None or timeout > 0) and self._idle():
      timeout = 0
    return super().select(timeout)
