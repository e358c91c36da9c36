"""Metrics of a training stage: one JSON line per update."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from sophia_jax import files
from sophia_jax.models import InternVLConfig, flops
from sophia_jax.progress import Progress
from sophia_jax.train.devices import accelerator
from sophia_jax.train.trackers import Tracker
from sophia_jax.types import SophiaError

Row = dict[str, float]
WAITS = ("input_wait", "checkpoint_wait")
"""Seconds that the loop stood waiting before an update: for its batch, and for
the checkpoint of the update before."""


class NotFinite(SophiaError):
  """A loss or a gradient after which no later loss would be finite."""

  def __init__(self, message: str, update: int):
    super().__init__(message)
    self.update = update


class MetricsFile:
  """Collects device values and writes them now and then; process 0 does.

  Fetching a value waits for the device, so values are fetched in blocks, and
  the seconds of a block are shared out evenly over its updates.

  Args:
    step: the update training goes on from; later lines, written by a life that
      was killed before its checkpoint, are dropped.
    trackers: take every row as well.
    derived: what follows from a row: `utilisation`.
  """

  def __init__(
    self,
    path: Path,
    step: int,
    steps: int,
    trackers: Sequence[Tracker] = (),
    derived: Callable[[Row], Row] = lambda row: {},
  ):
    self._path, self._steps = path, step
    self._trackers, self._derived = trackers, derived
    self._writes = jax.process_index() == 0
    self._progress = Progress(path.parent.name, steps, "update", step)
    self._pending: list[Mapping[str, Any]] = []
    self._waits = dict.fromkeys(WAITS, 0.0)
    self._since = time.perf_counter()
    if not self._writes:
      return
    kept = [row for row in read(path) if row["step"] <= step]
    files.write_jsonl(path, kept, nan=True)

  @contextlib.contextmanager
  def waiting(self, name: str) -> Iterator[None]:
    """Counts the seconds of its block in the next row, as one of WAITS."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._waits[name] += time.perf_counter() - start

  def add(self, values: Mapping[str, Any]) -> None:
    """Takes the values of one update; nothing is fetched yet."""
    waits = {name: round(s, 6) for name, s in self._waits.items()}
    self._pending.append({**values, **waits})
    self._waits = dict.fromkeys(WAITS, 0.0)

  def flush(self) -> None:
    """Writes what was added, and prints the last of it.

    Raises:
      NotFinite: a loss is not finite, or a gradient.
    """
    if not self._pending:
      return
    rows = jax.device_get(self._pending)
    seconds = (time.perf_counter() - self._since) / len(rows)
    for values in rows:
      self._steps += 1
      row = {"step": self._steps, "seconds": round(seconds, 5)}
      row |= {name: float(value) for name, value in values.items()}
      row["tokens_per_s"] = round(row["tokens"] / seconds, 1)
      row |= self._derived(row)
      self._write(row)
      self._check(row)
    self._pending, self._since = [], time.perf_counter()
    self._progress.advance(
      len(rows), loss=row["loss"], tokens_per_s=row["tokens_per_s"]
    )

  def _write(self, row: Row) -> None:
    if not self._writes:
      return
    files.append_jsonl(self._path, row)
    for tracker in self._trackers:
      tracker.log(self._steps, row)

  def _check(self, row: Row) -> None:
    for name in ("loss", "grad_norm"):
      if not math.isfinite(row[name]):
        raise NotFinite(
          f"{self._path}: {name} is {row[name]} at update {self._steps}; "
          "lower config.train.learning_rate or look at the batch",
          self._steps,
        )

  def close(self) -> None:
    for tracker in self._trackers:
      tracker.close()
    self._progress.close()


def utilisation(
  cfg: InternVLConfig, trained: tuple[str, ...]
) -> Callable[[Row], Row]:
  """Returns a function of a row: speed per device, and MFU if the peak is known.

  Model FLOPs count the tokens that are there, the query-key pairs inside their
  segments and the distinct tiles; never padding.
  """
  devices = jax.devices()
  known = accelerator(devices[0].device_kind)

  def derived(row: Row) -> Row:
    live = row["live"]
    rate = live / row["seconds"] / len(devices)
    found = {"tokens_per_s_per_device": round(rate, 1)}
    tiles = row["image_tokens"] / max(cfg.tokens_per_tile, 1)
    needed = flops.update(cfg, flops.Work(live, row["pairs"], tiles), trained)
    if known is not None:
      peak = known.flops * len(devices)
      found["mfu"] = round(needed / row["seconds"] / peak, 4)
    return found

  return derived


def read(path: Path) -> list[Row]:
  """The rows of a metrics file; a half-written last line is left out."""
  if not path.exists():
    return []
  return [line.values for line in files.read_jsonl(path)]
