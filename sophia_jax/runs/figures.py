"""Figures of a sampling while it runs: a line of metrics, trackers, progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sophia_jax import files
from sophia_jax.progress import Progress
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.train import metrics
from sophia_jax.train.trackers import LogConfig, Tracker, trackers
from sophia_jax.types import Status

EVERY_S = 10.0
"""Time between two lines, seconds; the last line is written at the end."""
METRICS = "metrics.jsonl"


class Figures:
  """Shows and writes the figures of a store that fills.

  The step of a line is the number of problems of the shard that are done.
  """

  def __init__(self, path: Path, trackers: Sequence[Tracker], done: int):
    self._path, self._trackers = path, trackers
    self._done = self._written = done
    self._since = self._at = time.monotonic()
    self._values: dict[str, float] = {}

  def advance(self, progress: Progress, store: Store, world: World) -> None:
    """Counts one more problem as done."""
    self._done += 1
    self._values = of(store, world)
    progress.advance(1, **self._values)
    self._values["tokens"] = world.tokens.total()
    if time.monotonic() - self._at >= EVERY_S:
      self.write()

  def write(self) -> None:
    """Writes a line, unless there is nothing new."""
    if self._written == self._done:
      return
    self._written, self._at = self._done, time.monotonic()
    seconds = max(self._at - self._since, 1e-9)
    row = {
      "step": float(self._done),
      "seconds": round(seconds, 3),
      **self._values,
      "tokens_per_s": round(self._values["tokens"] / seconds, 1),
      **metrics.device_memory(),
    }
    files.append_jsonl(self._path, row)
    for tracker in self._trackers:
      tracker.log(self._done, row)


def of(store: Store, world: World) -> dict[str, float]:
  """Returns the shares of right and of truncated answers in the store, and the
  mean length by role of what this process has sampled, tokens."""
  statuses = store.index.statuses
  graded = max(1, statuses.total())
  return {
    "reward": statuses[Status.RIGHT] / graded,
    "truncated": statuses[Status.TRUNCATED] / graded,
    **{
      f"{role}_tokens": world.tokens[role] / count
      for role, count in world.sampled.items()
    },
  }


@contextlib.contextmanager
def opened(
  directory: Path, config: LogConfig, title: str, done: int
) -> Iterator[Figures]:
  """Opens the file of metrics of a shard's sampling, and its trackers.

  Lines after `done`, from before a kill or of other settings, are dropped.

  Args:
    title: name of the run in trackers.
    done: problems that are done.

  Raises:
    SophiaError: a tracker is not installed, or wandb is not logged in.
  """
  path = directory / METRICS
  kept = [row for row in metrics.read(path) if row["step"] <= done]
  files.write_jsonl(path, kept)
  with contextlib.ExitStack() as stack:
    opened = trackers(directory, config, done, title)
    for tracker in opened:
      stack.callback(tracker.close)
    shown = Figures(path, opened, done)
    stack.callback(shown.write)
    yield shown
