"""Reward parts by the type of an answer, beside the verifier's verdict.

A box earns its overlap. An open-ended answer is scored by a reward model, and so
is the reference, once for each problem; both scores are stored like any answer.
An answer that cannot be found earns nothing of any type: the format is asked for
by that alone (VLAA-Thinking, arXiv 2504.11468, Section 4.1).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping

from sophia_jax.algorithms import selection
from sophia_jax.algorithms.contract import Moment, Reward, Sample, World
from sophia_jax.boxes import overlap, read_box
from sophia_jax.rewards.text import unwrap
from sophia_jax.types import Group, Problem, Rollout

SCORER = "scorer"
"""Role of the reward model; its answers are numbers."""
OVERLAP, SCORE, REFERENCE, UNSCORED = "iou", "score", "reference", "unscored"
"""Names of the reward parts. UNSCORED is 1 where a score is no number."""


def routed(sample: Sample) -> Sample:
  """Returns the recipe with the parts that the problem's answer type asks for."""

  async def with_parts(world: World, problem: Problem) -> Group:
    group = await sample(world, problem)
    parts = PARTS.get(problem.answer_type)
    if parts is None:
      return group
    return await parts(world, group)

  return with_parts


async def _overlaps(world: World, group: Group) -> Group:
  del world
  wanted = read_box(group.problem.answer)
  assert wanted is not None  # the schema has checked it

  def part(rollout: Rollout) -> dict[str, float]:
    found = read_box(unwrap(found_answer(rollout)))
    return {OVERLAP: overlap(wanted, found) if found else 0.0}

  return _with(group, {r.path: part(r) for r in group.rollouts})


async def _scores(world: World, group: Group) -> Group:
  """Asks the reward model about the reference and every answer that is found."""
  problem = group.problem
  found = [r for r in group.rollouts if found_answer(r)]
  if not found:
    return _with(group, {})
  reference, *scores = await asyncio.gather(
    score(world, problem, (), problem.answer),
    *(score(world, problem, r.path, found_answer(r)) for r in found),
  )
  parts = {r.path: _scored(reference, value) for r, value in zip(found, scores)}
  return _with(group, parts)


def _scored(reference: float, value: float) -> dict[str, float]:
  if not (math.isfinite(reference) and math.isfinite(value)):
    return {UNSCORED: 1.0}
  return {SCORE: value, REFERENCE: reference, UNSCORED: 0.0}


async def score(
  world: World, problem: Problem, path: tuple[int, ...], answer: str
) -> float:
  """Returns the reward model's score of an answer; NaN where it is no number."""
  prompt = world.prompt(SCORER, problem, answer=answer)
  said = await world.ask(SCORER, problem, path, prompt)
  try:
    return float(said.text)
  except ValueError:
    return math.nan


def found_answer(rollout: Rollout) -> str:
  """Returns the answer that was found in a rollout; "" where there is none."""
  return rollout.verdict.extracted if rollout.verdict else ""


def _with(
  group: Group, parts: Mapping[tuple[int, ...], Mapping[str, float]]
) -> Group:
  """Returns the group with further reward parts, by path."""
  rollouts = tuple(
    dataclasses.replace(r, rewards={**r.rewards, **parts.get(r.path, {})})
    for r in group.rollouts
  )
  return dataclasses.replace(group, rollouts=rollouts)


PARTS = {"box": _overlaps, "open": _scores}
"""Maker of the parts of each answer type that a verdict does not decide."""


# ------------------------------------------------------------------------ rewards
def anchored(score: float, reference: float, beta: float) -> float:
  """Returns 1 - exp(-(S - S_ref) beta) where S > S_ref, else 0."""
  return -math.expm1(-max(score - reference, 0.0) * beta)


def by_type(beta: float) -> Reward:
  """Returns the reward in [0, 1] of an answer of any type.

  Args:
    beta: slope of an open-ended answer's reward above the reference.
  """

  def open_ended(rollout: Rollout) -> float:
    score, reference = (
      selection.part(rollout, key) for key in (SCORE, REFERENCE)
    )
    return anchored(score, reference, beta)

  routes = {
    OVERLAP: lambda rollout: selection.part(rollout, OVERLAP),
    SCORE: open_ended,
    UNSCORED: lambda rollout: 0.0,
    "accuracy": lambda rollout: selection.part(rollout, "accuracy"),
  }

  def reward(rollout: Rollout, moment: Moment) -> float:
    key = next(key for key in routes if key in rollout.rewards)
    return routes[key](rollout)

  return reward
