"""Recipes: how a problem becomes a group, as coroutines over `World.ask`.

A recipe asks for what it needs and waits; which answers the store holds, which
engine serves a role and how many problems are in flight is the world's matter.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from sophia_jax.algorithms import selection
from sophia_jax.algorithms.contract import Sample, World
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Group,
  Problem,
  Prompt,
  Rollout,
  Turn,
)

Parts = Callable[[Problem, Rollout], Mapping[str, float]]
"""(problem, graded rollout) -> further reward parts."""


CAPTIONER = "captioner"
"""Role of a teacher that writes captions."""


def attempts(n: int) -> Sample:
  """Returns the recipe of n independent answers of the policy."""

  async def sample(world: World, problem: Problem) -> Group:
    prompt = world.prompt("policy", problem)
    asked = (
      attempt(world, problem, (i,), prompt, author="policy") for i in range(n)
    )
    return Group(problem=problem, rollouts=tuple(await asyncio.gather(*asked)))

  return sample


async def attempt(
  world: World,
  problem: Problem,
  path: tuple[int, ...],
  prompt: Prompt | Chat,
  author: str,
) -> Rollout:
  """Asks `author` once and grades the answer."""
  completion = await world.ask(author, problem, path, prompt)
  return await graded(world, problem, path, prompt, completion, author)


async def graded(
  world: World,
  problem: Problem,
  path: tuple[int, ...],
  prompt: Prompt | Chat,
  completion: Completion,
  author: str,
) -> Rollout:
  """Grades an answer of `author`, and makes it a rollout."""
  grade = await world.grade(problem, path, completion)
  own = author == "policy" and completion.token_ids
  return Rollout(
    problem_id=problem.id,
    path=path,
    turns=(Turn(prompt=prompt, completion=completion),),
    rewards=grade.rewards,
    author=author,
    verdict=grade.verdict,
    length=len(completion.token_ids) if own else world.length(completion),
  )


def with_parts(sample: Sample, parts: Parts) -> Sample:
  """Returns the recipe with further reward parts of every graded rollout."""

  async def sampled(world: World, problem: Problem) -> Group:
    group = await sample(world, problem)
    made = (
      dataclasses.replace(r, rewards={**r.rewards, **parts(problem, r)})
      for r in group.rollouts
    )
    return dataclasses.replace(group, rollouts=tuple(made))

  return sampled


def described(k: int, n: int, captioner: str = "caption") -> Sample:
  """Returns SOPHIA's recipe (arXiv 2507.16814, Algorithm 1).

  k captions of the policy, which does not see the question; n trajectories on
  each of the reasoner, which does not see the image. A caption's accuracy is
  the mean of its trajectories' (Eq. 5).

  Args:
    captioner: the role that writes the captions: the policy's, or CAPTIONER. A
      caption that a teacher lacks has no trajectories.
  """
  author = "policy" if captioner == "caption" else captioner

  async def branch(world: World, problem: Problem, i: int) -> list[Rollout]:
    prompt = world.prompt(captioner, problem)
    caption = await world.ask(captioner, problem, (i,), prompt)
    if caption.finish_reason is FinishReason.ABSENT:
      return []
    blind = world.prompt("reasoner", problem, caption=caption.text)
    thoughts = await asyncio.gather(
      *(attempt(world, problem, (i, j), blind, "reasoner") for j in range(n))
    )
    described = Rollout(
      problem_id=problem.id,
      path=(i,),
      turns=(Turn(prompt=prompt, completion=caption),),
      author=author,
      length=len(caption.token_ids) or world.length(caption),
    )
    return [described, *thoughts]

  async def sample(world: World, problem: Problem) -> Group:
    branches = await asyncio.gather(
      *(branch(world, problem, i) for i in range(k))
    )
    every = sorted((r for b in branches for r in b), key=lambda r: r.path)
    return selection.with_values(
      Group(problem=problem, rollouts=tuple(every)), "accuracy"
    )

  return sample


def with_teachers(
  n: int, teachers: Sequence[str], refill: bool = True
) -> Sample:
  """Returns the recipe of n answers of the policy and one of each teacher.

  A teacher is a model beside the policy, stored or live. Where its answer is
  absent or cut off, `Group.absent` says so.

  Args:
    teachers: their roles; one that is named twice answers twice.
    refill: whether the policy answers in place of an absent teacher, so that
      groups keep their size.
  """

  async def sample(world: World, problem: Problem) -> Group:
    prompt = world.prompt("policy", problem)
    own = (
      attempt(world, problem, (i,), prompt, author="policy") for i in range(n)
    )
    others = (
      _taught(world, problem, (n + i,), role, refill)
      for i, role in enumerate(teachers)
    )
    rollouts, taught = await asyncio.gather(
      asyncio.gather(*own), asyncio.gather(*others)
    )
    return Group(
      problem=problem,
      rollouts=(*rollouts, *(r for r, _ in taught if r is not None)),
      absent=tuple(why for _, why in taught if why),
    )

  return sample


async def _taught(
  world: World,
  problem: Problem,
  path: tuple[int, ...],
  role: str,
  refill: bool,
) -> tuple[Rollout | None, str]:
  """Returns a teacher's answer, or the policy's or none with the reason."""
  prompt = world.prompt(role, problem)
  answer = await world.ask(role, problem, path, prompt)
  why = {
    FinishReason.STOP: "",
    FinishReason.LENGTH: f"{role}/cut",
    FinishReason.ABSENT: f"{role}/{answer.text}",
  }[answer.finish_reason]
  if not why:
    return await graded(world, problem, path, prompt, answer, role), ""
  if not refill:
    return None, why
  prompt = world.prompt("policy", problem)
  return await attempt(world, problem, path, prompt, author="policy"), why
