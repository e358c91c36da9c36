"""Problems -> groups of rollouts, many coroutines at a time.

Every answer and grade is stored the moment it comes, so a killed run continues
where it stopped, and a complete store is read by running the same coroutines
over it without engines.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from typing import Any

from sophia_jax.rollout import ticks
from sophia_jax.rollout.world import World
from sophia_jax.stopping import LOOK_S
from sophia_jax.types import Group, Problem

Sample = Callable[[World, Problem], Awaitable[Group]]
"""algorithms.contract.Sample: how a problem becomes a group of rollouts."""

_HELD = 4
"""Groups in memory, finished or not, as a multiple of those in flight."""


def collect(
  problems: Iterable[Problem],
  sample: Sample,
  world: World,
  ahead: int = 256,
) -> Generator[Group]:
  """Yields the group of each problem, in the order of the problems.

  Sampling advances while the next group is waited for, in the caller's thread,
  which must not run an event loop. Close the generator where it is to end early:
  what has finished by then is stored. `World.stop` ends it from outside.

  Args:
    sample: raises what the first of all groups to fail raises.
    ahead: problems in flight at most. New ones start when half of them have
      finished, so that their first requests are decoded together.

  Raises:
    SophiaError: what an engine, the verifier or the store raises.
    Preempted: SIGTERM arrived; what has finished is stored.
  """
  flights = _Flights(iter(problems), sample, world, ahead)
  try:
    while (group := flights.next()) is not None:
      yield group
  finally:
    flights.close()


class _Flights:
  """The problems in flight, in the order in which they were started."""

  def __init__(
    self, problems: Iterator[Problem], sample: Sample, world: World, ahead: int
  ):
    self._problems, self._sample, self._world = problems, sample, world
    self._ahead = max(1, ahead)
    self._loop = world.ticks.new_loop()
    self._tasks: collections.deque[asyncio.Task[Group]] = collections.deque()
    self._unfinished = 0
    self._failed: asyncio.Future[None] = self._loop.create_future()
    """Has the error of the first problem to fail."""

  def next(self) -> Group | None:
    """Returns the next group; None after the last."""
    self._fill()
    if not self._tasks:
      return None
    self._loop.run_until_complete(self._finished(self._tasks[0]))
    return self._tasks.popleft().result()

  async def _finished(self, task: asyncio.Task[Group]) -> None:
    """Waits for one problem; raises where any other fails meanwhile."""
    done: set[asyncio.Future[Any]] = set()
    while not done:  # the loop wakes up, and sees whether it is to end
      done, _ = await asyncio.wait(
        (task, self._failed),
        timeout=LOOK_S,
        return_when=asyncio.FIRST_COMPLETED,
      )
    if self._failed.done():
      self._failed.result()

  def _fill(self) -> None:
    """Starts problems, if half of those that may be in flight are not."""
    if 2 * self._unfinished > self._ahead:
      return
    room = _HELD * self._ahead - len(self._tasks)
    for _ in range(min(self._ahead - self._unfinished, room)):
      problem = next(self._problems, None)
      if problem is None:
        return
      task = self._loop.create_task(self._one(problem))
      task.add_done_callback(self._ended)
      self._tasks.append(task)
      self._unfinished += 1

  async def _one(self, problem: Problem) -> Group:
    group = await self._sample(self._world, problem)
    self._world.finish(problem)
    self._unfinished -= 1
    self._fill()
    return group

  def _ended(self, task: asyncio.Task[Group]) -> None:
    if task.cancelled():
      return
    # Looked at even where another has failed before, or asyncio would log it.
    error = task.exception()
    if error and not self._failed.done():
      self._failed.set_exception(error)

  def close(self) -> None:
    """Cancels what is in flight; a request that hangs is left behind."""
    self._world.ticks.close()
    if not self._failed.done():
      self._failed.set_result(None)
    self._failed.exception()  # it is raised already, or nobody waits for it
    left = asyncio.all_tasks(self._loop)
    for task in left:
      task.cancel()
    if left:
      self._loop.run_until_complete(asyncio.wait(left, timeout=ticks.GRACE_S))
    for task in left:
      if task.done() and not task.cancelled():
        task.exception()
    self._loop.close()
