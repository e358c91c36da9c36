"""Ways of playing that a planning run compares: proposals, values, problems."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sophia_jax.planning import (
  blocksworld,
  intercode,
  lake,
  providers,
  sql,
  sql_tasks,
)
from sophia_jax.planning.blocksworld import BlocksWorld
from sophia_jax.planning.lookahead import (
  Environment,
  Proposals,
  SearchConfig,
  Value,
)
from sophia_jax.runs.likelihoods import Model


@dataclasses.dataclass(frozen=True)
class EpisodesConfig:
  """The episodes that the look-ahead plays."""

  problems: int = 100
  """Problems of each environment."""
  asked: int = 10
  """Problems of each way that asks a model for values, many times an action."""
  plan_blocks: int = 4
  """Blocks of BlocksWorld."""
  plan_steps: int = 6
  """Actions of a shortest plan, and of an episode, in BlocksWorld."""
  plan_depth: int = 5
  """Actions that are looked ahead in BlocksWorld."""
  rollout: int = 5
  """Actions of a roll-out."""
  turns: int = 5
  """Queries of an episode of SQL."""
  candidates: int = 4
  """Queries that the simulated proposer has for each turn."""
  right: float = 0.6
  """Probability that the right query is among them."""

  def __post_init__(self) -> None:
    for name in ("problems", "asked", "plan_depth", "rollout"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Way:
  """A way to play, measured over problems."""

  environment: str
  name: str
  problems: Callable[[], Iterator[tuple[str, Environment]]]
  """Yields name and environment of each problem."""
  propose: Proposals
  value: Value
  search: SearchConfig


def ways(
  config: EpisodesConfig,
  search: SearchConfig,
  model: Model | None,
  database: sql.Database,
  seed: int,
) -> list[Way]:
  """Returns the ways of playing that are compared, by environment."""
  sets = {"sql": sql_tasks.questions()}
  if installed := intercode.questions(database):
    sets["intercode"] = installed
  return [
    *_block_ways(config, search, model),
    *_lake_ways(config, search, model, seed),
    *(
      way
      for name, questions in sets.items()
      for way in _sql_ways(name, questions, config, search, database, seed)
    ),
  ]


def _alone(search: SearchConfig, budget: int) -> SearchConfig:
  """Returns a search that takes the likeliest proposal."""
  return dataclasses.replace(
    search, breadth=1, depth=1, prior_weight=1.0, budget=budget
  )


def _block_ways(
  config: EpisodesConfig, search: SearchConfig, model: Model | None
) -> Iterator[Way]:
  budget = config.plan_steps

  def problems(count: int) -> Iterator[tuple[str, Environment]]:
    for number in range(count):
      start, goal = blocksworld.problem(
        config.plan_blocks, config.plan_steps, number
      )
      yield f"blocks {number}", BlocksWorld(start, goal)

  def rule(world: Any) -> float:
    return blocksworld.rule_value(world.state, world.goal)

  way = functools.partial(
    Way, "blocksworld", problems=functools.partial(problems, config.problems)
  )
  deep = dataclasses.replace(search, depth=config.plan_depth, budget=budget)
  plain = dataclasses.replace(deep, prior_weight=0.0)
  propose = model.proposals() if model else providers.all_equal
  yield way(
    name="prior alone",
    propose=propose,
    value=_nothing,
    search=_alone(search, budget),
  )
  yield way(name="rule, alpha 0", propose=propose, value=rule, search=plain)
  yield way(
    name=f"rule, alpha {search.prior_weight:g}",
    propose=propose,
    value=rule,
    search=deep,
  )
  yield way(
    name="roll-out",
    propose=propose,
    value=providers.by_rollout(propose, config.rollout),
    search=dataclasses.replace(search, budget=budget),
  )
  if model:
    yield way(
      name="critic",
      problems=functools.partial(problems, config.asked),
      propose=propose,
      value=providers.by_critic(model.ask, model.counts),
      search=dataclasses.replace(_alone(search, budget), breadth=2),
    )


def _lake_ways(
  config: EpisodesConfig, search: SearchConfig, model: Model | None, seed: int
) -> Iterator[Way]:
  world = lake.tables()

  def problems() -> Iterator[tuple[str, Environment]]:
    for number in range(config.problems):
      yield f"lake {number}", lake.Episode(1000 * seed + number, world)

  way = functools.partial(Way, "frozen_lake", problems=problems)
  propose = model.proposals() if model else providers.all_equal
  wide = dataclasses.replace(search, breadth=4)
  yield way(
    name="prior alone",
    propose=propose,
    value=_nothing,
    search=_alone(search, search.budget),
  )
  yield way(
    name="rule",
    propose=propose,
    value=lambda episode: episode.value(),  # type: ignore[attr-defined]
    search=wide,
  )


def _sql_ways(
  name: str,
  questions: Sequence[sql.Question],
  config: EpisodesConfig,
  search: SearchConfig,
  database: sql.Database,
  seed: int,
) -> Iterator[Way]:
  def problems() -> Iterator[tuple[str, Environment]]:
    for number in range(config.problems):
      trial, place = divmod(number, len(questions))
      question = questions[place]
      # The simulated proposer answers each trial of a question differently.
      named = dataclasses.replace(question, id=f"{question.id}/{trial}")
      yield (
        f"{name} {named.id}",
        sql.SqlEpisode(named, database, config.turns),
      )

  way = functools.partial(
    Way,
    name,
    problems=problems,
    propose=sql_tasks.noisy(questions, config.candidates, config.right, seed),
  )
  yield way(
    name="prior alone", value=_nothing, search=_alone(search, config.turns)
  )
  yield way(
    name="reward in a copy",
    value=lambda episode: episode.reward,  # type: ignore[attr-defined]
    search=dataclasses.replace(_alone(search, config.turns), prior_weight=0.0),
  )


def _nothing(environment: Environment) -> float:
  del environment
  return 0.0
