"""Counts, rate and slowest answers of verification."""

from __future__ import annotations

import collections
import heapq
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sophia_jax.types import Status, Verdict

SLOWEST = 10
"""Number of slow answers that are kept by name."""


@dataclass(frozen=True)
class Slow:
  """An answer that took a worker `seconds`."""

  seconds: float
  problem_id: str
  status: Status
  extracted: str


@dataclass(frozen=True)
class Report:
  """Example: Report(statuses={Status.RIGHT: 9}, seconds=0.1, slowest=())"""

  statuses: Mapping[Status, int]
  seconds: float
  """Time with at least one answer in flight."""
  slowest: tuple[Slow, ...]
  """Slowest comparisons first; those without a worker cost microseconds and are
  left out."""

  @property
  def answers(self) -> int:
    return sum(self.statuses.values())

  @property
  def rate(self) -> float:
    """Answers per second; 0 before the first."""
    return self.answers / self.seconds if self.seconds else 0.0

  def lines(self) -> list[str]:
    """Returns lines for a log: the counts, then one for each slow answer."""
    counts = ", ".join(f"{n} {s}" for s, n in self.statuses.items() if n)
    head = f"{self.answers} answers verified ({counts or 'none'})"
    return [
      f"{head}, {self.rate:.0f}/s",
      *(
        f"  {s.seconds:.2f} s, {s.status}: {s.problem_id}: {s.extracted[:60]!r}"
        for s in self.slowest
      ),
    ]


class Ledger:
  """Keeps the figures of a `Report`. Thread-safe."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._statuses: collections.Counter[Status] = collections.Counter()
    self._slowest: list[tuple[float, int, Slow]] = []
    self._busy_s = 0.0
    self._in_flight = 0
    self._since = 0.0

  def begin(self) -> None:
    """Counts an answer as in flight."""
    with self._lock:
      if not self._in_flight:
        self._since = time.monotonic()
      self._in_flight += 1

  def end(
    self, verdict: Verdict | None, problem_id: str, seconds: float
  ) -> None:
    """Records the verdict of an answer, None after an error.

    Args:
      seconds: what it took a worker; 0 without one.
    """
    with self._lock:
      self._in_flight -= 1
      if not self._in_flight:
        self._busy_s += time.monotonic() - self._since
      if verdict is None:
        return
      self._statuses[verdict.status] += 1
      if seconds:
        slow = Slow(seconds, problem_id, verdict.status, verdict.extracted)
        # The count breaks ties: Slow has no order.
        entry = (seconds, self._statuses.total(), slow)
        keep = heapq.heappush if self._room else heapq.heappushpop
        keep(self._slowest, entry)

  @property
  def _room(self) -> bool:
    return len(self._slowest) < SLOWEST

  def report(self) -> Report:
    """Returns the figures so far."""
    with self._lock:
      running = time.monotonic() - self._since if self._in_flight else 0.0
      return Report(
        {status: self._statuses[status] for status in Status},
        self._busy_s + running,
        tuple(slow for _, _, slow in sorted(self._slowest, reverse=True)),
      )
