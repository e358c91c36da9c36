"""The train step at 8k and 32k tokens against PyTorch, and which settings suit it.

  python -m benchmarks.gpu.train --model=2b    InternVL3-2B, one row of 8,192
  python -m benchmarks.gpu.train --model=8b    as many layers of InternVL3-8B as fit
                                               twice, rows of 8,192 and 32,768

Ours alone first: every `remat` policy, from the one that keeps least, so that the
peak of memory belongs to the line; then `block`; then a packed row. The fastest is
timed against transformers with torch.compile and fused attention, on the same
weights, batch and parameters, in turns. MFU counts the operations of the model,
not those that are computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import train_step as bench
from benchmarks.gpu.common import (
  GIB,
  TOY,
  arguments,
  emit,
  memory_gib,
  peak_gib,
  random_params,
  seconds_of,
  shared_memory,
)
from sophia_jax.checkpoints import load_params, save_params
from sophia_jax.models import SIZES, DecoderConfig, InternVLConfig, flops
from sophia_jax.train.devices import accelerator

REMAT = ("block", "attention", "up", "dots", "none")
BLOCKS = (512, 2048)
BYTES = 16
"""Bytes a trained parameter: itself, its gradient, two moments."""
KEPT = 14.0
"""GiB left for activations of both sides."""
REPS = 3


def main() -> None:
  args = arguments(__doc__, model=("2b", "8b"))
  lengths = (256,) if args.dry else (8192,)
  if args.model == "8b" and not args.dry:
    lengths = (8192, 32768)
  cfg = toy() if args.dry else model(args.model)
  with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
    narrow = dataclasses.replace(cfg, param_dtype="bfloat16")
    save_params(random_params(narrow), narrow, folder + "/hf")
    for length in lengths:
      case(cfg, length, folder + "/hf", args)


def model(name: str) -> InternVLConfig:
  """Returns a released size, cut to the layers that fit twice."""
  cfg = SIZES[f"internvl3_{name}"]
  d = cfg.decoder
  if name == "8b":
    attention = 2 * d.width * d.head_dim * (d.heads + d.kv_heads)
    layer = BYTES * (attention + 3 * d.width * d.mlp) / GIB
    ends = BYTES * 2 * d.vocab * d.width / GIB
    room = memory_gib() / 2 - ends - KEPT / 2
    depth = max(1, min(d.depth, int(room / layer)))
    cfg = dataclasses.replace(cfg, decoder=dataclasses.replace(d, depth=depth))
  return cfg


def toy() -> InternVLConfig:
  return InternVLConfig(
    vision=TOY.vision,
    decoder=DecoderConfig(vocab=TOY.vocab, **TOY.decoder),
    image_token_id=TOY.vocab - 1,
  )


def case(
  cfg: InternVLConfig, length: int, path: str, args: argparse.Namespace
) -> None:
  """Sweeps the settings of a length, then measures the fastest against torch."""
  line = {"layers": cfg.decoder.depth, "length": length}
  params = load_params(path, cfg)
  rows = bench.whole_rows(cfg, 1, length)
  found: dict[tuple[str, int], float] = {}
  for remat, block in settings(args.dry):
    seconds = ours(cfg, remat, block, rows, length, params, line)
    if seconds is None:
      break  # all that follow keep more
    found[remat, block] = seconds
  if not found:
    return
  remat, block = min(found, key=found.__getitem__)
  if not args.dry:
    for other in BLOCKS:
      ours(cfg, remat, other, rows, length, params, line)
    packed = bench.many_lengths(cfg, 1, length)
    ours(cfg, remat, block, packed, length, params, {**line, "packed": True})
  task = task_of(cfg, remat, block, rows, length)
  for attention in implementations(args.dry):
    against(task, params, path, attention, {**line, "remat": remat})


def settings(dry: bool) -> Iterator[tuple[str, int]]:
  for remat in REMAT[-1:] if dry else REMAT:
    yield remat, 128 if dry else 1024


def implementations(dry: bool) -> list[str]:
  """Returns transformers' attention, by its names."""
  fused = importlib.util.find_spec("flash_attn") is not None
  return ["sdpa", *(["flash_attention_2"] if fused and not dry else [])]


def task_of(
  cfg: InternVLConfig, remat: str, block: int, rows: Any, length: int
) -> bench.Task:
  how: Any = {"remat": remat, "dtype": "bfloat16"}
  cfg = dataclasses.replace(cfg, **how)
  return bench.Task(cfg, rows, 1, length, ("language",), block)


def ours(
  cfg: InternVLConfig,
  remat: str,
  block: int,
  rows: Any,
  length: int,
  params: Any,
  line: dict[str, Any],
) -> float | None:
  """Times our update; None where it does not fit."""
  task = task_of(cfg, remat, block, rows, length)
  line = {"name": "ours", **line, "remat": remat, "block": block}
  try:
    update = bench.Ours(task, params)
    seconds = seconds_of(update, REPS)
  except jax.errors.JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    emit({**line, "fits": False})
    return None
  speed = {"s": round(seconds, 4), "mfu": mfu(task, seconds)}
  emit({**line, **speed, "peak_gib": peak_gib()})
  return seconds


def mfu(task: bench.Task, seconds: float) -> float | None:
  """Returns the share of the device's peak; None where that is not known."""
  known = accelerator(jax.devices()[0].device_kind)
  lengths = [len(s) for s in task.sequences]
  tiles = sum(sum(s.tiles) for s in task.sequences)
  pairs = sum(n * (n + 1) / 2 for n in lengths)
  work = flops.Work(sum(lengths), pairs, tiles)
  needed = flops.update(task.cfg, work, task.trained)
  return round(needed / seconds / known.flops, 4) if known else None


def against(
  task: bench.Task,
  params: Any,
  path: str,
  attention: str,
  line: dict[str, Any],
) -> None:
  """Times both in turns; a side that does not fit is a line, too."""
  import torch

  line = {"name": f"against {attention}", **line}
  try:
    works = {
      "ours": bench.Ours(task, params),
      "hf": bench.theirs(task, path, attention, compiled="layers"),
    }
    losses = {name: [work(), work()] for name, work in works.items()}
    seconds = bench.interleaved(works, REPS)
  except (torch.OutOfMemoryError, jax.errors.JaxRuntimeError) as e:
    emit({**line, "fits": False, "why": type(e).__name__})
    return
  apart = max(abs(a / b - 1) for a, b in zip(losses["ours"], losses["hf"]))
  report = bench.report(task.cfg, task.sequences, task.trained, seconds)
  peak = None
  if torch.cuda.is_available():
    peak = round(torch.cuda.max_memory_allocated() / GIB, 2)
  ok = apart < 0.01
  line |= {"hf_peak_gib": peak, "losses_apart": round(apart, 5), "ok": ok}
  emit({**line, **report})


if __name__ == "__main__":
  main()
