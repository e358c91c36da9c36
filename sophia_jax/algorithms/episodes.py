"""The recipe of episodes: a policy and an environment, turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from sophia_jax.algorithms.contract import Moment, Sample, World
from sophia_jax.algorithms.selection import part
from sophia_jax.envs import registry
from sophia_jax.envs.contract import Environment
from sophia_jax.envs.episode import End, Episode, Limits
from sophia_jax.types import (
  Group,
  Problem,
  Prompt,
  Rollout,
  SophiaError,
  Status,
  Turn,
  Verdict,
)


def episodes(n: int, limits: Limits, context: int) -> Sample:
  """Returns the recipe of n episodes that begin with a problem's start.

  Each prompt continues the ids that were sampled before it: nothing is rendered
  again, so what is learnt is what was drawn.

  Args:
    context: largest prompt, tokens; an episode ends before it grows further.
  """

  async def sample(world: World, problem: Problem) -> Group:
    environment = registry.of(problem)
    played = (
      _played(world, problem, environment, (i,), limits, context)
      for i in range(n)
    )
    return Group(problem=problem, rollouts=tuple(await asyncio.gather(*played)))

  return sample


async def _played(
  world: World,
  problem: Problem,
  environment: Environment,
  path: tuple[int, ...],
  limits: Limits,
  context: int,
) -> Rollout:
  """Plays one episode."""
  episode = Episode(environment, limits, world.chance(problem, path))
  prompt = world.prompt("policy", problem)
  turns: list[Turn] = []
  while True:
    completion = await world.ask("policy", problem, path, prompt, len(turns))
    turns.append(Turn(prompt=prompt, completion=completion))
    episode.answer(completion.text)
    if episode.end is not None:
      break
    if not isinstance(prompt, Prompt) or completion.logps is None:
      raise SophiaError(
        f"{problem.id}: an episode is continued from the sampled ids and this "
        "policy gives none; use an engine that takes and gives token ids"
      )
    text, picture = episode.observation(bool(problem.images))
    pictures = () if picture is None else (world.picture(picture),)
    prompt = world.extend(prompt, completion, text, pictures)
    if len(prompt) > context:
      episode.end = End.CONTEXT
      break
  return Rollout(
    problem_id=problem.id,
    path=path,
    turns=tuple(turns),
    rewards=_parts(episode),
    verdict=Verdict(status=_status(episode)),
    length=sum(len(t.completion.token_ids) for t in turns),
  )


def _parts(episode: Episode) -> Mapping[str, float | tuple[float, ...]]:
  """Returns the reward parts of an episode, and what is counted of it.

  turns      reward of each turn, penalties included
  env        sum of the environment's rewards
  format     sum of the penalties
  accuracy   1 where the goal is reached
  invalid    turns without a readable answer
  actions    actions that were taken
  ended_WHY  1 where it ended so: done, limit, context, broken
  """
  pairs = zip(episode.rewards, episode.penalties)
  return {
    "turns": tuple(r + p for r, p in pairs),
    "env": sum(episode.rewards),
    "format": sum(episode.penalties),
    "accuracy": float(episode.solved),
    "invalid": float(episode.invalid),
    "actions": float(episode.taken),
    **{f"ended_{end}": float(episode.end is end) for end in End},
  }


def _status(episode: Episode) -> Status:
  if episode.solved:
    return Status.RIGHT
  if episode.end is End.CONTEXT:
    return Status.TRUNCATED
  nothing = episode.invalid == len(episode.rewards) and not episode.taken
  return Status.UNPARSEABLE if nothing else Status.WRONG


def returned(rollout: Rollout, moment: Moment) -> float:
  """Returns the sum of the rewards of an episode, penalties included."""
  del moment
  return part(rollout, "env") + part(rollout, "format")
