"""Recipes: how a problem becomes a group, as coroutines over `World.ask`.

A recipe asks for what it needs and waits; which answers the store holds, which
engine serves a role and how many problems are in flight is the world's matter.
"""

from __future__ import annotations

import asyncio
import dataclasses

from sophia_jax.algorithms import selection
from sophia_jax.algorithms.contract import Sample, World
from sophia_jax.types import Chat, Group, Problem, Prompt, Rollout, Turn


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


def described(k: int, n: int) -> Sample:
  """Returns SOPHIA's recipe (arXiv 2507.16814, Algorithm 1).

  k captions of the policy, which does not see the question; n trajectories on
  each of the reasoner, which does not see the image. A caption's accuracy is
  the mean of its trajectories' (Eq. 5).
  """

  async def branch(world: World, problem: Problem, i: int) -> list[Rollout]:
    prompt = world.prompt("caption", problem)
    caption = await world.ask("caption", problem, (i,), prompt)
    blind = world.prompt("reasoner", problem, caption=caption.text)
    thoughts = await asyncio.gather(
      *(attempt(world, problem, (i, j), blind, "reasoner") for j in range(n))
    )
    described = Rollout(
      problem_id=problem.id,
      path=(i,),
      turns=(Turn(prompt=prompt, completion=caption),),
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


def with_teacher(sample: Sample) -> Sample:
  """Returns the recipe with one rollout more: a teacher's answer, graded."""

  async def both(world: World, problem: Problem) -> Group:
    group = await sample(world, problem)
    path = (1 + max((r.path[0] for r in group.rollouts), default=-1),)
    prompt = world.prompt("teacher", problem)
    answer = await attempt(world, problem, path, prompt, author="teacher")
    return dataclasses.replace(group, rollouts=(*group.rollouts, answer))

  return both
