"""BlocksWorld: four operators, an exact oracle, and a value by rule.

One hand picks up a block from the table, puts it down, stacks it on another, or
unstacks it from one. A goal is a set of blocks that lie on others.
"""

from __future__ import annotations

import collections
import functools
import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sophia_jax.planning.lookahead import Step
from sophia_jax.planning.tabular import Tabular
from sophia_jax.types import SophiaError

COLOURS = ("red", "blue", "orange", "yellow", "white", "green")
"""Names of the blocks."""
SOLVED = 1000.0
"""Value of a goal, by rule."""

Goal = frozenset[tuple[int, int]]
"""Pairs of blocks: the first lies on the second."""


class Blocks(NamedTuple):
  """A state: piles from bottom to top, and the block in the hand."""

  piles: tuple[tuple[int, ...], ...]
  """Piles, sorted, so that equal states are equal."""
  held: int | None = None

  @property
  def on(self) -> Goal:
    """Pairs of blocks of which the first lies on the second."""
    return frozenset(
      (upper, lower)
      for pile in self.piles
      for lower, upper in itertools.pairwise(pile)
    )


def moves(state: Blocks) -> Iterator[tuple[str, Blocks]]:
  """Yields the legal actions of a state, and the states they lead to."""
  piles, held = state
  if held is not None:
    name = COLOURS[held]
    yield f"put down the {name} block", _state((*piles, (held,)))
    for place, pile in enumerate(piles):
      others = piles[:place] + piles[place + 1 :]
      yield (
        f"stack the {name} block on top of the {COLOURS[pile[-1]]} block",
        _state((*others, (*pile, held))),
      )
    return
  for place, pile in enumerate(piles):
    name, others = COLOURS[pile[-1]], piles[:place] + piles[place + 1 :]
    if len(pile) == 1:
      yield f"pick up the {name} block", _state(others, pile[-1])
    else:
      yield (
        f"unstack the {name} block from on top of the {COLOURS[pile[-2]]} block",
        _state((*others, pile[:-1]), pile[-1]),
      )


def _state(
  piles: tuple[tuple[int, ...], ...], held: int | None = None
) -> Blocks:
  return Blocks(tuple(sorted(piles)), held)


# --------------------------------------------------------------------- the oracle
def distances(start: Blocks) -> dict[Blocks, int]:
  """Returns the least number of actions from a state to each other."""
  found = {start: 0}
  queue = collections.deque([start])
  while queue:
    state = queue.popleft()
    for _, after in moves(state):
      if after not in found:
        found[after] = found[state] + 1
        queue.append(after)
  return found


def shortest(start: Blocks, goal: Goal) -> list[str] | None:
  """Returns a shortest plan, by breadth-first search; None: there is none."""
  came: dict[Blocks, tuple[Blocks, str] | None] = {start: None}
  queue = collections.deque([start])
  while queue:
    state = queue.popleft()
    if goal <= state.on:
      plan = []
      while (step := came[state]) is not None:
        state, action = step
        plan.append(action)
      return plan[::-1]
    for action, after in moves(state):
      if after not in came:
        came[after] = (state, action)
        queue.append(after)
  return None


def problem(blocks: int, steps: int, seed: int) -> tuple[Blocks, Goal]:
  """Draws a start and a goal that is `steps` actions away.

  Raises:
    SophiaError: no goal of so many blocks is so far.
  """
  rng = random.Random(f"{blocks}/{steps}/{seed}")
  everything = configurations(blocks)
  for start in rng.sample(everything, len(everything)):
    far = distances(start)
    goals = sorted({s.on for s in far if s.held is None and s.on}, key=sorted)
    # States that have the goal's pairs and more may be nearer than the goal's.
    least = {
      goal: min(n for state, n in far.items() if goal <= state.on)
      for goal in rng.sample(goals, min(len(goals), 32))
    }
    found = [goal for goal, n in least.items() if n == steps]
    if found:
      return start, rng.choice(found)
  raise SophiaError(
    f"blocks={blocks}, steps={steps}: no such problem; use an even number of "
    "steps, or more blocks"
  )


@functools.cache
def configurations(blocks: int) -> list[Blocks]:
  """Returns every state with an empty hand, in a fixed order.

  Raises:
    SophiaError: more blocks than there are names, or none.
  """
  if not 1 <= blocks <= len(COLOURS):
    raise SophiaError(f"blocks={blocks}: use 1 to {len(COLOURS)}")
  table = _state(tuple((block,) for block in range(blocks)))
  return sorted(state for state in distances(table) if state.held is None)


# --------------------------------------------------------------- the value by rule
def rule_value(state: Blocks, goal: Goal) -> float:
  """Returns how near a state looks: more is nearer.

  1 for each pair of the goal that holds, 0.5 for one whose two blocks are free,
  less 1 for each block that lies on either of them; SOLVED at the goal.
  """
  if goal <= state.on:
    return SOLVED
  above = {
    block: len(pile) - 1 - height
    for pile in state.piles
    for height, block in enumerate(pile)
  }
  value = 0.0
  for upper, lower in goal:
    if (upper, lower) in state.on:
      value += 1
    elif lower != state.held:
      obstacles = above.get(upper, 0) + above[lower]
      value += -obstacles if obstacles else 0.5
  return value


# ---------------------------------------------------------------- the environment
class BlocksWorld:
  """An episode; implements `lookahead.Environment`."""

  def __init__(self, state: Blocks, goal: Goal):
    self.state, self.goal = state, goal

  @property
  def solved(self) -> bool:
    return self.goal <= self.state.on

  def text(self) -> str:
    """Returns the state and the goal in words."""
    facts = [
      f"the {COLOURS[pile[0]]} block is on the table"
      for pile in self.state.piles
    ]
    facts += _pairs(self.state.on)
    if self.state.held is not None:
      facts.append(f"the hand holds the {COLOURS[self.state.held]} block")
    return (
      f"Blocks: {', '.join(facts)}. Goal: {', '.join(_pairs(self.goal))}. "
      "What is the next action?"
    )

  def actions(self) -> tuple[str, ...]:
    """Returns the legal actions."""
    return tuple(action for action, _ in moves(self.state))

  def step(self, action: str) -> Step:
    """Takes an action; an illegal one changes nothing."""
    after = dict(moves(self.state)).get(action)
    if after is None:
      return Step(reward=0.0, ended=False, legal=False)
    self.state = after
    return Step(reward=float(self.solved), ended=self.solved)

  def copy(self) -> BlocksWorld:
    """Returns an episode that continues from here on its own."""
    return BlocksWorld(self.state, self.goal)


def _pairs(pairs: Goal) -> list[str]:
  return [
    f"the {COLOURS[upper]} block is on the {COLOURS[lower]} block"
    for upper, lower in sorted(pairs)
  ]


def tabular(
  start: Blocks, goal: Goal
) -> tuple[Tabular, list[BlocksWorld], list[list[str]]]:
  """Returns the problem as arrays, its states, and the actions of each.

  An action's place is its block: pick up or unstack, put down, stack on. Reward 1
  at the goal, which ends the episode.
  """
  states = sorted(distances(start), key=lambda s: (s.held is not None, str(s)))
  places = {state: place for place, state in enumerate(states)}
  blocks = sum(map(len, start.piles)) + (start.held is not None)
  shape = (len(states), blocks + 1, 1)
  successors, rewards = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
  legal = np.zeros(shape[:2], bool)
  names = [[""] * (blocks + 1) for _ in states]
  for state, place in places.items():
    for action, after in moves(state):
      column = _column(state, after, blocks)
      successors[place, column, 0] = places[after]
      rewards[place, column, 0] = goal <= after.on
      legal[place, column] = True
      names[place][column] = action
  world = Tabular(
    successors=jnp.asarray(successors),
    probs=jnp.ones(shape),
    rewards=jnp.asarray(rewards),
    legal=jnp.asarray(legal),
    terminal=jnp.asarray([goal <= state.on for state in states]),
    start=jnp.asarray(places[start], jnp.int32),
  )
  return world, [BlocksWorld(state, goal) for state in states], names


def _column(state: Blocks, after: Blocks, blocks: int) -> int:
  """Returns the place of the action that leads from one state to another."""
  if state.held is None:
    assert after.held is not None
    return after.held
  below = [lower for upper, lower in after.on if upper == state.held]
  return below[0] if below else blocks
