"""BlocksWorld: legal moves, the oracle against known counts, values by rule."""

import numpy as np
import pytest

from sophia_jax.planning import blocksworld, priors, tabular
from sophia_jax.planning.blocksworld import Blocks, BlocksWorld
from sophia_jax.types import SophiaError

TOWER = Blocks(((0, 1, 2),))  # red, blue on it, orange on top
GOAL = frozenset({(0, 1)})


@pytest.mark.parametrize("blocks, count", [(1, 1), (2, 3), (3, 13), (4, 73)])
def test_there_are_as_many_configurations_as_known(blocks, count):
  found = blocksworld.configurations(blocks)
  assert len(found) == len(set(found)) == count
  for state in found:
    assert sorted(b for pile in state.piles for b in pile) == [*range(blocks)]


def test_a_hand_holds_one_block():
  ((action, held),) = blocksworld.moves(TOWER)
  assert action == "unstack the orange block from on top of the blue block"
  assert held == Blocks(((0, 1),), 2)
  after = dict(blocksworld.moves(held))
  assert after == {
    "put down the orange block": Blocks(((0, 1), (2,))),
    "stack the orange block on top of the blue block": TOWER,
  }


def test_every_move_can_be_undone():
  for state in blocksworld.distances(TOWER):
    for _, after in blocksworld.moves(state):
      assert state in dict(blocksworld.moves(after)).values()


def test_the_oracles_plan_is_shortest():
  plan = blocksworld.shortest(TOWER, GOAL)
  far = blocksworld.distances(TOWER)
  assert len(plan) == min(n for state, n in far.items() if state.on >= GOAL)
  world = BlocksWorld(TOWER, GOAL)
  steps = [world.step(action) for action in plan]
  assert world.solved and steps[-1].reward == 1 and steps[-1].ended
  assert not any(step.ended for step in steps[:-1])
  assert blocksworld.shortest(TOWER, frozenset({(0, 1), (1, 0)})) is None
  assert blocksworld.shortest(TOWER, frozenset()) == []


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_a_problem_is_as_far_as_it_says(steps):
  for seed in range(3):
    start, goal = blocksworld.problem(4, steps, seed)
    assert len(blocksworld.shortest(start, goal)) == steps
    assert (start, goal) == blocksworld.problem(4, steps, seed)


def test_problems_that_are_none_are_refused():
  with pytest.raises(SophiaError, match="steps=5: no such problem"):
    blocksworld.problem(3, 5, 0)
  with pytest.raises(SophiaError, match="blocks=7: use 1 to 6"):
    blocksworld.configurations(7)


def test_values_by_rule():
  value = lambda *piles, held=None: blocksworld.rule_value(
    Blocks(piles, held), GOAL
  )
  assert value((1, 0), (2,)) == blocksworld.SOLVED
  assert value((0,), (1,), (2,)) == 0.5  # both free
  assert value((0, 1, 2)) == -3  # two blocks on red, one on blue
  assert value((1, 2), held=0) == -1
  assert value((0,), (2,), held=1) == 0  # the hand is no place to lie
  both = Blocks(((1, 0), (2,)))
  assert blocksworld.rule_value(both, GOAL | {(2, 0)}) == 1.5


def test_an_illegal_action_changes_nothing():
  world = BlocksWorld(TOWER, GOAL)
  step = world.step("pick up the red block")
  assert not step.legal and not step.ended and world.state == TOWER
  assert "the blue block is on the red block" in world.text()
  copy = world.copy()
  copy.step(copy.actions()[0])
  assert world.state == TOWER != copy.state


def test_the_table_is_the_same_world():
  start, goal = blocksworld.problem(3, 4, 1)
  tables, states, names = blocksworld.tabular(start, goal)
  world = tabular.Tabular(*map(np.asarray, tables))
  assert world.states == 13 + 3 * 3
  for place, state in enumerate(states):
    for column, name in enumerate(names[place]):
      assert bool(world.legal[place, column]) == bool(name)
      if name:
        copy = state.copy()
        step = copy.step(name)
        to = int(world.successors[place, column, 0])
        assert states[to].state == copy.state
        assert float(world.rewards[place, column, 0]) == step.reward
  for horizon in (3, 4):  # the oracle says four actions
    prior = priors.uniform(tables, horizon)
    _, value, _ = tabular.solve(tables, horizon, prior, 0.0)
    np.testing.assert_allclose(value[0, world.start], float(horizon == 4))
