"""Rules: which groups, which rollouts; and rewards that shape."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import selection
from sophia_jax.algorithms.contract import Moment
from sophia_jax.algorithms.dapo import Config, shaped
from tests.algorithms import rows


def groups(*outcomes):
  return [
    rows.group(i, [(1 + j, r) for j, r in enumerate(each)])
    for i, each in enumerate(outcomes)
  ]


def kept(rule, *outcomes):
  return [g.problem.id for g in rule(groups(*outcomes), rows.START)]


def paths(rule, *outcomes):
  (one,) = rule(groups(outcomes), rows.START)
  return [r.path[0] for r in one.rollouts]


def test_groups_without_variance_are_dropped():
  outcomes = [(0, 0), (0, 1), (1, 1), (1, 0)]
  assert kept(selection.varied(), *outcomes) == ["p1", "p3"]


def test_a_window_of_pass_rates():
  rates = [(0, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 1, 1, 0, 0), (1,) * 5]
  assert kept(selection.window(0.4, 0.6), *rates) == ["p1", "p2"]


def test_the_most_varied_share_and_at_least_one():
  outcomes = [(1, 1), (0, 1), (0.4, 0.6), (0, 1)]
  half = selection.most_varied(0.5, "accuracy")
  assert kept(half, *outcomes) == ["p1", "p3"]
  assert kept(selection.most_varied(0.01, "accuracy"), *outcomes) == ["p1"]
  assert kept(selection.most_varied(1.0, "accuracy"), *outcomes) == [
    f"p{i}" for i in range(4)
  ]


def test_groups_of_an_old_policy_are_dropped():
  """Version n is the policy that round n - 1 begins with; 0 is not known."""
  aged = [_versioned(g, i) for i, g in enumerate(groups(*[(0, 1)] * 5))]
  found = selection.fresh(2)(aged, Moment(round=4))
  assert [g.problem.id for g in found] == ["p0", "p3", "p4"]


def _versioned(group, version):
  """The group, its last rollout drawn by two policies, the rest by the newest."""

  def one(r, *versions):
    answer = dataclasses.replace(
      r.completion, versions=tuple((v, 1) for v in versions)
    )
    turn = dataclasses.replace(r.turns[0], completion=answer)
    return dataclasses.replace(r, turns=(turn,))

  *first, last = group.rollouts
  kept = (*(one(r, 5) for r in first), one(last, 5, version))
  return dataclasses.replace(group, rollouts=kept)


def test_rollouts_right_best_and_shortest():
  assert paths(selection.correct(), 0, 1, 0, 1) == [1, 3]
  assert paths(selection.best(2, "accuracy"), 0.1, 0.9, 0.5, 0.9) == [1, 3]
  assert paths(selection.shortest(2), 0, 1, 0, 1) == [0, 1]
  rule = selection.then(selection.correct(), selection.shortest(1))
  assert paths(rule, 0, 1, 0, 1) == [1]


def test_draws_are_of_the_seed_and_the_problem():
  one = selection.drawn(1, seed=3)
  assert paths(one, 0, 0, 0, 0) == paths(one, 1, 1, 1, 1)
  found = {tuple(paths(selection.drawn(1, s), 0, 0, 0, 0)) for s in range(40)}
  assert len(found) == 4


rules = st.sampled_from(
  [
    selection.correct(),
    selection.best(2, "accuracy"),
    selection.shortest(2),
    selection.drawn(2, 1),
  ]
)


@given(
  st.lists(st.booleans(), min_size=1, max_size=6), rules, st.integers(0, 99)
)
def test_the_order_of_the_rollouts_changes_nothing(right, rule, seed):
  (group,) = groups(right)
  mixed = random.Random(seed).sample(group.rollouts, len(group.rollouts))
  other = dataclasses.replace(group, rollouts=tuple(mixed))
  a, b = rule([group, other], rows.START)
  assert a == b


# ---------------------------------------------------------------------- rewards
@pytest.mark.parametrize(
  ("length", "right", "want"),
  [(70, 1, 1.0), (80, 1, 1.0), (90, 1, 0.5), (100, 1, 0.0), (100, 0, -2.0)],
)
def test_the_penalty_of_dapo_grows_over_the_buffer(length, right, want):
  reward = shaped(Config(longest=100, buffer=20))
  assert reward(_rollout(length, right), rows.START) == want


def test_without_a_buffer_there_is_no_penalty():
  assert shaped(Config(longest=9, buffer=0))(_rollout(50, 1), rows.START) == 1


def _rollout(length, right):
  sample = rows.GROUPS[0].rollouts[0]
  return dataclasses.replace(
    sample, length=length, rewards={"accuracy": float(right)}
  )
