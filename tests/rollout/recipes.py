"""Small recipes of sampling, for the tests of what runs them."""

import asyncio

from sophia_jax.types import Group, Rollout, Turn


async def attempt(world, problem, path, role, **context):
  """One graded rollout."""
  prompt = world.prompt(role, problem, **context)
  completion = await world.ask(role, problem, path, prompt)
  grade = await world.grade(problem, path, completion)
  return Rollout(
    problem_id=problem.id,
    path=path,
    turns=(Turn(prompt=prompt, completion=completion),),
    rewards=grade.rewards,
    author=role,
    verdict=grade.verdict,
    length=world.length(completion),
  )


def attempts(n, role="policy"):
  """n answers to the question."""

  async def sample(world, problem):
    rollouts = await asyncio.gather(
      *(attempt(world, problem, (i,), role) for i in range(n))
    )
    return Group(problem=problem, rollouts=tuple(rollouts))

  return sample


def described(k, n):
  """k captions by the policy, n reasonings on each."""

  async def branch(world, problem, i):
    prompt = world.prompt("caption", problem)
    said = await world.ask("caption", problem, (i,), prompt)
    caption = Rollout(
      problem_id=problem.id,
      path=(i,),
      turns=(Turn(prompt=prompt, completion=said),),
      author="caption",
      length=world.length(said),
    )
    built = await asyncio.gather(
      *(
        attempt(world, problem, (i, j), "reasoner", caption=said.text)
        for j in range(n)
      )
    )
    return caption, *built

  async def sample(world, problem):
    branches = await asyncio.gather(
      *(branch(world, problem, i) for i in range(k))
    )
    return Group(
      problem=problem, rollouts=tuple(r for rows in branches for r in rows)
    )

  return sample


def bare(groups):
  """The groups without the arrays of their prompts, which have no equality."""
  return [
    [
      (r.path, r.author, r.verdict, r.rewards, r.length, r.completion)
      for r in group.rollouts
    ]
    for group in groups
  ]
