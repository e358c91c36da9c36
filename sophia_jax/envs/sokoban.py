"""Sokoban: boxes are pushed onto targets, and cannot be pulled back.

Boards are written in the usual signs: # wall, - floor, . target, $ box, * box on
a target, @ player, + player on a target.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from sophia_jax.envs import board
from sophia_jax.envs.board import ACTIONS, Place
from sophia_jax.envs.contract import Pixels, Step

COST, BOX, SOLVED = -0.1, 1.0, 10.0
"""Rewards: of each action, of a box that comes onto a target (its negative where
one leaves), of the end."""
_STONE, _FLOOR, _BROWN, _YELLOW, _RED, _GREEN = (
  (90, 90, 90),
  (235, 230, 215),
  (150, 95, 40),
  (240, 200, 60),
  (200, 40, 40),
  (40, 150, 60),
)
_COLOURS = {
  "#": (_STONE, _STONE),
  "-": (_FLOOR, _FLOOR),
  ".": (_FLOOR, _YELLOW),
  "$": (_FLOOR, _BROWN),
  "*": (_YELLOW, _GREEN),
  "@": (_FLOOR, _RED),
  "+": (_YELLOW, _RED),
}


class State(NamedTuple):
  """Positions of player and boxes."""

  player: Place
  boxes: frozenset[Place]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sokoban:
  """A board with its start."""

  rows: tuple[str, ...]
  """The board, in the usual signs; walls all around."""

  def __post_init__(self) -> None:
    boxes, targets = (len(board.places(self.rows, s)) for s in ("$*", ".*+"))
    if len({len(row) for row in self.rows}) != 1:
      raise ValueError("rows are not of one length")
    if set("".join(self.rows)) - set("#-.$*@+"):
      raise ValueError("rows have another sign than # - . $ * @ +")
    if len(board.places(self.rows, "@+")) != 1 or not 0 < boxes <= targets:
      raise ValueError("one player, and a target for each of one or more boxes")
    edge = "".join((self.rows[0], self.rows[-1]))
    edge += "".join(row[0] + row[-1] for row in self.rows)
    if set(edge) != {"#"}:
      raise ValueError("walls do not go all around")

  @property
  def actions(self) -> tuple[str, ...]:
    return ACTIONS

  @functools.cached_property
  def targets(self) -> frozenset[Place]:
    return frozenset(board.places(self.rows, ".*+"))

  def start(self) -> State:
    boxes = frozenset(board.places(self.rows, "$*"))
    return State(board.places(self.rows, "@+")[0], boxes)

  def wall(self, place: Place) -> bool:
    return self.rows[place[0]][place[1]] == "#"

  def moved(self, state: State, action: int) -> State:
    """Returns the state after an action; a blocked one changes nothing."""
    place = board.moved(state.player, action)
    if self.wall(place):
      return state
    if place not in state.boxes:
      return State(place, state.boxes)
    beyond = board.moved(place, action)
    if self.wall(beyond) or beyond in state.boxes:
      return state
    return State(place, state.boxes - {place} | {beyond})

  def step(
    self, state: State, action: int, chance: np.random.Generator
  ) -> Step:
    """Moves; nothing is left to chance."""
    after = self.moved(state, action)
    gained = len(after.boxes & self.targets) - len(state.boxes & self.targets)
    done = self.solved(after)
    return Step(after, COST + BOX * gained + SOLVED * done, done)

  def solved(self, state: State) -> bool:
    return state.boxes <= self.targets

  def text(self, state: State) -> str:
    return board.text(self._signs(state))

  def _signs(self, state: State) -> list[str]:
    return [
      "".join(self._sign(state, (r, c)) for c in range(len(row)))
      for r, row in enumerate(self.rows)
    ]

  def _sign(self, state: State, place: Place) -> str:
    if self.wall(place):
      return "#"
    on = place in self.targets
    if place in state.boxes:
      return "*" if on else "$"
    if place == state.player:
      return "+" if on else "@"
    return "." if on else "-"

  def picture(self, state: State) -> Pixels:
    return board.drawn(self._signs(state), _COLOURS)

  def rules(self) -> str:
    return (
      "Push every box onto a target; a box cannot be pulled. # is a wall, - "
      "floor, . a target, $ a box, * a box on a target, @ is you, + you on a "
      "target. Actions: left, down, right, up."
    )

  def advice(self, state: State) -> int:
    """Returns the first action of a shortest solution; any where there is none."""
    found = solution(self, state)
    return found[0] if found else 0


def solution(game: Sokoban, state: State) -> tuple[int, ...] | None:
  """Returns the fewest actions to the end; None where it cannot be reached.

  Breadth-first search over all states.
  """
  came: dict[State, tuple[State, int] | None] = {state: None}
  queue = collections.deque([state])
  while queue:
    now = queue.popleft()
    if game.solved(now):
      return _back(came, now)
    for action in range(4):
      after = game.moved(now, action)
      if after not in came:
        came[after] = now, action
        queue.append(after)
  return None


def _back(
  came: dict[State, tuple[State, int] | None], state: State
) -> tuple[int, ...]:
  actions = []
  while (step := came[state]) is not None:
    state, action = step
    actions.append(action)
  return tuple(reversed(actions))


def drawn(
  rng: np.random.Generator, size: int, boxes: int, longest: int
) -> Sokoban:
  """Returns a board that has a solution of at most `longest` actions.

  Boxes begin on their targets and are pulled away at random: the way back is a
  solution.

  Args:
    size: side of the board, walls included.
  """
  while True:
    walls = np.ones((size, size), bool)
    walls[1:-1, 1:-1] = rng.random((size - 2, size - 2)) < 0.15
    floor = [(int(r), int(c)) for r, c in np.argwhere(~walls)]
    if len(floor) < 2 * boxes + 2:
      continue
    order = rng.permutation(len(floor))
    targets = frozenset(floor[i] for i in order[:boxes])
    state = State(floor[order[boxes]], targets)
    for _ in range(12 * boxes):
      state = _pulled(walls, state, int(rng.integers(4)))
    game = Sokoban(rows=_written(walls, targets, state))
    if game.solved(state):
      continue
    found = solution(game, state)
    if found is not None and len(found) <= longest:
      return game


def _pulled(walls: np.ndarray, state: State, move: int) -> State:
  """Returns the state after a step that pulls the box behind the player along."""
  place = board.moved(state.player, move)
  if walls[place] or place in state.boxes:
    return state
  behind = board.moved(state.player, (move + 2) % 4)
  boxes = state.boxes
  if behind in boxes:
    boxes = boxes - {behind} | {state.player}
  return State(place, boxes)


def _written(
  walls: np.ndarray, targets: frozenset[Place], state: State
) -> tuple[str, ...]:
  signs = np.where(walls, "#", "-")
  for place in targets:
    signs[place] = "."
  for place in state.boxes:
    signs[place] = "*" if place in targets else "$"
  signs[state.player] = "+" if state.player in targets else "@"
  return tuple("".join(row) for row in signs)
