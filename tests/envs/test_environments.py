"""Rules of the environments: against Gymnasium, against search, and any board."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.envs import bandit, lake, registry, sokoban
from sophia_jax.envs.bandit import Bandit
from sophia_jax.envs.board import ACTIONS
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.envs.sokoban import Sokoban
from sophia_jax.types import Problem, SophiaError

RNG = np.random.default_rng
LAKE = FrozenLake(rows=("SFFF", "FHFH", "FFFH", "HFFG"), success_rate=0.8)
BOX = Sokoban(rows=("#####", "#@-.#", "#-$-#", "#---#", "#####"))


def play(env, *names, seed=0):
  """The steps of named actions, one after the other."""
  state, chance, steps = env.start(), RNG(seed), []
  for name in names:
    steps.append(env.step(state, env.actions.index(name), chance))
    state = steps[-1].state
  return steps


# ----------------------------------------------------------------------- bandit
def test_a_bandit_pays_as_its_arms_do():
  env = Bandit(arms=("Bond", "Dice"), risky=1)
  chance = RNG(0)
  safe = [env.step(-1, 0, chance) for _ in range(10)]
  assert {(s.reward, s.done) for s in safe} == {(0.1, True)}
  risky = [env.step(-1, 1, chance).reward for _ in range(4000)]
  assert set(risky) == {0.0, 1.0}
  assert np.mean(risky) == pytest.approx(0.25, abs=0.03)
  assert env.solved(safe[0].state) is False
  assert env.solved(env.step(-1, 1, chance).state)
  assert not env.solved(env.start())
  poor = dataclasses.replace(env, chance=0.05)
  assert poor.advice(poor.start()) == 0


def test_held_out_names_are_no_names_of_training():
  known = {*bandit.SAFE, *bandit.RISKY}
  assert len(bandit.SAFE) == len(bandit.RISKY) == 12
  others = {*bandit.HELD_OUT_SAFE, *bandit.HELD_OUT_RISKY}
  assert len(others) == 16 and not known & others
  arms = {n for i in range(99) for n in bandit.drawn(RNG(i), True).arms}
  assert arms <= others
  places = {bandit.drawn(RNG(i), False).risky for i in range(20)}
  assert places == {0, 1}


# ------------------------------------------------------------------------- lake
def test_a_lake_has_the_transitions_of_gymnasium():
  gymnasium = pytest.importorskip("gymnasium")
  for success in (1 / 3, 0.8, 1.0):
    env = dataclasses.replace(LAKE, success_rate=success)
    oracle = gymnasium.make(
      "FrozenLake-v1", desc=list(env.rows), success_rate=success
    ).unwrapped
    for r in range(4):
      for c in range(4):
        if env.sign((r, c)) in "HG":
          continue
        for action in range(4):
          want = sorted(
            (round(p, 9), s, float(reward), bool(done))
            for p, s, reward, done in oracle.P[4 * r + c][action]
          )
          got = sorted(
            (round(p, 9), 4 * s.state[0] + s.state[1], s.reward, s.done)
            for p, s in env.transitions((r, c), action)
          )
          assert got == want, (success, r, c, action)


def test_a_lake_slips_as_often_as_its_rate_says():
  chance = RNG(1)
  to = [LAKE.step((0, 1), 2, chance).state for _ in range(4000)]
  share = lambda place: to.count(place) / len(to)
  assert share((0, 2)) == pytest.approx(0.8, abs=0.02)
  assert share((1, 1)) == pytest.approx(0.1, abs=0.02)
  assert share((0, 1)) == pytest.approx(0.1, abs=0.02)  # off the lake: stays


def test_a_walk_ends_in_holes_and_at_the_goal():
  sure = dataclasses.replace(LAKE, success_rate=1.0)
  *_, fell = play(sure, "right", "down")
  assert (fell.reward, fell.done) == (0, True) and not sure.solved(fell.state)
  *_, home = play(sure, "down", "down", "right", "right", "down", "right")
  assert (home.reward, home.done) == (1, True) and sure.solved(home.state)
  assert sure.text(sure.start()) == "P _ _ _\n_ O _ O\n_ _ _ O\nO _ _ G"
  assert "X" in sure.text(fell.state) and "W" in sure.text(home.state)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_advice_reaches_the_goal_of_any_lake(seed):
  env = lake.drawn(RNG(seed), 4, 0.7, 1.0)
  state = env.start()
  for _ in range(16):
    state, _, done = env.step(state, env.advice(state), RNG(0))
    if done:
      break
  assert env.solved(state)


# ---------------------------------------------------------------------- sokoban
def test_boxes_are_pushed_and_never_pulled():
  up = Sokoban(rows=("#####", "#-.-#", "#-$-#", "#-@-#", "#####"))
  [step] = play(up, "up")
  assert step.reward == pytest.approx(-0.1 + 1 + 10) and step.done
  rows = ("#####", "#-*-#", "#-@-#", "#---#", "#####")
  assert up.text(step.state) == "\n".join(map(" ".join, rows))
  blocked, _ = play(BOX, "up", "left")
  assert blocked.state == BOX.start()
  assert (blocked.reward, blocked.done) == (-0.1, False)
  off = Sokoban(rows=("######", "#.---#", "#@*--#", "######"))
  assert play(off, "right")[0].reward == pytest.approx(-0.1 - 1)


def test_two_boxes_do_not_move_together():
  row = Sokoban(rows=("#######", "#@$$..#", "#######"))
  assert play(row, "right")[0].state == row.start()
  assert sokoban.solution(row, row.start()) is None
  assert row.advice(row.start()) in range(4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_shortest_solution_solves_and_none_is_shorter(seed):
  env = sokoban.drawn(RNG(seed), 6, 1, 10)
  found = sokoban.solution(env, env.start())
  assert found and len(found) <= 10
  reached = {env.start()}
  for number in range(len(found)):
    assert not any(map(env.solved, reached)), number
    assert env.start() in reached or number
    reached = {env.moved(s, a) for s in reached for a in range(4)} | reached
  assert any(map(env.solved, reached))
  *_, last = play(env, *(ACTIONS[a] for a in found))
  assert last.done and env.solved(last.state)


# ----------------------------------------------------------------- as problems
@pytest.mark.parametrize(
  "env", [Bandit(arms=("a", "b"), risky=0), LAKE, BOX], ids=lambda e: str(e)[:6]
)
def test_a_problem_holds_its_environment(env):
  problem = Problem(id="p", question="?", answer=registry.written(env))
  assert registry.of(problem) == env
  picture = env.picture(env.start())
  if picture is not None:
    rows = [row.split() for row in env.text(env.start()).split("\n")]
    assert picture.shape == (12 * len(rows), 12 * len(rows[0]), 3)
    after = env.picture(env.step(env.start(), 1, RNG(0)).state)
    assert not np.array_equal(picture, after)
  assert env.rules() and hash(env.start()) is not None


@pytest.mark.parametrize(
  ("answer", "want"),
  [
    ("42", "is no environment"),
    ("not JSON", "is no environment"),
    ('{"env": "frozenlake", "rows": ["SG"]}', "mean 'frozen_lake'"),
    ('{"env": ["x"]}', "no environment"),
    ('{"env": "frozen_lake", "rows": ["SF"]}', "one S and at least one G"),
    ('{"env": "frozen_lake", "row": ["SG"]}', "did you mean 'rows'"),
    ('{"env": "frozen_lake", "rows": 3}', "frozen_lake"),
    ('{"env": "frozen_lake", "rows": [1, 2]}', "frozen_lake"),
    ('{"env": "frozen_lake", "rows": ["SG"], "success_rate": "x"}', "problem"),
    ('{"env": "sokoban", "rows": ["@$."]}', "walls"),
    ('{"env": "sokoban", "rows": ["###", "#@#", "###"]}', "target"),
    ('{"env": "bandit", "arms": ["a"], "risky": 0}', "two arms"),
    (json.dumps([1] * 9), "is no environment"),
  ],
)
def test_a_broken_environment_is_one_line(answer, want):
  with pytest.raises(SophiaError, match=want) as e:
    registry.of(Problem(id="p7", question="?", answer=answer))
  assert "problem p7" in str(e.value) and "\n" not in str(e.value)
