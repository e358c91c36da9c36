"""From an iterator of requests to an iterator of results, through an event loop.

Three threads: one draws requests, one runs the event loop, and the caller's
takes results, so a source that blocks for long holds no result back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sophia_jax import stopping

A = TypeVar("A")
R = TypeVar("R")


class Stream(Generic[A, R]):
  """Results in the order in which they finish.

  Args:
    source: drawn from in a separate thread, one item for each free place;
      no item is None.
    start: makes the work of an item; called in that thread.
    loop: runs the work.
    capacity: places. As many results again may wait for the caller; then
      nothing more is drawn.
  """

  def __init__(
    self,
    source: Iterable[A],
    start: Callable[[A], Coroutine[Any, Any, R]],
    loop: asyncio.AbstractEventLoop,
    capacity: int,
  ):
    self._source, self._start, self._loop = source, start, loop
    self._free = threading.Semaphore(capacity)
    self._unread = threading.Semaphore(2 * capacity)
    self._finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    self._drawer = ThreadPoolExecutor(1, "draw")
    self._tasks: set[asyncio.Task[Any]] = set()
    self._closed = False

  def __iter__(self) -> Iterator[R]:
    """Yields results.

    Raises:
      Preempted: SIGTERM arrived.
      BaseException: what drawing or a piece of work raised; what finished comes
        first.
    """
    drawing = self._drawer.submit(self._draw)
    drawing.add_done_callback(self._finished.put)
    total, taken = math.inf, 0
    error: BaseException | None = None
    while taken < total and not (error and self._finished.empty()):
      future = self._next_finished()
      error = error or future.exception()
      if future is drawing:
        total = math.inf if error else drawing.result()
        continue
      taken += 1
      self._unread.release()
      if future.exception() is None:
        yield future.result()
    if error:
      raise error

  def _next_finished(self) -> Future[Any]:
    """Waits for a result, and looks at SIGTERM meanwhile."""
    while True:
      with contextlib.suppress(queue.Empty):
        return self._finished.get(timeout=stopping.LOOK_S)
      stopping.check()

  def _draw(self) -> int:
    """Starts work for every item; returns how many there were."""
    items = iter(self._source)
    count = 0
    while self._room():
      item = next(items, None)
      if item is None:
        break
      work = asyncio.run_coroutine_threadsafe(
        self._tracked(self._start(item)), self._loop
      )
      work.add_done_callback(self._done)
      count += 1
    return count

  def _room(self) -> bool:
    """Waits for a place; False once the stream is closed."""
    self._unread.acquire()
    self._free.acquire()
    return not self._closed

  def _done(self, work: Future[R]) -> None:
    self._free.release()
    self._finished.put(work)

  async def _tracked(self, work: Coroutine[Any, Any, R]) -> R:
    task = asyncio.current_task()
    assert task is not None
    if self._closed:
      work.close()
      raise asyncio.CancelledError
    self._tasks.add(task)
    try:
      return await work
    finally:
      self._tasks.discard(task)

  async def close(self) -> None:
    """Cancels all work and draws no more; to be run in the loop.

    A source that blocks is left to itself: its thread ends with its next item.
    """
    self._closed = True
    self._unread.release()
    self._free.release()
    for task in self._tasks:
      task.cancel()
    await asyncio.gather(*self._tasks, return_exceptions=True)
    self._drawer.shutdown(wait=False)
