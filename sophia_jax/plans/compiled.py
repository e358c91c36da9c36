"""Cost of an update by the compiler's own figures.

Memory and collectives are those of the true program. Seconds are an estimate
that ranks shardings, not a timing: the compiler's cost model of one block, times
the number of blocks. A block's cost is the difference between programs of two
blocks and of one, because the body of a loop is counted once. Head and encoder
run at the speed of the blocks. No update is faster than its collectives on the
links, and no block faster than products at `arithmetic.MATMULS` of the peak.
"""

from __future__ import annotations

import dataclasses

import optax

from sophia_jax.plans import aot, arithmetic
from sophia_jax.plans.arithmetic import Case, Cost
from sophia_jax.train.devices import Accelerator
from sophia_jax.train.optimizer import make_optimizer


def cost(case: Case) -> Cost:
  """Compiles the train step and the blocks that its time is estimated from.

  The attention kernel, which the cost model does not see, is by formula.

  Raises:
    SophiaError: the step does not fit the devices.
  """
  program = _step(case, make_optimizer(case.optimizer, 1000))
  memory = _memory(case, program)
  seconds = _seconds(case)
  seconds["optimizer"] = arithmetic.optimizer_seconds(memory, case.accelerator)
  if case.accelerator.links:
    least = sum(program.collectives.values()) / case.accelerator.links
    seconds["waiting for links"] = max(0.0, least - sum(seconds.values()))
  return Cost(
    memory=memory, collectives=dict(program.collectives), seconds=seconds
  )


def _step(case: Case, tx: optax.GradientTransformation) -> aot.Program:
  return aot.compile_step(
    case.cfg,
    case.algorithm,
    tx,
    case.trained,
    case.shape,
    case.mesh,
    how=case.lora,
  )


def _memory(case: Case, program: aot.Program) -> dict[str, float]:
  """Returns the bytes that the compiler sets aside, by kind.

  More than the live bytes of any moment: buffers of many sizes leave gaps.
  """
  state = arithmetic.state_bytes(case)
  kept = arithmetic.kept_bytes(case)
  arguments = state["parameters"] + state["frozen"] + state["optimizer"]
  return {
    **state,
    "batch": program.arguments - arguments,
    "activations": kept,
    "temporaries": program.temporaries - state["gradients"] - kept,
    "code": float(program.code),
  }


# --------------------------------------------------------------------- seconds
def _seconds(case: Case) -> dict[str, float]:
  """Returns seconds per update, optimizer excluded."""
  cfg, shape, accelerator = case.cfg, case.shape, case.accelerator
  one, two = (_blocks(case, depth) for depth in (1, 2))
  speed = accelerator.flops * case.mesh.size
  products = arithmetic.block_flops(case) / speed
  # Where collectives overlap, libtpu's cost model of v6e is faster than the
  # device's peak, or negative.
  block = max(
    _cost(two, accelerator) - _cost(one, accelerator),
    products / arithmetic.MATMULS,
  )
  slower = block / products
  d = cfg.decoder
  micro = {
    "blocks": d.depth * block,
    "head": slower * arithmetic.head_flops(case) / speed,
    "attention": arithmetic.attention_flops(case) / (case.attention * speed),
  }
  if accelerator.links:
    # The head's gradient is summed over the devices in every block of tokens.
    sums = -(-shape.length // shape.block) * 4.0 * d.width * d.vocab
    micro["head's sums"] = sums / case.mesh.shape["tensor"] / accelerator.links
  if cfg.vision is not None:
    micro["vision"] = slower * arithmetic.encoder_flops(case) / speed
  return {name: shape.microbatches * s for name, s in micro.items()}


def _cost(program: aot.Program, accelerator: Accelerator) -> float:
  """Returns seconds by the compiler's cost model; a CPU's has FLOPs alone."""
  return program.seconds or program.flops / accelerator.flops


def _blocks(case: Case, depth: int) -> aot.Program:
  """Compiles a step of `depth` unrolled blocks without images or accumulation.

  It has no optimizer, which runs once an update and takes long to compile, and
  no attention kernel, whose cost is by formula.
  """
  cfg = dataclasses.replace(
    case.cfg,
    vision=None,
    decoder=dataclasses.replace(case.cfg.decoder, depth=depth),
    scan_unroll=depth,
    attention="auto",
  )
  shape = dataclasses.replace(case.shape, tiles=0, microbatches=1)
  how = case.lora and dataclasses.replace(
    case.lora,
    parts=("language",),
    targets=tuple(t for t in case.lora.targets if t != "projector"),
  )
  block = dataclasses.replace(
    case, cfg=cfg, shape=shape, trained=("language",), lora=how
  )
  return _step(block, optax.identity())
