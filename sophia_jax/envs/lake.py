"""FrozenLake: a walk over ice that slips, with the rules of Gymnasium."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from sophia_jax.envs import board
from sophia_jax.envs.board import ACTIONS, Place
from sophia_jax.envs.contract import Pixels, Step

_ICE, _WATER, _RED, _GREEN = (
  (222, 235, 247),
  (33, 60, 120),
  (200, 40, 40),
  (40, 150, 60),
)
_COLOURS = {
  "_": (_ICE, _ICE),
  "O": (_ICE, _WATER),
  "G": (_ICE, _GREEN),
  "P": (_ICE, _RED),
  "X": (_WATER, _RED),
  "W": (_GREEN, _RED),
}
_DISCOUNT = 0.99
_SWEEPS = 200
"""Sweeps of value iteration: what is left changes no order of actions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenLake:
  """A lake; the state is the place of the player.

  A move goes where it is meant to with probability `success_rate`, and to
  either side with half of the rest each. A move off the lake stays. The goal
  pays 1; goal and holes end the episode.
  """

  rows: tuple[str, ...]
  """The lake: S start, F ice, H hole, G goal."""
  success_rate: float = 0.8
  """Probability that a move goes where it is meant to."""

  def __post_init__(self) -> None:
    widths = {len(row) for row in self.rows}
    starts, goals = (board.places(self.rows, sign) for sign in "SG")
    if len(widths) != 1 or len(starts) != 1 or not goals:
      raise ValueError("rows of one length with one S and at least one G")
    if set("".join(self.rows)) - set("SFHG"):
      raise ValueError("rows have another sign than S, F, H and G")
    if not 0 <= self.success_rate <= 1:
      raise ValueError(f"success_rate is {self.success_rate}; use 0 to 1")

  @property
  def actions(self) -> tuple[str, ...]:
    return ACTIONS

  def start(self) -> Place:
    return board.places(self.rows, "S")[0]

  def sign(self, place: Place) -> str:
    """Returns S, F, H or G."""
    return self.rows[place[0]][place[1]]

  def transitions(
    self, state: Place, action: int
  ) -> tuple[tuple[float, Step], ...]:
    """Returns (probability, effect) of each way in which a move can end."""
    side = (1 - self.success_rate) / 2
    ways = ((side, -1), (self.success_rate, 0), (side, 1))
    return tuple((p, self._to(state, (action + turn) % 4)) for p, turn in ways)

  def _to(self, state: Place, move: int) -> Step:
    if self.sign(state) in "HG":
      return Step(state, 0.0, True)
    row, column = board.moved(state, move)
    inside = 0 <= row < len(self.rows) and 0 <= column < len(self.rows[0])
    place = (row, column) if inside else state
    sign = self.sign(place)
    return Step(place, float(sign == "G"), sign in "HG")

  def step(
    self, state: Place, action: int, chance: np.random.Generator
  ) -> Step:
    left, *others = self.transitions(state, action)
    drawn = chance.random()
    for p, effect in others:
      if drawn < p:
        return effect
      drawn -= p
    return left[1]

  def solved(self, state: Place) -> bool:
    return self.sign(state) == "G"

  def text(self, state: Place) -> str:
    """Returns the lake: P player, _ ice, O hole, G goal; X is the player in a
    hole, W at the goal."""
    return board.text(self._signs(state))

  def picture(self, state: Place) -> Pixels:
    return board.drawn(self._signs(state), _COLOURS)

  def _signs(self, state: Place) -> list[str]:
    signs = [list(row.translate(_SIGNS)) for row in self.rows]
    signs[state[0]][state[1]] = {"H": "X", "G": "W"}.get(self.sign(state), "P")
    return ["".join(row) for row in signs]

  def rules(self) -> str:
    slips = self.success_rate < 1
    return (
      "Walk over a frozen lake to the goal without falling into a hole. P is "
      "you, _ is ice, O is a hole, G is the goal. Actions: left, down, right, "
      f"up.{' The ice is slippery: a move may go sideways.' if slips else ''}"
    )

  def advice(self, state: Place) -> int:
    """Returns the action of the highest discounted value."""
    return int(np.argmax(_values(self)[state]))


_SIGNS = str.maketrans("SFH", "__O")


@functools.lru_cache(maxsize=4096)
def _values(lake: FrozenLake) -> Float[np.ndarray, "H W A"]:
  """Returns the optimal value of each action, by value iteration."""
  height, width = len(lake.rows), len(lake.rows[0])
  reward = np.zeros((height, width, 4))
  after = np.zeros((height, width, 4, height, width))
  for place in board.places(lake.rows, "SFHG"):
    for action in range(4):
      for p, step in lake.transitions(place, action):
        reward[*place, action] += p * step.reward
        after[*place, action, *step.state] += p * (not step.done)
  values = reward
  for _ in range(_SWEEPS):
    best = values.max(-1)
    values = reward + _DISCOUNT * np.tensordot(after, best, 2)
  return values


def _reachable(lake: FrozenLake) -> bool:
  """Returns whether a way over ice leads from the start to the goal."""
  sure = dataclasses.replace(lake, success_rate=1.0)
  seen, queue = {sure.start()}, [sure.start()]
  while queue:
    place = queue.pop()
    for action in range(4):
      step = sure.transitions(place, action)[1][1]
      if step.reward > 0:
        return True
      if not step.done and step.state not in seen:
        seen.add(step.state)
        queue.append(step.state)
  return False


def drawn(
  rng: np.random.Generator, size: int, frozen: float, success_rate: float
) -> FrozenLake:
  """Returns a lake on which the goal can be reached.

  Args:
    size: side of the lake.
    frozen: probability that a place is ice.
  """
  while True:
    signs = np.where(rng.random((size, size)) < frozen, "F", "H")
    ends = rng.choice(size * size, 2, replace=False)
    signs.flat[ends] = "S", "G"
    lake = FrozenLake(
      rows=tuple("".join(row) for row in signs), success_rate=success_rate
    )
    if _reachable(lake):
      return lake
