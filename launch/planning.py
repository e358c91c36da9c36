"""What an update takes on devices that are not there.

Memory and collectives are the compiler's own figures for the true program.
Seconds are an estimate: the compiler's cost model of one block, which is the
difference between programs of two blocks and of one (the body of a loop is
counted once, so the whole program's own figure would be of one block), times
the blocks there are. Ranks shardings; is no timing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from sophia_jax.algorithms import sophia
from sophia_jax.models import InternVLConfig, flops
from sophia_jax.train import aot, sharding
from sophia_jax.train.devices import GIB, Accelerator
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.optimizer import make_optimizer

ROOM = 0.9
"""The part of a device's memory that a plan may fill."""


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What the estimate takes for granted."""

  segment: int = 0
  """Tokens of a packed sequence; 0: a row is one."""
  attention_efficiency: float = 0.5
  """Of the peak, in the attention kernel, which the cost model does not see."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """One candidate, per device where it applies. GiB, seconds."""

  topology: str
  mesh: dict[str, int]
  fits: bool
  hbm_gib: float
  peak_gib: float
  tokens_per_step: int
  memory_gib: dict[str, float]
  collectives_gib: dict[str, float]
  model_flops: float
  """Of an update, over all devices."""
  estimated_seconds: float
  estimated_mfu: float
  estimated_tokens_per_s: float
  """Over all devices."""
  seconds: dict[str, float]
  """What the estimate consists of."""
  advice: str


def plan(
  cfg: InternVLConfig,
  config: TrainConfig,
  mesh_config: sharding.MeshConfig,
  topology: str,
  accelerator: Accelerator,
  assumptions: Assumptions,
) -> Plan:
  """Compiles the train step and what its cost is estimated from.

  Raises:
    SophiaError: the batch does not divide among the devices, or the step does
      not fit them.
  """
  mesh = sharding.make_mesh(mesh_config, aot.devices(topology))
  shape = aot.Shape(
    config.rows, config.length, config.tiles, config.microbatches, config.block
  )
  sharding.check_shape(config.rows, config.length, config.tiles, mesh)
  whole = _compile(cfg, config, shape, mesh)
  memory = _memory(cfg, config, whole, mesh)
  work = _work(config, assumptions)
  seconds = _seconds(cfg, config, mesh, accelerator, assumptions, memory)
  total = sum(seconds.values())
  needed = flops.update(cfg, work, config.trained)
  peak = whole.peak / GIB
  hbm = accelerator.memory / GIB
  tokens = config.microbatches * config.rows * config.length
  return Plan(
    topology=topology,
    mesh=dict(mesh.shape),
    fits=peak <= ROOM * hbm,
    hbm_gib=round(hbm, 4),
    peak_gib=round(peak, 4),
    tokens_per_step=tokens,
    memory_gib={name: round(size, 4) for name, size in memory.items()},
    collectives_gib={
      kind: round(size / GIB, 4) for kind, size in whole.collectives.items()
    },
    model_flops=needed,
    estimated_seconds=round(total, 4),
    estimated_mfu=round(needed / (total * accelerator.flops * mesh.size), 4),
    estimated_tokens_per_s=round(tokens / total, 1),
    seconds={name: round(value, 4) for name, value in seconds.items()},
    advice=_advice(cfg, config, peak, hbm),
  )


def _compile(
  cfg: InternVLConfig,
  config: TrainConfig,
  shape: aot.Shape,
  mesh: Any,
) -> aot.Program:
  return aot.compile_step(
    cfg,
    sophia.TERMS,
    sophia.STREAMS,
    make_optimizer(config, 1000),
    config.trained,
    shape,
    mesh,
  )


# ---------------------------------------------------------------------- memory
def _memory(
  cfg: InternVLConfig,
  config: TrainConfig,
  program: aot.Program,
  mesh: Any,
) -> dict[str, float]:
  """GiB by kind; activations are what the backward pass keeps of every block."""
  params = aot.placed_params(cfg, mesh, config.trained, "bfloat16")
  size = lambda parts: sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for part in parts
    for leaf in jax.tree.leaves(params[part])
  )
  trained = size(p for p in params if p in config.trained)
  tokens = config.rows * config.length / mesh.size
  kept = {"offload": 0, "block": 1, "attention": 2}.get(cfg.remat, math.nan)
  activations = kept * 2 * cfg.decoder.depth * tokens * cfg.decoder.width
  kinds = {
    "parameters": trained,
    "frozen": size(p for p in params if p not in config.trained),
    "optimizer": 2 * trained,
    "gradients": trained,
    "activations": activations,
  }
  kinds["batch"] = (
    program.arguments
    - kinds["parameters"]
    - kinds["frozen"]
    - kinds["optimizer"]
  )
  kinds["temporaries"] = program.temporaries - trained - activations
  kinds["code"] = program.code
  return {name: value / GIB for name, value in kinds.items()}


# --------------------------------------------------------------------- seconds
def _work(config: TrainConfig, assumptions: Assumptions) -> flops.Work:
  """Of an update."""
  rows = config.microbatches * config.rows
  segment = assumptions.segment or config.length
  return flops.Work(
    tokens=rows * config.length,
    pairs=rows * config.length * (segment + 1) / 2,
    tiles=config.microbatches * config.tiles,
  )


def _seconds(
  cfg: InternVLConfig,
  config: TrainConfig,
  mesh: Any,
  accelerator: Accelerator,
  assumptions: Assumptions,
  memory: dict[str, float],
) -> dict[str, float]:
  """Seconds of an update by what takes them."""
  one, two = (_blocks(cfg, config, mesh, depth) for depth in (1, 2))
  block = _cost(two, accelerator) - _cost(one, accelerator)
  efficiency = (two.flops - one.flops) / (block * accelerator.flops)
  speed = accelerator.flops * mesh.size
  d = cfg.decoder
  micro = {
    "blocks": d.depth * block,
    # Forward, the same again, and two gradients, at the speed of the blocks.
    "head": 8.0
    * d.width
    * d.vocab
    * config.rows
    * config.length
    / (efficiency * speed),
    "attention": _attention_flops(cfg, config)
    / (assumptions.attention_efficiency * speed),
  }
  if cfg.vision is not None and config.tiles:
    micro["vision"] = _vision_seconds(cfg, config.tiles, mesh, accelerator)
  seconds = {name: config.microbatches * s for name, s in micro.items()}
  # Reads the parameter, two moments and the gradient, writes the first three.
  moved = 7 * memory["parameters"] * GIB
  return {**seconds, "optimizer": moved / accelerator.bandwidth}


def _cost(program: aot.Program, accelerator: Accelerator) -> float:
  """Seconds by the compiler's cost model; a CPU's has FLOPs alone."""
  return program.seconds or program.flops / accelerator.flops


def _blocks(
  cfg: InternVLConfig, config: TrainConfig, mesh: Any, depth: int
) -> aot.Program:
  """A step of `depth` unrolled blocks and no images, not accumulated."""
  small = dataclasses.replace(
    cfg,
    vision=None,
    decoder=dataclasses.replace(cfg.decoder, depth=depth),
    scan_unroll=depth,
  )
  shape = aot.Shape(config.rows, config.length, 0, 1, config.block)
  trained = dataclasses.replace(config, trained=("language",))
  return _compile(small, trained, shape, mesh)


def _vision_seconds(
  cfg: InternVLConfig, tiles: int, mesh: Any, accelerator: Accelerator
) -> float:
  """Of a microbatch's tiles: patches, blocks, projector."""
  assert cfg.vision is not None
  one, two = (
    _cost(aot.compile_encoder(small, tiles, mesh), accelerator)
    for small in (
      dataclasses.replace(
        cfg,
        vision=dataclasses.replace(cfg.vision, depth=depth),
        decoder=dataclasses.replace(cfg.decoder, depth=1),
        scan_unroll=depth,
      )
      for depth in (1, 2)
    )
  )
  return one + (cfg.vision.depth - 1) * (two - one)


def _attention_flops(cfg: InternVLConfig, config: TrainConfig) -> float:
  """What the kernel executes in a microbatch: the causal half of every row.

  Two products forward, five backward; once more forward where a block is
  computed again and attention is not kept.
  """
  again = 2 * (cfg.remat in ("block", "offload"))
  pairs = config.rows * config.length * (config.length + 1) / 2
  heads = cfg.decoder.heads * cfg.decoder.head_dim
  return 2.0 * (2 + again + 5) * cfg.decoder.depth * heads * pairs


# ---------------------------------------------------------------------- advice
def _advice(
  cfg: InternVLConfig, config: TrainConfig, peak: float, hbm: float
) -> str:
  """What to change when it does not fit; what to spend when there is room."""
  if peak > ROOM * hbm:
    if cfg.remat not in ("block", "offload"):
      return "recompute more: --config.policy.remat=block"
    return (
      "spread a row over more devices: double --config.mesh.tensor or "
      "--config.mesh.context and halve --config.train.rows, doubling "
      "--config.train.microbatches"
    )
  if peak < 0.6 * hbm and cfg.remat in ("block", "offload"):
    return "there is room to recompute less: --config.policy.remat=attention"
  return ""
