"""A bandit of two arms whose names hint at what they pay (RAGEN, arXiv
2504.20073): a little always, or much at times."""

from __future__ import annotations

import dataclasses

import numpy as np

from sophia_jax.envs.contract import Step

SAFE = (
  "Anchor",
  "Bedrock",
  "Bond",
  "Brick",
  "Cellar",
  "Harbour",
  "Ledger",
  "Oak",
  "Pension",
  "Stone",
  "Tortoise",
  "Vault",
)
"""Names of arms that pay a little always, for training."""
RISKY = (
  "Comet",
  "Dice",
  "Dragon",
  "Flare",
  "Gambit",
  "Gale",
  "Jackpot",
  "Lightning",
  "Lottery",
  "Meteor",
  "Roulette",
  "Volcano",
)
"""Names of arms that pay much at times, for training."""
HELD_OUT_SAFE = (
  "Barn",
  "Clerk",
  "Granite",
  "Insurance",
  "Lighthouse",
  "Savings",
  "Shelter",
  "Turtle",
)
"""Names of safe arms that only held-out problems have."""
HELD_OUT_RISKY = (
  "Avalanche",
  "Casino",
  "Phoenix",
  "Poker",
  "Rocket",
  "Sprint",
  "Tiger",
  "Tornado",
)
"""Names of risky arms that only held-out problems have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bandit:
  """Two arms, one pull. The state is the arm that was pulled, -1 before."""

  arms: tuple[str, ...]
  """Names of the two arms, in the order in which they are shown."""
  risky: int
  """Number of the arm that pays 1 with probability `chance`."""
  safe: float = 0.1
  """Reward of the other arm."""
  chance: float = 0.25
  """Probability that the risky arm pays."""

  def __post_init__(self) -> None:
    if len(self.arms) != 2 or self.risky not in (0, 1):
      raise ValueError("two arms, and risky is 0 or 1")

  @property
  def actions(self) -> tuple[str, ...]:
    return self.arms

  def start(self) -> int:
    return -1

  def step(self, state: int, action: int, chance: np.random.Generator) -> Step:
    """Pulls an arm; one number is drawn whichever it is."""
    paid = float(chance.random() < self.chance)
    return Step(action, paid if action == self.risky else self.safe, True)

  def solved(self, state: int) -> bool:
    """Returns whether the arm with the higher mean reward was pulled."""
    return state == self.advice(state)

  def text(self, state: int) -> str:
    return "\n".join(self.arms)

  def picture(self, state: int) -> None:
    return None

  def rules(self) -> str:
    return (
      "Two arms pay rewards: one a little every time, the other much at times. "
      "Guess from their names which is which, and pull the arm that pays more "
      "on average. The arms are:"
    )

  def advice(self, state: int) -> int:
    return self.risky if self.chance > self.safe else 1 - self.risky


def drawn(rng: np.random.Generator, held_out: bool) -> Bandit:
  """Returns a bandit with names of training, or with held-out ones."""
  pools = (HELD_OUT_SAFE, HELD_OUT_RISKY) if held_out else (SAFE, RISKY)
  safe, risky = (pool[int(rng.integers(len(pool)))] for pool in pools)
  place = int(rng.integers(2))
  return Bandit(arms=(safe, risky) if place else (risky, safe), risky=place)
