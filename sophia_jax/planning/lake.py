"""FrozenLake for planning: its tables, an episode, and a value by rule.

The rules are those of `envs.lake.FrozenLake`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sophia_jax.envs.board import ACTIONS
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.planning.lookahead import Step
from sophia_jax.planning.tabular import Tabular
from sophia_jax.types import SophiaError

LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")
"""Map of four by four fields: start, frozen, hole, goal."""


def tables(rows: Sequence[str] = LAKE, success_rate: float = 0.8) -> Tabular:
  """Returns a lake as arrays, its fields numbered row by row.

  Args:
    rows: fields S, F, H, G, row by row.
    success_rate: probability that a move does not slip.

  Raises:
    SophiaError: there is no such lake.
  """
  try:
    lake = FrozenLake(rows=tuple(rows), success_rate=success_rate)
  except ValueError as e:
    raise SophiaError(f"FrozenLake {'/'.join(rows)[:80]!r}: {e}") from e
  height, width = len(rows), len(rows[0])
  places = [*np.ndindex(height, width)]
  shape = (len(places), len(ACTIONS), 3)
  successors, rewards = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
  probs = np.zeros(shape, np.float32)
  for state, place in enumerate(places):
    for action in range(len(ACTIONS)):
      for way, (prob, end) in enumerate(lake.transitions(place, action)):
        at = state, action, way
        successors[at] = end.state[0] * width + end.state[1]
        rewards[at], probs[at] = end.reward, prob
  start = lake.start()
  return Tabular(
    successors=jnp.asarray(successors),
    probs=jnp.asarray(probs),
    rewards=jnp.asarray(rewards),
    legal=jnp.ones(shape[:2], bool),
    terminal=jnp.asarray([lake.sign(place) in "HG" for place in places]),
    start=jnp.asarray(start[0] * width + start[1], jnp.int32),
  )


class Episode:
  """An episode on a lake; implements `lookahead.Environment`.

  Args:
    world: the `tables` of the same map.
    seed: of the slips; a copy draws others.
  """

  def __init__(
    self,
    seed: int,
    world: Tabular | None = None,
    rows: tuple[str, ...] = LAKE,
    horizon: int = 100,
  ):
    world = tables(rows) if world is None else world
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
    return ACTIONS

  def step(self, action: str) -> Step:
    """Moves, or slips; a word that is no move changes nothing."""
    if action not in ACTIONS:
      return Step(reward=0.0, ended=False, legal=False)
    at = (self.state, ACTIONS.index(action))
    probs = self._tables.probs[at].astype(float)
    place = self._rng.choice(len(probs), p=probs / probs.sum())
    self.state = int(self._tables.successors[at][place])
    self.left -= 1
    ended = bool(self._tables.terminal[self.state]) or self.left == 0
    return Step(reward=float(self._tables.rewards[at][place]), ended=ended)

  def copy(self) -> Episode:
    """Returns an episode from here on, whose slips are others."""
    other = Episode.__new__(Episode)
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
