"""Cost of an update by formula, for devices that cannot be compiled for here.

The state is exact: the shapes of its shards. Everything else is a model of the
program.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.models import InternVLConfig, QwenVisionConfig, flops, lora
from sophia_jax.models.lora import Lora
from sophia_jax.plans import aot
from sophia_jax.plans.shape import Shape
from sophia_jax.train.devices import Accelerator
from sophia_jax.train.optimizer import OptimizerConfig

MATMULS = 0.7
"""Share of the peak that large matrix products reach."""
NODE = 8
"""GPUs of a node, joined by NVLink."""
NVLINK, NETWORK = 450e9, 50e9
"""Bytes/s that a GPU sends inside its node and out of it (400 Gb/s each)."""


@dataclasses.dataclass(frozen=True)
class Case:
  """An update and the devices that are to compute it."""

  cfg: InternVLConfig
  algorithm: Algorithm
  shape: Shape
  trained: tuple[str, ...]
  """Parts of the model that are trained."""
  optimizer: OptimizerConfig
  mesh: Any
  accelerator: Accelerator
  attention: float
  """Share of the peak that the attention kernel reaches."""
  gpus: bool = False
  """Whether the mesh stands for GPUs."""
  lora: Lora | None = None
  """Adapters that are trained in the place of the parts; None: the parts."""

  @property
  def changed(self) -> tuple[str, ...]:
    """Returns the top-level parts of the parameters that an update changes."""
    return self.trained if self.lora is None else (lora.PART,)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of an update for each device."""

  memory: dict[str, float]
  """Bytes by kind; their sum is the peak."""
  collectives: dict[str, float]
  """Bytes moved, by kind of collective."""
  seconds: dict[str, float]
  """Seconds per component."""


def cost(case: Case) -> Cost:
  """Estimates an update on GPUs.

  Communication hides behind computation, or computation behind it.
  """
  shape, mesh = case.shape, case.mesh
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
  seconds = {name: shape.microbatches * s for name, s in seconds.items()}
  seconds["optimizer"] = optimizer_seconds(memory, case.accelerator)
  moved = {kind: shape.microbatches * size for kind, size in moved.items()}
  return Cost(memory=memory, collectives=moved, seconds=seconds)


# ---------------------------------------------------------------------- memory
def state_bytes(case: Case) -> dict[str, float]:
  """Returns bytes of a device's shards: parameters, moments, gradients."""
  trained_parts = case.changed
  params = params_of(case)
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


def params_of(case: Case) -> Any:
  """Returns shapes of all parameters with their shardings, frozen ones in bf16."""
  return aot.whole_params(
    case.cfg, case.mesh, case.trained, "bfloat16", case.lora
  )


def merged_bytes(case: Case) -> float:
  """Returns bytes of a device's shards of what new weights differ in, in bf16.

  Where adapters are trained those are the weights that they are merged into.
  """
  params = aot.placed_params(case.cfg, case.mesh, (), "bfloat16")
  if case.lora is None:
    return float(aot.held([params[part] for part in case.trained]))
  flat = flatten_dict(params, sep="/")
  kernels = lora.kernels(case.cfg, case.lora)
  return float(aot.held([flat[path] for path in kernels]))


def kept_bytes(case: Case) -> float:
  """Returns bytes that the backward pass keeps of all blocks, in bf16."""
  d, shape = case.cfg.decoder, case.shape
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
  return 2.0 * values * d.depth * shape.rows * shape.length / case.mesh.size


def _temporaries(case: Case) -> float:
  """Returns the most bytes that a block, the head or the encoder needs.

  A microbatch's own gradients, beside their sum, exist throughout.
  """
  d, shape, mesh = case.cfg.decoder, case.shape, case.mesh
  tokens = shape.rows * shape.length / mesh.size
  tensor = mesh.shape["tensor"]
  # Backward, bf16: what "none" keeps, a gradient of each, and rows gathered
  # over the tensor axis; two blocks' gathered weights.
  heads = d.heads * d.head_dim
  values = 3 * d.width * tensor + 2 * (2 * heads + 3 * d.mlp)
  weights = d.width * (2 * heads + 2 * d.kv_heads * d.head_dim + 3 * d.mlp)
  block = 2.0 * values * tokens + 2 * 2.0 * weights / tensor
  # fp32: logits, their gradient, the head's gradient; the head in bf16.
  logits = shape.block * shape.rows / mesh.size * d.vocab
  head = 8.0 * logits + 6.0 * d.width * d.vocab
  encoder = _encoder_bytes(case)
  return state_bytes(case)["gradients"] + max(block, head, encoder)


def forward_bytes(case: Case) -> float:
  """Returns the most bytes that a part of a forward pass needs."""
  d, shape, mesh = case.cfg.decoder, case.shape, case.mesh
  tokens, tensor = shape.rows * shape.length / mesh.size, mesh.shape["tensor"]
  heads, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
  values = 2 * d.width * tensor + 2 * heads + 2 * keys + 2 * d.mlp
  weights = d.width * (2 * heads + 2 * keys + 3 * d.mlp)
  block = 2.0 * values * tokens + 2 * 2.0 * weights / tensor
  # Logits in fp32, the head in bf16.
  logits = shape.block * shape.rows / mesh.size * d.vocab
  head = 4.0 * logits + 2.0 * d.width * d.vocab
  return max(block, head, _encoder_bytes(case))


def _encoder_bytes(case: Case) -> float:
  """Returns the most bytes that a layer of the encoder needs, in bf16."""
  vision = case.cfg.vision
  if vision is None:
    return 0.0
  tiles = case.shape.tiles
  if isinstance(vision, QwenVisionConfig):
    # Devices that share a row all encode its images.
    patches = vision.grid**2 * tiles / case.mesh.shape["data"]
    patches /= case.mesh.shape["fsdp"]
    return 2.0 * patches * (5 * vision.width + 3 * vision.mlp)
  patches = (vision.grid**2 + 1) * tiles / case.mesh.size
  return 2.0 * patches * (5 * vision.width + 2 * vision.mlp)


# --------------------------------------------------------------------- seconds
def block_flops(case: Case) -> float:
  """Counts the products of one block in a microbatch, over all devices.

  Forward, two gradients, and what the backward pass recomputes: never the last
  product, whose result is added to the residual and needed by no gradient. Beside
  adapters a weight has no gradient; their products are small and left out.
  """
  d, shape = case.cfg.decoder, case.shape
  heads, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
  attention = 2 * heads + 2 * keys
  again = {"none": 0, "dots": 0, "up": attention + d.mlp}.get(
    case.cfg.remat, attention + 2 * d.mlp
  )
  columns = (3 if case.lora is None else 2) * (attention + 3 * d.mlp) + again
  return 2.0 * d.width * columns * shape.rows * shape.length


def head_flops(case: Case) -> float:
  """Counts the head's products: forward, recomputed, and two gradients.

  A head beside adapters is frozen and has one.
  """
  d, shape = case.cfg.decoder, case.shape
  products = 4 if case.lora is None else 3
  return 2.0 * products * d.width * d.vocab * shape.rows * shape.length


def encoder_flops(case: Case) -> float:
  """Counts encoder and projector, which are frozen: forward alone."""
  work = flops.Work(tokens=0, pairs=0, tiles=case.shape.tiles)
  return sum(flops.forward(case.cfg, work).values())


def attention_flops(case: Case) -> float:
  """Counts the attention kernel's work: the causal half of every row.

  Two products forward, five backward; forward once more where a block is
  recomputed and attention is not kept.
  """
  d, shape = case.cfg.decoder, case.shape
  again = 2 * (case.cfg.remat in ("block", "offload"))
  pairs = shape.rows * shape.length * (shape.length + 1) / 2
  heads = d.heads * d.head_dim
  return 2.0 * (2 + again + 5) * d.depth * heads * pairs


def optimizer_seconds(
  memory: dict[str, float], accelerator: Accelerator
) -> float:
  """Returns seconds to read parameters, two moments and gradients, and to write
  the first three."""
  return 7 * memory["parameters"] / accelerator.bandwidth


def _moved(case: Case) -> dict[str, float]:
  """Returns bytes that a device receives in a microbatch.

  Weights in bf16 forward and backward, the encoder's once; gradients in bf16;
  rows between the devices of a tensor axis, four times forward and backward.
  """
  d, shape, axes = case.cfg.decoder, case.shape, case.mesh.shape
  params = params_of(case)
  over = axes["fsdp"] * axes["context"]
  count = lambda parts: (
    sum(leaf.size for part in parts for leaf in jax.tree.leaves(params[part]))
    / axes["tensor"]
    * (1 - 1 / over)
  )
  twice = {*case.trained, *case.changed}
  trained = count(p for p in params if p in twice)
  frozen = count(p for p in params if p not in twice)
  summed = count(p for p in params if p in case.changed)
  rows = shape.rows * shape.length / (axes["data"] * axes["fsdp"])
  tokens = rows / axes["context"] * (1 - 1 / axes["tensor"])
  exchanged = 8 * 2.0 * d.depth * d.width * tokens
  return {
    "all-gather": 2.0 * (2 * trained + frozen) + exchanged / 2,
    "reduce-scatter": 2.0 * summed + exchanged / 2,
  }
