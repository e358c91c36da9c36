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
"""Seconds that an update waited for its batch, and for the checkpoint of the
update before; included in "seconds"."""
FIELD_NAMES = {
  "{role}/grad_norm": "grad_norm",
  "{role}/lr": "learning_rate",
  "perf/mfu/{role}": "mfu",
  "perf/time_per_step": "seconds",
  "perf/throughput": "tokens_per_s_per_device",
  "perf/total_num_tokens": "live",
}
"""Names of the field (verl's) -> ours; the role is "actor" or "critic"."""


class NotFinite(SophiaError):
  """A loss or gradient that is not finite; no later loss would be."""

  def __init__(self, message: str, update: int):
    super().__init__(message)
    self.update = update


class MetricsFile:
  """Collects device values and writes them at intervals; process 0 writes.

  Fetching a value waits for the device, so values are fetched in blocks, and
  the seconds of a block are divided evenly among its updates.

  Args:
    step: the update that training resumes from; later lines, which a killed run
      wrote after its checkpoint, are dropped.
    steps: updates of the whole run, for the progress bar.
    trackers: take every row as well.
    derived: further values of a row: `utilisation`.
    role: "actor" or "critic", in the field's names.
  """

  def __init__(
    self,
    path: Path,
    step: int,
    steps: int,
    trackers: Sequence[Tracker] = (),
    derived: Callable[[Row], Row] = lambda row: {},
    role: str = "actor",
  ):
    self._path, self._steps = path, step
    self._trackers, self._derived = trackers, derived
    self._names = {n.format(role=role): own for n, own in FIELD_NAMES.items()}
    self._writes = jax.process_index() == 0
    self._progress = Progress(path.parent.name, steps, "update", step)
    self._pending: list[Mapping[str, Any]] = []
    self._waits = dict.fromkeys(WAITS, 0.0)
    self._since, self._elsewhere = time.perf_counter(), 0.0
    if not self._writes:
      return
    kept = [row for row in read(path) if row["step"] <= step]
    files.write_jsonl(path, kept, nan=True)

  @contextlib.contextmanager
  def waiting(self, name: str) -> Iterator[None]:
    """Counts the seconds of its block in the next row, under `name`.

    Seconds under names outside WAITS, such as those of sampling, are no part of
    the update's own.
    """
    start = time.perf_counter()
    try:
      yield
    finally:
      seconds = time.perf_counter() - start
      self._waits[name] = self._waits.get(name, 0.0) + seconds
      if name not in WAITS:
        self._elsewhere += seconds

  def add(self, values: Mapping[str, Any]) -> None:
    """Adds the values of one update; nothing is fetched yet."""
    waits = {name: round(s, 6) for name, s in self._waits.items()}
    self._pending.append({**values, **waits})
    self._waits = dict.fromkeys(WAITS, 0.0)

  def flush(self) -> None:
    """Writes the rows of all updates added, and shows the last.

    Raises:
      NotFinite: a loss or gradient is not finite.
    """
    if not self._pending:
      return
    rows = jax.device_get(self._pending)
    elapsed = time.perf_counter() - self._since - self._elsewhere
    seconds = max(elapsed, 1e-9) / len(rows)
    for values in rows:
      self._steps += 1
      row = {"step": self._steps, "seconds": round(seconds, 5)}
      row |= {name: float(value) for name, value in values.items()}
      row["tokens_per_s"] = round(row["tokens"] / seconds, 1)
      row |= self._derived(row)
      row |= {n: row[own] for n, own in self._names.items() if own in row}
      self._write(row)
      self._check(row)
    self._pending, self._since = [], time.perf_counter()
    self._elsewhere = 0.0
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
          "lower the stage's train.learning_rate or look at the batch",
          self._steps,
        )

  def close(self) -> None:
    for tracker in self._trackers:
      tracker.close()
    self._progress.close()


def utilisation(
  cfg: InternVLConfig, trained: tuple[str, ...], adapted: bool = False
) -> Callable[[Row], Row]:
  """Returns a function of a row: speed per device, MFU if the peak is known, and
  the most memory that this process's first device had in use.

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
    work = flops.Work(live, row["pairs"], tiles)
    needed = flops.update(cfg, work, trained, adapted)
    found |= device_memory()
    if known is not None:
      peak = known.flops * len(devices)
      found["mfu"] = round(needed / row["seconds"] / peak, 4)
    return found

  return derived


def device_memory() -> Row:
  """Returns the most memory that this process's first device had in use, GiB; {}
  where the device does not say."""
  memory = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" not in memory:
    return {}
  return {"memory_gib": round(memory["peak_bytes_in_use"] / 2**30, 2)}


def read(path: Path) -> list[Row]:
  """Returns the rows of a metrics file, except a half-written last line."""
  if not path.exists():
    return []
  return [line.values for line in files.read_jsonl(path)]
