"""Work in daemon threads: one that hangs does not keep the process."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> Future[T]:
  """Runs `work` in a thread."""
  future: Future[T] = Future()

  def run() -> None:
    with contextlib.ExitStack() as stack:
      stack.push(failed)
      future.set_result(work())

  def failed(kind: Any, error: BaseException | None, trace: Any) -> bool:
    if error is not None:
      future.set_exception(error)
    return True

  threading.Thread(target=run, name="sample-tick", daemon=True).start()
  return future


def side_by_side(works: Sequence[Callable[[], T]]) -> list[T]:
  """Runs each of `works` in a thread, a single one in this, to its end.

  Returns:
    Their results, in order.

  Raises:
    Exception: of the first that failed, after all have ended.
  """
  if len(works) == 1:
    return [works[0]()]
  futures = [in_thread(work) for work in works]
  concurrent.futures.wait(futures)
  return [future.result() for future in futures]
