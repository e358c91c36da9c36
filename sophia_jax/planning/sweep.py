"""Samples that LINVIT needs, against the prior's distance from the optimum.

An arm is a prior with its coefficient; each is run for a number of seeds. An
arm's samples are the episodes after which its policy stays within epsilon of the
optimum. By theory they grow with KL_H(pi* || prior), and at KL_H = 0 none are
needed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from sophia_jax.envs.board import ACTIONS
from sophia_jax.planning import blocksworld, lake, priors
from sophia_jax.planning.linvit import LinvitConfig, learn
from sophia_jax.planning.tabular import (
  Policy,
  Tabular,
  evaluate,
  nearest_optimal,
  solve,
  suggested_lam,
)
from sophia_jax.types import SophiaError, host

RESAMPLES = 2000
"""Resamples of the slope's interval."""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """A world, and the priors that LINVIT is run with."""

  world: str
  """"frozen_lake" or "blocksworld"."""
  horizon: int
  """H, steps of an episode."""
  episodes: int
  """Episodes of each arm."""
  seeds: int = 50
  """Runs of each arm."""
  epsilon: float = 0.1
  """Largest loss of value of a policy that counts as found."""
  rhos: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.7)
  """Shares of the uniform policy in priors that are otherwise optimal."""
  adversarial: float = 0.2
  """Share of the uniform policy in the prior that prefers the worst action."""
  bonus: float = 0.1
  """Factor of the exploration bonus; 1 is Hoeffding's inequality."""
  per_step: bool = False
  """Whether steps of an episode are counted apart."""
  success_rate: float = 0.8
  """Probability that a move on the lake does not slip."""
  blocks: int = 4
  """Blocks of BlocksWorld."""
  steps: int = 6
  """Actions of a shortest plan in BlocksWorld."""

  def __post_init__(self) -> None:
    if self.world not in ("frozen_lake", "blocksworld"):
      raise ValueError(
        f"world={self.world!r}: use 'frozen_lake' or 'blocksworld'"
      )
    for name in ("horizon", "episodes", "seeds"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
    if len(set(self.rhos)) < 2:
      raise ValueError(f"rhos={self.rhos}: a slope needs two or more")
    if not all(0 < rho <= 1 for rho in (*self.rhos, self.adversarial)):
      raise ValueError("rhos and adversarial: use shares above 0, at most 1")


@host
class World:
  """A world with the words that a model knows it by."""

  tables: Tabular
  texts: tuple[str, ...]
  """Question for the next action in each state."""
  names: tuple[tuple[str, ...], ...]
  """Text of each action in each state; "": illegal."""


@host
class Arm:
  """A prior and its coefficient."""

  name: str
  prior: Policy
  lam: float
  divergence: float
  """KL_H(pi* || prior) of the nearest optimum, nats."""
  rho: float | None = None
  """Share of the uniform policy in a prior that is otherwise optimal."""


def world_of(config: SweepConfig, seed: int) -> World:
  """Returns the world of a sweep.

  Raises:
    SophiaError: there is no such problem, or its horizon is too short.
  """
  if config.world == "frozen_lake":
    tables = lake.tables(success_rate=config.success_rate)
    return World(
      tables=tables,
      texts=tuple(lake.describe(lake.LAKE, s) for s in range(tables.states)),
      names=(ACTIONS,) * tables.states,
    )
  if config.horizon < config.steps:
    raise SophiaError(
      f"horizon={config.horizon}: a plan has steps={config.steps} actions"
    )
  start, goal = blocksworld.problem(config.blocks, config.steps, seed)
  tables, states, names = blocksworld.tabular(start, goal)
  return World(
    tables=tables,
    texts=tuple(state.text() for state in states),
    names=tuple(map(tuple, names)),
  )


def arms(
  world: Tabular,
  config: SweepConfig,
  model: Float[Array, "S A"] | None = None,
) -> list[Arm]:
  """Returns UCBVI, the priors of known distance, and the model's.

  Args:
    model: prior of a language model; None: there is no such arm.
  """
  steps = config.horizon
  flat = priors.uniform(world, steps)
  made = {"uniform": flat} | {
    f"optimal, rho {rho:g}": priors.near_optimal(world, steps, rho)
    for rho in config.rhos
  }
  rhos = {f"optimal, rho {rho:g}": rho for rho in config.rhos}
  made["adversarial"] = priors.adversarial(world, steps, config.adversarial)
  if model is not None:
    made["language model"] = priors.over_time(model, steps)
  found = []
  for name, prior in made.items():
    divergence = float(nearest_optimal(world, steps, prior)[1])
    found.append(
      Arm(
        name=name,
        prior=prior,
        lam=suggested_lam(config.epsilon, divergence),
        divergence=divergence,
        rho=rhos.get(name),
      )
    )
  ucbvi = Arm(name="UCBVI", prior=flat, lam=0.0, divergence=found[0].divergence)
  return [ucbvi, *found]


def run_arm(
  world: Tabular, config: SweepConfig, arm: Arm, seed: int
) -> dict[str, Any]:
  """Returns the samples of an arm, for each seed, as JSON values."""
  learner = LinvitConfig(
    horizon=config.horizon,
    episodes=config.episodes,
    bonus=config.bonus,
    per_step=config.per_step,
  )
  keys = jax.random.split(jax.random.key(seed), config.seeds)
  values = np.asarray(_courses(learner, world, arm.prior, arm.lam, keys))
  flat = priors.uniform(world, config.horizon)
  best = float(solve(world, config.horizon, flat, 0.0)[1][0, world.start])
  own = float(evaluate(world, arm.prior)[0, world.start])
  samples = samples_to(values, best - config.epsilon)
  return {
    "world": config.world,
    "horizon": config.horizon,
    "episodes": config.episodes,
    "epsilon": config.epsilon,
    "arm": arm.name,
    "rho": arm.rho,
    "kl": arm.divergence,
    "lam": arm.lam if math.isfinite(arm.lam) else None,
    "optimum": best,
    "prior_value": own,
    "samples": samples.tolist(),
    "median": float(np.median(samples)),
    "unfinished": int((samples == config.episodes).sum()),
    "final_value": float(values[:, -1].mean()),
  }


@functools.partial(jax.jit, static_argnums=0)
def _courses(
  learner: LinvitConfig, world: Tabular, prior: Policy, lam: Any, keys: Array
) -> Float[Array, "N E"]:
  course = lambda key: learn(learner, world, prior, lam, key)[1].value
  return jax.vmap(course)(keys)


def samples_to(
  values: Float[np.ndarray, "N E"], target: float
) -> Int[np.ndarray, "N"]:
  """Returns the episodes before a value stays at `target` or above.

  The number of all of them where the last is below.
  """
  below = values < target
  last = values.shape[1] - np.argmax(below[:, ::-1], 1)
  return np.where(below.any(1), last, 0)


def slope(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Returns d log(1 + samples) / d log KL_H over the optimal priors' arms.

  Least squares over all arms and seeds; the interval is the 95 % percentile one
  of a bootstrap over seeds.
  """
  used = [row for row in rows if row["rho"] is not None and row["kl"] > 0]
  if len(used) < 2:
    raise ValueError("a slope needs two arms or more")
  x = np.log([row["kl"] for row in used])
  y = np.log1p([row["samples"] for row in used])
  centred = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
  each = centred @ y  # the fit of a mean is the mean of the fits
  rng = np.random.default_rng(0)
  means = rng.choice(each, (RESAMPLES, len(each))).mean(1)
  low, high = np.quantile(means, (0.025, 0.975))
  return {"value": float(each.mean()), "low": float(low), "high": float(high)}


def scores(world: World, logps: Any) -> Float[np.ndarray, "S A"]:
  """Returns a model's log-likelihoods of each action in each state.

  Args:
    logps: (text, texts of actions) -> log-likelihoods, as `Scorer.logps`.
  """
  found = np.full((len(world.texts), world.tables.actions), -np.inf)
  terminal = np.asarray(world.tables.terminal)
  for state, (text, names) in enumerate(zip(world.texts, world.names)):
    legal = [place for place, name in enumerate(names) if name]
    if not terminal[state]:
      found[state, legal] = logps(text, [names[place] for place in legal])
  return found
