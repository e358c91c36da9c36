"""Progress, rate and time left: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Self

from tqdm import tqdm

LOG_EVERY_S = 10.0
"""Time between two lines in a log, seconds."""
_log = logging.getLogger(__name__)


class Progress:
  """Counts units of work up to a total; a context manager.

  Example:
    with Progress("sampling", 800, "trajectory") as progress:
      progress.advance(1, reward=0.7)

  Args:
    what: the name of the work.
    total: units of work, those done before included.
    unit: the name of a unit.
    done: units done before.
  """

  def __init__(self, what: str, total: int, unit: str, done: int = 0):
    self._what, self._total, self._unit = what, total, unit
    self._done, self._before = done, done
    self._values: dict[str, float] = {}
    self._since = self._logged = time.monotonic()
    self._bar = (
      tqdm(total=total, desc=what, unit=unit, initial=done, leave=False)
      if sys.stderr.isatty()
      else None
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Writes the last line."""
    if self._bar is not None:
      self._bar.close()
    self._write(None)

  def advance(self, count: int = 1, **values: float) -> None:
    """Adds units of work; `values` are shown beside the count."""
    self._done += count
    self._values = values
    if self._bar is not None:
      self._bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, False)
      self._bar.update(count)
    elif time.monotonic() - self._logged > LOG_EVERY_S:
      self._logged = time.monotonic()
      new = self._done - self._before
      left = (self._total - self._done) * (self._logged - self._since) / new
      self._write(left)

  def _write(self, left: float | None) -> None:
    """Writes a line.

    Args:
      left: seconds left; None: the work is over, done or not.
    """
    seconds = max(time.monotonic() - self._since, 1e-9)
    rate = (self._done - self._before) / seconds
    time_said = f"{seconds:.0f} s" if left is None else f"{left:.0f} s left"
    shown = "".join(f"  {k} {v:.4g}" for k, v in self._values.items())
    _log.info(
      "%s %d/%d  %.3g %s/s  %s%s",
      self._what,
      self._done,
      self._total,
      rate,
      self._unit,
      time_said,
      shown,
    )
