"""Parts of every measurement: flags, result lines, times, weights, sizes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.rollout_embedded import Size
from sophia_jax.models import (
  SIZES,
  InternVLConfig,
  VisionConfig,
  abstract_params,
)

TOY = Size(
  VisionConfig(width=64, depth=1, heads=1, mlp=64, image_size=28),
  {"width": 128, "depth": 1, "heads": 2, "kv_heads": 1}
  | {"head_dim": 64, "mlp": 128},
  vocab=1024,
  words=1,
  prefill_rows=2,
)
"""Sizes of --dry; heads are as wide as kernels take them."""
FAILURES = (
  *(jax.errors.JaxRuntimeError, NotImplementedError, ValueError),
  *(TypeError, AttributeError),
)
GIB = 1 << 30
DRAWN = 1 << 20
"""Distinct numbers of the weights of a large model."""


def arguments(doc: str | None, **choices: tuple[str, ...]) -> Any:
  """Parses --dry and flags that name one of a few values."""
  parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
  parser.add_argument("--dry", action="store_true", help="toy sizes on a CPU")
  for name, values in choices.items():
    parser.add_argument(f"--{name}", choices=values, default=values[0])
  return parser.parse_args()


def emit(line: dict[str, Any]) -> None:
  """Prints a result."""
  print(json.dumps(line), flush=True)


def attempted(line: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
  """Prints a line with what the work returns, or with why it failed.

  A kernel that does not compile says so in many ways; the others still run.
  """
  try:
    line = line | work()
  except FAILURES as e:
    why = " ".join(str(e).split())[:200]
    line = line | {"ok": False, "error": f"{type(e).__name__}: {why}"}
  emit(line)


def seconds_of(work: Callable[[], Any], reps: int = 5) -> float:
  """Returns the median seconds of a call, after two that compile."""
  for _ in range(2):
    work()
  return statistics.median(timed(work) for _ in range(reps))


def timed(work: Callable[[], Any]) -> float:
  start = time.perf_counter()
  work()
  return time.perf_counter() - start


def peak_gib() -> float | None:
  """Returns the most device memory that JAX has held; None if it is not known."""
  found = jax.local_devices()[0].memory_stats() or {}
  peak = found.get("peak_bytes_in_use")
  return None if peak is None else round(peak / GIB, 2)


def memory_gib() -> float:
  """Returns the memory that JAX may use on its device."""
  found = jax.local_devices()[0].memory_stats() or {}
  return found.get("bytes_limit", 8 * GIB) / GIB


def shared_memory() -> str | None:
  """Returns where large files are written; None: the system's folder."""
  return "/dev/shm" if Path("/dev/shm").is_dir() else None


def size_of(name: str, words: int = 3) -> Size:
  """Returns a released model as a size of benchmarks.rollout_embedded."""
  cfg = SIZES[name]
  assert cfg.vision is not None
  decoder = dataclasses.asdict(cfg.decoder)
  vocab = decoder.pop("vocab")
  return Size(cfg.vision, decoder, vocab, words, prefill_rows=8)


def random_params(cfg: InternVLConfig) -> Any:
  """Returns weights in no time: a million numbers, over and over."""
  drawn = np.random.default_rng(0).standard_normal(DRAWN + 7, np.float32)

  def draw(path: Any, leaf: Any) -> np.ndarray:
    about = 1.0 if path[-1].key == "scale" else 0.0
    spread = 0.02 if len(leaf.shape) < 2 else leaf.shape[-2] ** -0.5
    some = (about + spread * drawn).astype(leaf.dtype)
    return np.resize(some, leaf.shape)

  return jax.tree_util.tree_map_with_path(draw, abstract_params(cfg))
