"""What an update takes of every device, by formula.

The state is exact: the shapes of its shards. Everything else is a model of the
program, for devices that cannot be compiled for where the plan is made.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from sophia_jax.models import InternVLConfig, flops
from sophia_jax.plans import aot
from sophia_jax.train.devices import Accelerator
from sophia_jax.train.loop import TrainConfig

MATMULS = 0.7
"""Of the peak, in large matrix products."""
NODE = 8
"""GPUs of a node, which NVLink joins."""
NVLINK, NETWORK = 450e9, 50e9
"""Bytes/s that a GPU sends inside its node, and out of it (400 Gb/s each)."""


@dataclasses.dataclass(frozen=True)
class Case:
  """An update and the devices that are to make it."""

  cfg: InternVLConfig
  train: TrainConfig
  mesh: Any
  accelerator: Accelerator
  attention: float
  """The part of the peak that the attention kernel reaches."""


@dataclasses.dataclass(frozen=True)
class Cost:
  """What an update takes of a device. Bytes, seconds."""

  memory: dict[str, float]
  """By kind; together what the device must have."""
  collectives: dict[str, float]
  """Bytes moved by kind of collective."""
  seconds: dict[str, float]
  """By what takes them."""


def cost(case: Case) -> Cost:
  """Estimates an update on GPUs.

  Communication hides behind computation, or computation behind it.
  """
  train, mesh = case.train, case.mesh
  memory = state_bytes(case)
  memory["activations"] = kept_bytes(case)
  memory["temporaries"] = _temporaries(case)
  moved = _moved(case)
  speed = case.accelerator.flops * mesh.size
  blocks = case.cfg.decoder.depth * block_flops(case)
  seconds = {
    "blocks": blocks / (MATMULS * speed),
    "head": head_flops(case) / (MATMULS * speed),
    "attention": attention_flops(case) / (case.attention * speed),
    "vision": encoder_flops(case) / (MATMULS * speed),
  }
  link = NVLINK if mesh.size <= NODE else NETWORK
  waited = sum(moved.values()) / link - sum(seconds.values())
  seconds["waiting for links"] = max(0.0, waited)
  seconds = {name: train.microbatches * s for name, s in seconds.items()}
  seconds["optimizer"] = optimizer_seconds(memory, case.accelerator)
  moved = {kind: train.microbatches * size for kind, size in moved.items()}
  return Cost(memory=memory, collectives=moved, seconds=seconds)


# ---------------------------------------------------------------------- memory
def state_bytes(case: Case) -> dict[str, float]:
  """Of a device's shards: parameters, moments, and the gradients' sum."""
  trained_parts = case.train.trained
  params = aot.placed_params(case.cfg, case.mesh, trained_parts, "bfloat16")
  size = lambda parts: float(
    sum(
      leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
      for part in parts
      for leaf in jax.tree.leaves(params[part])
    )
  )
  trained = size(p for p in params if p in trained_parts)
  return {
    "parameters": trained,
    "frozen": size(p for p in params if p not in trained_parts),
    "optimizer": 2 * trained,
    "gradients": trained,
  }


def kept_bytes(case: Case) -> float:
  """What the backward pass keeps of every block, in bf16."""
  d, train = case.cfg.decoder, case.train
  heads, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
  dots = heads + 2 * keys + 2 * d.width + 2 * d.mlp
  values = {
    "offload": 0,
    "block": d.width,
    "attention": d.width + heads,
    "up": d.width + heads + d.mlp,
    "dots": d.width + dots,
    "none": 3 * d.width + heads + dots + d.mlp,
  }[case.cfg.remat]
  return 2.0 * values * d.depth * train.rows * train.length / case.mesh.size


def _temporaries(case: Case) -> float:
  """The most that a block, the head or the encoder needs at one time.

  A microbatch's own gradients beside their sum are there throughout.
  """
  d, vision = case.cfg.decoder, case.cfg.vision
  train, mesh = case.train, case.mesh
  tokens = train.rows * train.length / mesh.size
  tensor = mesh.shape["tensor"]
  # Backward, bf16: what "none" keeps, a gradient of each, and rows gathered
  # over the tensor axis; two blocks' gathered weights.
  heads = d.heads * d.head_dim
  values = 3 * d.width * tensor + 2 * (2 * heads + 3 * d.mlp)
  weights = d.width * (2 * heads + 2 * d.kv_heads * d.head_dim + 3 * d.mlp)
  block = 2.0 * values * tokens + 2 * 2.0 * weights / tensor
  # fp32: logits, their gradient, the head's gradient; the head in bf16.
  logits = train.block * train.rows / mesh.size * d.vocab
  head = 8.0 * logits + 6.0 * d.width * d.vocab
  encoder = 0.0
  if vision is not None:
    patches = (vision.grid**2 + 1) * train.tiles / mesh.size
    encoder = 2.0 * patches * (5 * vision.width + 2 * vision.mlp)
  return state_bytes(case)["gradients"] + max(block, head, encoder)


# --------------------------------------------------------------------- seconds
def block_flops(case: Case) -> float:
  """Of the products of one block in a microbatch, over all devices.

  Forward, two gradients, and what the backward pass computes again: never the
  last product, whose result is added to what flows on and asked for by nobody.
  """
  d, train = case.cfg.decoder, case.train
  heads, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
  attention = 2 * heads + 2 * keys
  again = {"none": 0, "dots": 0, "up": attention + d.mlp}.get(
    case.cfg.remat, attention + 2 * d.mlp
  )
  columns = 3 * (attention + 3 * d.mlp) + again
  return 2.0 * d.width * columns * train.rows * train.length


def head_flops(case: Case) -> float:
  """Of the head: forward, the same again, and two gradients."""
  d, train = case.cfg.decoder, case.train
  return 8.0 * d.width * d.vocab * train.rows * train.length


def encoder_flops(case: Case) -> float:
  """Of encoder and projector, which are frozen: forward alone."""
  work = flops.Work(tokens=0, pairs=0, tiles=case.train.tiles)
  return sum(flops.forward(case.cfg, work).values())


def attention_flops(case: Case) -> float:
  """What the kernel executes in a microbatch: the causal half of every row.

  Two products forward, five backward; once more forward where a block is
  computed again and attention is not kept.
  """
  d, train = case.cfg.decoder, case.train
  again = 2 * (case.cfg.remat in ("block", "offload"))
  pairs = train.rows * train.length * (train.length + 1) / 2
  heads = d.heads * d.head_dim
  return 2.0 * (2 + again + 5) * d.depth * heads * pairs


def optimizer_seconds(
  memory: dict[str, float], accelerator: Accelerator
) -> float:
  """Reads the parameter, two moments and the gradient, writes the first three."""
  return 7 * memory["parameters"] / accelerator.bandwidth


def _moved(case: Case) -> dict[str, float]:
  """Bytes that a device receives in a microbatch.

  Weights in bf16 forward and backward, the encoder's once; gradients in bf16;
  rows between the devices of a tensor axis, four times forward and backward.
  """
  d, train, shape = case.cfg.decoder, case.train, case.mesh.shape
  params = aot.placed_params(case.cfg, case.mesh, train.trained, "bfloat16")
  over = shape["fsdp"] * shape["context"]
  count = lambda parts: (
    sum(leaf.size for part in parts for leaf in jax.tree.leaves(params[part]))
    / shape["tensor"]
    * (1 - 1 / over)
  )
  trained = count(p for p in params if p in train.trained)
  frozen = count(p for p in params if p not in train.trained)
  rows = train.rows * train.length / (shape["data"] * shape["fsdp"])
  tokens = rows / shape["context"] * (1 - 1 / shape["tensor"])
  exchanged = 8 * 2.0 * d.depth * d.width * tokens
  return {
    "all-gather": 2.0 * (2 * trained + frozen) + exchanged / 2,
    "reduce-scatter": 2.0 * trained + exchanged / 2,
  }
