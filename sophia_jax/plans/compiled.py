"""What an update takes of every device, by the compiler's own figures.

Memory and collectives are those of the true program. Seconds are an estimate:
the compiler's cost model of one block, which is the difference between programs
of two blocks and of one (the body of a loop is counted once, so the whole
program's own figure would be of one block), times the blocks there are. Head and
encoder run at the speed of the blocks. No update takes less than its collectives
take the links, and no block is faster than products at `arithmetic.MATMULS` of
the peak. Ranks shardings; is no timing.
"""

from __future__ import annotations

import dataclasses

import optax

from sophia_jax.algorithms import sophia
from sophia_jax.plans import aot, arithmetic
from sophia_jax.plans.arithmetic import Case, Cost
from sophia_jax.train.devices import Accelerator
from sophia_jax.train.optimizer import make_optimizer


def cost(case: Case) -> Cost:
  """Compiles the train step and what its seconds are estimated from.

  The cost model does not see the attention kernel: that is by formula.

  Raises:
    SophiaError: the step does not fit the devices.
  """
  program = _step(case, make_optimizer(case.train, 1000))
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
  train = case.train
  return aot.compile_step(
    case.cfg,
    sophia.TERMS,
    sophia.STREAMS,
    tx,
    train.trained,
    aot.Shape(
      train.rows, train.length, train.tiles, train.microbatches, train.block
    ),
    case.mesh,
  )


def _memory(case: Case, program: aot.Program) -> dict[str, float]:
  """What the compiler sets aside, by kind.

  More than the live bytes of any moment: blocks of many sizes leave gaps.
  """
  state = arithmetic.state_bytes(case)
  kept = arithmetic.kept_bytes(case)
  given = state["parameters"] + state["frozen"] + state["optimizer"]
  return {
    **state,
    "batch": program.arguments - given,
    "activations": kept,
    "temporaries": program.temporaries - state["gradients"] - kept,
    "code": float(program.code),
  }


# --------------------------------------------------------------------- seconds
def _seconds(case: Case) -> dict[str, float]:
  """Of an update, without the optimizer."""
  cfg, train, accelerator = case.cfg, case.train, case.accelerator
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
    sums = -(-train.length // train.block) * 4.0 * d.width * d.vocab
    micro["head's sums"] = sums / case.mesh.shape["tensor"] / accelerator.links
  if cfg.vision is not None:
    micro["vision"] = slower * arithmetic.encoder_flops(case) / speed
  return {name: train.microbatches * s for name, s in micro.items()}


def _cost(program: aot.Program, accelerator: Accelerator) -> float:
  """Seconds by the compiler's cost model; a CPU's has FLOPs alone."""
  return program.seconds or program.flops / accelerator.flops


def _blocks(case: Case, depth: int) -> aot.Program:
  """A step of `depth` unrolled blocks and no images, not accumulated.

  Without an optimizer, which runs once an update and takes long to compile, and
  with no kernel that tells its cost: attention is by formula.
  """
  cfg = dataclasses.replace(
    case.cfg,
    vision=None,
    decoder=dataclasses.replace(case.cfg.decoder, depth=depth),
    scan_unroll=depth,
    attention="auto",
  )
  train = dataclasses.replace(
    case.train, tiles=0, microbatches=1, trained=("language",)
  )
  case = dataclasses.replace(case, cfg=cfg, train=train)
  return _step(case, optax.identity())
