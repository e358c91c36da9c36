"""A plan of a round: what it needs beside its update.

A round samples, annotates and updates. Between its updates the devices hold
copies of the weights, and the caches of an embedded engine. What is held is
exact: the shapes of its shards. Annotation is made of the components of the
update's cost that a forward pass has. Sampling rests on an assumed throughput.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.models import init_caches
from sophia_jax.plans import aot, arithmetic
from sophia_jax.plans.arithmetic import Case, Cost
from sophia_jax.plans.shape import Shape
from sophia_jax.train.devices import GIB
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Grade,
  Problem,
  Prompt,
  SophiaError,
  Status,
  Verdict,
)

THROUGHPUT = 1000.0
"""Tokens/s that a device samples, where nothing else is said: assumed."""
OWN = ("policy", "caption")
"""Roles that the policy plays."""


@dataclasses.dataclass(frozen=True)
class Engine:
  """Sizes of an embedded engine."""

  slots: int
  """Requests decoded together."""
  length: int
  """Tokens of a prompt and its response, at most."""


@dataclasses.dataclass(frozen=True)
class Rounds:
  """A stage's rounds."""

  groups: int
  """Problems that a round learns."""
  draws: int
  """Times that a round may sample as many problems."""
  epochs: int
  """Passes over a round's sequences."""
  minibatches: int
  """Updates of an epoch."""
  ahead: int
  """Rounds sampled before their turn."""
  response: int
  """Longest response, tokens."""
  engine: Engine | None
  """Engine in the trainer's process; None: servers sample."""
  throughput: float = THROUGHPUT
  """Tokens/s that a device samples."""

  def __post_init__(self) -> None:
    if self.throughput <= 0:
      raise SophiaError(
        f"--sampling_throughput={self.throughput}: give tokens/s above 0"
      )


@dataclasses.dataclass(frozen=True)
class Round:
  """The cost of a round."""

  sequences: int
  """Responses that are learnt, if all of them are kept."""
  requests: dict[str, int]
  """Requests of a problem, by role."""
  updates: int
  held_gib: dict[str, float]
  """Memory on a device beside an update's own, by kind, GiB."""
  phases_gib: dict[str, float]
  """Memory on a device by phase, GiB."""
  seconds: dict[str, float]
  """Seconds by phase; "round" is the whole."""
  scored_by: list[str]
  """Models that annotation runs forward, once for each stream they make."""
  throughput: float
  """Assumed tokens/s that a device samples."""
  response: int
  """Assumed length of a response, tokens."""
  sampler: str
  """"embedded": in the trainer's process. "servers": on as many devices more."""
  draws: int
  """Times that sampling may take place until enough groups are left."""


def shape(
  rounds: Rounds, algorithm: Algorithm, update: Shape, segment: int
) -> Shape:
  """Returns the shape of an update of a round whose sequences are all kept.

  Args:
    update: rows, length and tiles of a microbatch.
    segment: length of a sequence, tokens.
  """
  count = rounds.groups * sum(own(requests(algorithm)).values())
  each = -(-count // rounds.minibatches)
  rows = -(-each // max(1, update.length // segment))
  return dataclasses.replace(update, microbatches=-(-rows // update.rows))


def cost(
  rounds: Rounds, case: Case, update: Cost, segment: int
) -> tuple[Round, dict[str, float], float]:
  """Estimates a round.

  Args:
    update: the cost of one of its updates.
    segment: length of a sequence, tokens.

  Returns:
    The round, bytes held beside an update's own by kind, and the peak, bytes.
  """
  asked = requests(case.algorithm)
  count = rounds.groups * sum(own(asked).values())
  held = held_bytes(rounds, case)
  phases = _phases(rounds, case, update, sum(held.values()))
  response = min(rounds.response, segment)
  updates = rounds.epochs * rounds.minibatches
  one = sum(update.seconds.values())
  learners = 2 if case.algorithm.critic else 1
  scored = scored_by(case.algorithm)
  forward = forward_seconds(case, update)
  seconds = {
    "sampling": count * response / (rounds.throughput * case.mesh.size),
    "annotation": len(scored) * rounds.minibatches * forward,
    "update": learners * updates * one,
  }
  learnt = seconds["annotation"] + seconds["update"]
  seconds["round"] = (
    max(seconds["sampling"], learnt)
    if rounds.ahead
    else seconds["sampling"] + learnt
  )
  gib = lambda sizes: {k: round(v / GIB, 4) for k, v in sizes.items()}
  found = Round(
    sequences=count,
    requests=asked,
    updates=updates,
    held_gib=gib(held),
    phases_gib=gib(phases),
    seconds={k: float(f"{v:.4g}") for k, v in seconds.items()},
    scored_by=scored,
    throughput=rounds.throughput,
    response=response,
    sampler="embedded" if rounds.engine else "servers",
    draws=rounds.draws,
  )
  return found, held, max(phases.values())


# ---------------------------------------------------------------------- requests
def requests(algorithm: Algorithm) -> dict[str, int]:
  """Counts the requests of a problem by role: runs the recipe without models."""
  world = _Counting()
  asyncio.run(_sampled(algorithm, world))
  return dict(world.asked)


def own(asked: dict[str, int]) -> dict[str, int]:
  """Returns the requests that the policy answers."""
  return {role: n for role, n in asked.items() if role in OWN}


async def _sampled(algorithm: Algorithm, world: _Counting) -> None:
  assert algorithm.sample is not None
  await algorithm.sample(world, algorithm.example)


class _Counting:
  """A world whose answers are all empty; counts who is asked."""

  def __init__(self) -> None:
    self.asked: collections.Counter[str] = collections.Counter()

  async def ask(
    self,
    role: str,
    problem: Problem,
    path: tuple[int, ...],
    prompt: Prompt | Chat,
    turn: int = 0,
  ) -> Completion:
    del problem, path, prompt, turn
    self.asked[role] += 1
    return Completion(
      request_id=str(self.asked.total()),
      text="",
      token_ids=(0,),
      logps=(0.0,),
      finish_reason=FinishReason.STOP,
    )

  async def grade(
    self, problem: Problem, path: tuple[int, ...], completion: Completion
  ) -> Grade:
    del problem, path, completion
    verdict = Verdict(status=Status.RIGHT)
    return Grade(verdict=verdict, rewards={"accuracy": 1.0})

  def prompt(self, template: str, problem: Problem, **context: str) -> Prompt:
    del template, problem, context
    nothing = np.zeros(1, np.int32)
    return Prompt(token_ids=nothing, roles=nothing.astype(np.int8))

  def extend(
    self,
    prompt: Prompt,
    completion: Completion,
    text: str,
    pictures: Sequence[str] = (),
  ) -> Prompt:
    del completion, text, pictures
    return prompt

  def picture(self, pixels: np.ndarray) -> str:
    del pixels
    return ""

  def chance(self, problem: Problem, path: tuple[int, ...]) -> int:
    del problem, path
    return 0

  def length(self, completion: Completion) -> int:
    return len(completion.token_ids)


# ------------------------------------------------------------------------ memory
def held_bytes(rounds: Rounds, case: Case) -> dict[str, float]:
  """Returns bytes on a device throughout a round, beside the policy's state.

  The reference is a whole model in bf16, and so is each reward model, which is
  taken to be of the policy's size; an average has the trained parts, like the
  policy's; the copy that an embedded engine serves has the trained parts in bf16,
  and shares the frozen ones. Where several processes sample, each holds the whole
  model on one device. An engine's caches are on one device, too.
  """
  state = arithmetic.state_bytes(case)
  held: dict[str, float] = {}
  # Beside adapters the reference is the policy without them.
  if "reference" in case.algorithm.models and case.lora is None:
    params = aot.placed_params(case.cfg, case.mesh, (), "bfloat16")
    held["reference"] = float(aot.held(params))
  if case.algorithm.average is not None:
    held["average"] = state["parameters"]
  if models := len(case.algorithm.rewarders):
    params = aot.placed_params(case.cfg, case.mesh, (), "bfloat16")
    held["reward models"] = models * float(aot.held(params))
  if case.algorithm.critic is not None:
    kinds = "parameters", "frozen", "optimizer"
    held["critic"] = sum(state[kind] for kind in kinds)
  if rounds.engine is not None:
    held["engine's weights"] = served_bytes(case)
    held["engine's caches"] = cache_bytes(rounds.engine, case)
  return held


def served_bytes(case: Case) -> float:
  """Returns bytes of the policy's copy, on the device that has most of it."""
  if _processes(case) == 1:
    return arithmetic.merged_bytes(case)
  params = aot.placed_params(case.cfg, case.mesh, (), "bfloat16")
  leaves = jax.tree.leaves(params)
  return float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))


def cache_bytes(engine: Engine, case: Case) -> float:
  """Returns bytes of the keys and values of all slots."""
  caches = jax.eval_shape(
    lambda: init_caches(case.cfg, engine.slots, engine.length)
  )
  leaves = jax.tree.leaves(caches)
  return float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))


def _processes(case: Case) -> int:
  """Returns the processes that the devices belong to, one a host."""
  devices = case.mesh.devices.flat
  if case.gpus:
    return -(-case.mesh.size // arithmetic.NODE)
  return len({device.process_index for device in devices})


def _phases(
  rounds: Rounds, case: Case, update: Cost, held: float
) -> dict[str, float]:
  """Returns bytes on a device by phase.

  New weights are copied before an engine, or the servers' files, let go of
  those before.
  """
  state = arithmetic.state_bytes(case)
  kept = held + sum(state[k] for k in ("parameters", "frozen", "optimizer"))
  merged = arithmetic.merged_bytes(case)
  copy = served_bytes(case) if rounds.engine else merged
  return {
    "new weights": kept + copy,
    "sampling": kept,
    "annotation": kept + arithmetic.forward_bytes(case),
    "update": held + sum(update.memory.values()),
  }


# ----------------------------------------------------------------------- seconds
def scored_by(algorithm: Algorithm) -> list[str]:
  """Returns the model of every forward pass of the annotation, in order."""
  return [
    name
    for annotator in algorithm.annotate
    if annotator.score is not None
    for name in annotator.models
  ]


def forward_seconds(case: Case, update: Cost) -> float:
  """Estimates a forward pass over as many rows as an update has.

  A part of each component of the update: without gradients and what is
  recomputed for them. Weights are gathered once instead of twice, and no
  gradient is summed: a third of the wait for links.
  """
  d, row = case.cfg.decoder, case.shape.rows * case.shape.length
  columns = 2 * (d.heads + d.kv_heads) * d.head_dim + 3 * d.mlp
  products = 2.0 * d.width * columns * row
  again = 2 * (case.cfg.remat in ("block", "offload"))
  shares = {
    "blocks": products / arithmetic.block_flops(case),
    "head": 1 / 4,
    "attention": 2 / (2 + again + 5),
    "vision": 1.0,
    "waiting for links": 1 / 3,
  }
  return sum(shares.get(k, 0.0) * s for k, s in update.seconds.items())
