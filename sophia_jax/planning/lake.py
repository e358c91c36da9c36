"""FrozenLake as an environment that can be copied, and a value by rule."""

from __future__ import annotations

import jax
import numpy as np

from sophia_jax.planning.lookahead import Step
from sophia_jax.planning.tabular import LAKE, MOVES, Tabular, frozen_lake


class FrozenLake:
  """An episode on the lake; implements `lookahead.Environment`.

  Args:
    world: the tables of `tabular.frozen_lake`, of the same map.
    seed: of the slips; a copy draws others.
  """

  def __init__(
    self,
    seed: int,
    world: Tabular | None = None,
    rows: tuple[str, ...] = LAKE,
    horizon: int = 100,
  ):
    world = frozen_lake(rows) if world is None else world
    self._tables = jax.tree.map(np.asarray, world)
    self._rows = rows
    self._seeds = np.random.SeedSequence(seed)
    self._rng = np.random.default_rng(self._seeds)
    self.state, self.left = int(self._tables.start), horizon

  @property
  def solved(self) -> bool:
    return self._field(self.state) == "G"

  def text(self) -> str:
    """Returns the map and the place in words."""
    return describe(self._rows, self.state)

  def actions(self) -> tuple[str, ...]:
    """Returns the four moves."""
    return MOVES

  def step(self, action: str) -> Step:
    """Moves, or slips; a word that is no move changes nothing."""
    if action not in MOVES:
      return Step(reward=0.0, ended=False, legal=False)
    at = (self.state, MOVES.index(action))
    probs = self._tables.probs[at].astype(float)
    place = self._rng.choice(len(probs), p=probs / probs.sum())
    self.state = int(self._tables.successors[at][place])
    self.left -= 1
    ended = bool(self._tables.terminal[self.state]) or self.left == 0
    return Step(reward=float(self._tables.rewards[at][place]), ended=ended)

  def copy(self) -> FrozenLake:
    """Returns an episode from here on, whose slips are others."""
    other = FrozenLake.__new__(FrozenLake)
    other.__dict__.update(self.__dict__)
    (other._seeds,) = self._seeds.spawn(1)
    other._rng = np.random.default_rng(other._seeds)
    return other

  def value(self) -> float:
    """Returns how near the state looks, by rule.

    1 at the goal, -1 in a hole; otherwise 1 less the share of the longest way
    that is left, holes not considered.
    """
    field = self._field(self.state)
    if field in "GH":
      return 1.0 if field == "G" else -1.0
    width = len(self._rows[0])
    goals = [i for i, f in enumerate("".join(self._rows)) if f == "G"]
    away = min(
      abs(self.state // width - goal // width)
      + abs(self.state % width - goal % width)
      for goal in goals
    )
    return 1 - away / (len(self._rows) + width)

  def _field(self, state: int) -> str:
    return "".join(self._rows)[state]


def describe(rows: tuple[str, ...], state: int) -> str:
  """Returns what a model is asked in a state."""
  width = len(rows[0])
  return (
    f"A frozen lake, row by row (S start, F frozen, H hole, G goal): "
    f"{' '.join(rows)}. You are at row {state // width + 1}, column "
    f"{state % width + 1}. Where do you move?"
  )
