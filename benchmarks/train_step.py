"""One update against Hugging Face PyTorch: same weights, batch, parameters.

  python -m benchmarks.train_step [--size=75m] [--case=rows,packed]
    [--trained=language] [--reps=7]

Both train on the same sequences with AdamW and clipped gradients, interleaved in
one process, with all cores (or one GPU):

  rows    sequences as long as a row, each with an image of one tile
  packed  sequences of many lengths, a third of them with an image, packed into the
          same rows here; transformers pads each to the longest, as its trainers
          do

Prints one JSON line for each case: seconds and CPU seconds of an update, the
median of the paired ratios (above 1: ours is faster), tokens/s without padding,
and both losses before and after the first update, which must agree.

Where jax and torch see a GPU, give --size=internvl3_2b --rows=1 --length=8192
--dtype=bfloat16 --attention=sdpa (or flash_attention_2): torch then runs under
autocast and torch.compile, and the line has the MFU of both. JAX must leave
torch its memory: XLA_PYTHON_CLIENT_PREALLOCATE=false.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch
import transformers

from benchmarks.rollout_embedded import SIZES as SMALL
from benchmarks.rollout_embedded import interleaved, pixels, random_params
from sophia_jax.algorithms import reductions, sft
from sophia_jax.algorithms.contract import Moment
from sophia_jax.algorithms.credit import reduced
from sophia_jax.checkpoints import load_params, save_params
from sophia_jax.data.packing import PackConfig, plan, size_of
from sophia_jax.data.rows import pack, stack
from sophia_jax.models import (
  SIZES,
  DecoderConfig,
  InternVL,
  InternVLConfig,
  flops,
  logical_axes,
)
from sophia_jax.train import sharding
from sophia_jax.train.devices import accelerator
from sophia_jax.train.optimizer import OptimizerConfig, make_optimizer
from sophia_jax.train.state import create, layout
from sophia_jax.train.step import Step, scalars
from sophia_jax.types import Batch, Role, SophiaError, TokenSequence

# A constant learning rate: the cosine ends where it begins.
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, final_fraction=1.0)
ALGORITHM = sft.sft(sft.Config())
AGREE = 1e-4
"""Largest relative difference of both losses in fp32; bf16 rounds more."""
PARTS = {
  "language": ("model.language_model", "lm_head"),
  "projector": ("model.multi_modal_projector",),
  "vision": ("model.vision_tower",),
}
"""Modules in transformers of each part of the model."""
IGNORED = -100

Update = Callable[[], float]
"""Function that updates once and returns the loss before it."""


# --------------------------------------------------------------------- sequences
def sequence(
  index: int, tiles: int, question: int, response: int, cfg: InternVLConfig
) -> TokenSequence:
  """Returns [image] question response, of random words."""
  rng = np.random.default_rng(index)
  shown = cfg.tokens_per_tile * tiles
  roles = np.full(shown + question + response, Role.RESPONSE, np.int8)
  roles[: shown + question] = Role.PROMPT
  roles[:shown] = Role.IMAGE
  ids = rng.integers(3, cfg.image_token_id, len(roles)).astype(np.int32)
  ids[roles == Role.IMAGE] = cfg.image_token_id
  return TokenSequence(
    id=str(index),
    token_ids=ids,
    roles=roles,
    images=(str(index),) if tiles else (),
    tiles=(tiles,) if tiles else (),
    streams=reduced(roles, reductions.token),
  )


def whole_rows(
  cfg: InternVLConfig, rows: int, length: int
) -> list[TokenSequence]:
  """Returns one sequence a row."""
  question = 4
  response = length - cfg.tokens_per_tile - question
  return [sequence(i, 1, question, response, cfg) for i in range(rows)]


def many_lengths(
  cfg: InternVLConfig, rows: int, length: int
) -> list[TokenSequence]:
  """Returns about as many tokens in three sequences a row, one with an image."""
  rng = np.random.default_rng(0)
  room = (length - cfg.tokens_per_tile) / 3
  sizes = rng.uniform(0.3, 0.9, 3 * rows) * room
  found = [
    sequence(i, int(i % 3 == 0), 8, int(n), cfg) for i, n in enumerate(sizes)
  ]
  return sorted(found, key=len, reverse=True)  # so that they fit the rows


CASES = {"rows": whole_rows, "packed": many_lengths}


def load_tiles(side: int, path: str, count: int) -> np.ndarray:
  """Returns noise that depends only on the name."""
  rng = np.random.default_rng(int(path))
  return rng.integers(0, 256, (count, side, side, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Task:
  """A model and the sequences that it is trained on."""

  cfg: InternVLConfig
  sequences: Sequence[TokenSequence]
  rows: int
  length: int
  trained: tuple[str, ...]
  block: int
  """Tokens of a row whose logits exist at the same time."""

  def tiles(self, path: str, count: int) -> np.ndarray:
    assert self.cfg.vision is not None
    return load_tiles(self.cfg.vision.image_size, path, count)


# ------------------------------------------------------------------------- ours
class Ours:
  """The step of launch.train, compiled for one batch of packed rows.

  Raises:
    SophiaError: the sequences are more than one batch.
  """

  def __init__(self, task: Task, params: Any):
    self._batch = packed(task)
    self._mesh = sharding.make_mesh(sharding.MeshConfig())
    params = sharding.place(params, logical_axes(task.cfg), self._mesh)
    tx = make_optimizer(OPTIMIZER, updates=1000)
    with self._rules():
      self._state = create(params, tx, task.trained)
      where, model = layout(self._state), InternVL(task.cfg)
      self._step = Step(model, ALGORITHM, tx, where, task.block)

  def __call__(self) -> float:
    with self._rules():
      numbers = scalars(ALGORITHM, Moment())
      done = self._step(self._state, self._placed(), numbers)
      self._state, metrics, _ = done
    return float(jax.block_until_ready((self._state, metrics))[1]["loss"])

  def memory(self) -> Any:
    """Returns the compiler's figures for the gradient of a microbatch."""
    with self._rules():
      counts, sums = self._step.start(self._state.params)
      lowered = self._step.accumulate.lower(
        sums,
        self._state.params,
        self._state.frozen,
        self._placed()[0],
        counts,
        scalars(ALGORITHM, Moment()),
      )
      return lowered.compile().memory_analysis()

  def _placed(self) -> list[Batch]:
    return sharding.microbatches(self._batch, self._mesh)

  @contextlib.contextmanager
  def _rules(self) -> Iterator[None]:
    with jax.set_mesh(self._mesh), nn.logical_axis_rules(sharding.RULES):
      yield


def packed(task: Task) -> Batch:
  """Packs all sequences into one batch."""
  cfg, images = task.cfg, sum(sum(s.tiles) for s in task.sequences)
  shape = PackConfig(rows=task.rows, length=task.length, tile_budget=images)
  batches = plan([size_of(s) for s in task.sequences], shape).batches
  if len(batches) != 1:
    raise SophiaError(
      f"--length={task.length}: {len(task.sequences)} sequences are "
      f"{len(batches)} batches, not one; raise --rows"
    )
  assert cfg.vision is not None
  rows = [[task.sequences[i] for i in row] for row in batches[0]]
  batch = pack(
    rows,
    shape,
    tokens_per_tile=cfg.tokens_per_tile,
    tile_size=cfg.vision.image_size,
    streams=ALGORITHM.streams,
    load_tiles=task.tiles,
  )
  return stack([batch])


# ----------------------------------------------------------------------- theirs
def padded(task: Task, device: torch.device) -> dict[str, torch.Tensor]:
  """Pads each sequence to the longest, one a row."""
  shape = len(task.sequences), max(map(len, task.sequences))
  ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
  mask = np.zeros(shape, np.int64)
  for row, s in enumerate(task.sequences):
    ids[row, : len(s)], mask[row, : len(s)] = s.token_ids, 1
    learnt = np.where(s.roles == Role.RESPONSE, s.token_ids, IGNORED)
    labels[row, : len(s)] = learnt
  tiles = [task.tiles(*shown) for s in task.sequences for shown in images(s)]
  return {
    "input_ids": torch.from_numpy(ids).to(device),
    "attention_mask": torch.from_numpy(mask).to(device),
    "labels": torch.from_numpy(labels).to(device),
    "pixel_values": pixels(np.concatenate(tiles)).to(device),
  }


def images(sequence: TokenSequence) -> list[tuple[str, int]]:
  return list(zip(sequence.images, sequence.tiles))


def theirs(
  task: Task, directory: str, attention: str, compiled: str = "model"
) -> Update:
  """Returns an update with transformers' forward pass and loss, fused AdamW.

  Args:
    compiled: on a GPU, torch.compile of the "model", or of each of its "layers",
      which compiles them once.
  """
  cuda = torch.cuda.is_available()
  device = torch.device("cuda" if cuda else "cpu")
  model = transformers.InternVLForConditionalGeneration.from_pretrained(
    directory, dtype=torch.float32, attn_implementation=attention
  )
  model = model.to(device).train()
  names = tuple(name for part in task.trained for name in PARTS[part])
  for name, parameter in model.named_parameters():
    parameter.requires_grad_(name.startswith(names))
  live = [p for p in model.parameters() if p.requires_grad]
  decay = OPTIMIZER.weight_decay
  optimizer = torch.optim.AdamW(
    [
      {"params": [p for p in live if p.ndim > 1], "weight_decay": decay},
      {"params": [p for p in live if p.ndim < 2], "weight_decay": 0.0},
    ],
    lr=OPTIMIZER.learning_rate,
    betas=(OPTIMIZER.b1, OPTIMIZER.b2),
    fused=True,
  )
  batch = padded(task, device)
  run = model
  if cuda and compiled == "model":
    run = torch.compile(model)
  elif cuda:
    for layer in model.model.language_model.layers:
      layer.compile()
  bf16 = task.cfg.dtype == "bfloat16"
  narrow = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

  def update() -> float:
    optimizer.zero_grad(set_to_none=True)
    with narrow:
      loss = run(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(live, OPTIMIZER.clip_norm)
    optimizer.step()
    if cuda:
      torch.cuda.synchronize()
    return float(loss.detach())

  return update


# ---------------------------------------------------------------------- measured
def measure(
  cfg: InternVLConfig, case: str, args: argparse.Namespace
) -> dict[str, Any]:
  sequences = CASES[case](cfg, args.rows, args.length)
  trained = tuple(args.trained.split(","))
  task = Task(cfg, sequences, args.rows, args.length, trained, args.block)
  with tempfile.TemporaryDirectory() as directory:
    save_params(random_params(cfg), cfg, directory + "/hf")
    works: dict[str, Update] = {
      "ours": Ours(task, load_params(directory + "/hf", cfg)),
      "hf": theirs(task, directory + "/hf", args.attention),
    }
  losses = {name: [work(), work()] for name, work in works.items()}
  np.testing.assert_allclose(
    losses["ours"], losses["hf"], rtol=AGREE if cfg.dtype == "float32" else 0.01
  )
  seconds = interleaved(works, args.reps)
  return {
    "case": case,
    "trained": args.trained,
    "reps": args.reps,
    "places": {
      "ours": args.rows * args.length,
      "hf": len(sequences) * max(map(len, sequences)),
    },
    **report(cfg, sequences, trained, seconds),
    "loss": {k: [round(x, 6) for x in v] for k, v in losses.items()},
  }


def report(
  cfg: InternVLConfig,
  sequences: Sequence[TokenSequence],
  trained: tuple[str, ...],
  seconds: dict[str, list[tuple[float, float]]],
) -> dict[str, Any]:
  """Summarises (wall, CPU) seconds of every update of both."""
  tokens = sum(map(len, sequences))
  pairs = sum(n * (n + 1) / 2 for n in map(len, sequences))
  tiles = sum(sum(s.tiles) for s in sequences)
  needed = flops.update(cfg, flops.Work(tokens, pairs, tiles), trained)
  wall, cpu = (
    statistics.median(
      t[i] / o[i] for o, t in zip(seconds["ours"], seconds["hf"])
    )
    for i in (0, 1)
  )
  middle = lambda times, i: statistics.median(t[i] for t in times)
  found = {
    "ratio": round(wall, 3),
    "cpu_ratio": round(cpu, 3),
    "tokens": tokens,
    "s": {k: round(middle(v, 0), 3) for k, v in seconds.items()},
    "cpu_s": {k: round(middle(v, 1), 3) for k, v in seconds.items()},
    "tokens_per_s": {
      k: round(tokens / middle(v, 0)) for k, v in seconds.items()
    },
  }
  if known := accelerator(jax.devices()[0].device_kind):
    found["mfu"] = {
      k: round(needed / middle(v, 0) / known.flops, 4)
      for k, v in seconds.items()
    }
  return found


def config(args: argparse.Namespace) -> InternVLConfig:
  """Returns a released size, or the small one, with training's settings."""
  how = {"dtype": args.dtype, "scan_unroll": args.scan_unroll}
  if args.size in SIZES:
    return dataclasses.replace(SIZES[args.size], remat=args.remat, **how)
  small = SMALL[args.size]
  return InternVLConfig(
    vision=small.vision,
    decoder=DecoderConfig(vocab=small.vocab, **small.decoder),
    image_token_id=small.vocab - 1,
    remat=args.remat,
    **how,
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.train_step --case=packed",
  )
  parser.add_argument("--size", default="75m", choices=["75m", *SIZES])
  parser.add_argument("--case", default=",".join(CASES))
  parser.add_argument("--trained", default="language")
  parser.add_argument("--rows", type=int, default=4)
  parser.add_argument("--length", type=int, default=512)
  parser.add_argument("--block", type=int, default=128)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--remat", default="none")
  parser.add_argument("--scan_unroll", type=int, default=1)
  parser.add_argument("--attention", default="sdpa")
  parser.add_argument("--reps", type=int, default=7)
  args = parser.parse_args()
  torch.set_num_threads(os.cpu_count() or 1)
  for case in args.case.split(","):
    print(json.dumps(measure(config(args), case, args)), flush=True)


if __name__ == "__main__":
  main()
