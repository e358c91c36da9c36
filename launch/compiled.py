"""What an update takes of every device, by the compiler's own figures.

Memory and collectives are those of the true program. Seconds are an estimate:
the compiler's cost model of one block, which is the difference between programs
of two blocks and of one (the body of a loop is counted once, so the whole
program's own figure would be of one block), times the blocks there are. Head and
encoder run at the speed of the blocks. Ranks shardings; is no timing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import optax

from launch import arithmetic
from launch.arithmetic import Cost
from sophia_jax.algorithms import sophia
from sophia_jax.models import InternVLConfig, flops
from sophia_jax.train import aot
from sophia_jax.train.devices import Accelerator
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.optimizer import make_optimizer


def cost(
  cfg: InternVLConfig,
  config: TrainConfig,
  mesh: Any,
  accelerator: Accelerator,
  attention: float,
) -> Cost:
  """Compiles the train step and what its seconds are estimated from.

  Args:
    attention: the part of the peak that the attention kernel reaches, which
      the cost model does not see.

  Raises:
    SophiaError: the step does not fit the devices.
  """
  program = _step(cfg, config, make_optimizer(config, 1000), mesh)
  memory = _memory(cfg, config, program, mesh)
  seconds = _seconds(cfg, config, mesh, accelerator, attention)
  seconds["optimizer"] = arithmetic.optimizer_seconds(memory, accelerator)
  return Cost(
    memory=memory, collectives=dict(program.collectives), seconds=seconds
  )


def _step(
  cfg: InternVLConfig,
  config: TrainConfig,
  tx: optax.GradientTransformation,
  mesh: Any,
) -> aot.Program:
  return aot.compile_step(
    cfg,
    sophia.TERMS,
    sophia.STREAMS,
    tx,
    config.trained,
    aot.Shape(
      config.rows,
      config.length,
      config.tiles,
      config.microbatches,
      config.block,
    ),
    mesh,
  )


def _memory(
  cfg: InternVLConfig, config: TrainConfig, program: aot.Program, mesh: Any
) -> dict[str, float]:
  """What the compiler sets aside, by kind.

  More than the live bytes of any moment: blocks of many sizes leave gaps.
  """
  state = arithmetic.state_bytes(cfg, config, mesh)
  kept = arithmetic.kept_bytes(cfg, config, mesh)
  given = state["parameters"] + state["frozen"] + state["optimizer"]
  return {
    **state,
    "batch": program.arguments - given,
    "activations": kept,
    "temporaries": program.temporaries - state["gradients"] - kept,
    "code": float(program.code),
  }


# --------------------------------------------------------------------- seconds
def _seconds(
  cfg: InternVLConfig,
  config: TrainConfig,
  mesh: Any,
  accelerator: Accelerator,
  attention: float,
) -> dict[str, float]:
  """Of an update, without the optimizer."""
  one, two = (_blocks(cfg, config, mesh, depth) for depth in (1, 2))
  block = _cost(two, accelerator) - _cost(one, accelerator)
  products = two.flops - one.flops
  if block <= 0:
    # libtpu's cost model of v6e is negative where collectives overlap.
    block = products / (arithmetic.MATMULS * accelerator.flops)
  efficiency = products / (block * accelerator.flops)
  speed = accelerator.flops * mesh.size
  d = cfg.decoder
  # Forward, the same again, and two gradients.
  head = 8.0 * d.width * d.vocab * config.rows * config.length
  encoder = flops.forward(
    cfg, flops.Work(tokens=0, pairs=0, tiles=config.tiles)
  )
  micro = {
    "blocks": d.depth * block,
    "head": head / (efficiency * speed),
    "attention": arithmetic.attention_flops(cfg, config) / (attention * speed),
  }
  if accelerator.links:
    # The head's gradient is summed over the devices in every block of tokens.
    sums = -(-config.length // config.block) * 4.0 * d.width * d.vocab
    micro["head's sums"] = sums / mesh.shape["tensor"] / accelerator.links
  if cfg.vision is not None:
    micro["vision"] = sum(encoder.values()) / (efficiency * speed)
  return {name: config.microbatches * s for name, s in micro.items()}


def _cost(program: aot.Program, accelerator: Accelerator) -> float:
  """Seconds by the compiler's cost model; a CPU's has FLOPs alone."""
  return program.seconds or program.flops / accelerator.flops


def _blocks(
  cfg: InternVLConfig, config: TrainConfig, mesh: Any, depth: int
) -> aot.Program:
  """A step of `depth` unrolled blocks and no images, not accumulated.

  Without an optimizer, which runs once an update and takes long to compile.
  """
  small = dataclasses.replace(
    cfg,
    vision=None,
    decoder=dataclasses.replace(cfg.decoder, depth=depth),
    scan_unroll=depth,
  )
  bare = dataclasses.replace(
    config, tiles=0, microbatches=1, trained=("language",)
  )
  return _step(small, bare, optax.identity(), mesh)
