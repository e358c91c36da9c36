"""Rewards, selection and credit (arXiv 2507.16814, Eq. 5-7) on a toy."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms.legacy.sophia import (
  SophiaConfig,
  caption_reward,
  credit,
  eligible,
  select,
)
from sophia_jax.types import CaptionTree, Problem, Status, Verdict
from tests import sampled

PROBLEM = Problem(
  id="apples",
  question="How many?",
  answer="6",
  images=("apples.png",),
  hint="Count.",
  choices=("five", "six"),
)


def group(rows, texts="{k}{n}") -> CaptionTree:
  """[k][n] of (right?, length) -> a group."""
  return sampled.tree(
    PROBLEM,
    [sampled.completion(f"caption {k}") for k in range(len(rows))],
    [
      [
        (texts.format(k=k, n=n), sampled.status(right), length)
        for n, (right, length) in enumerate(row)
      ]
      for k, row in enumerate(rows)
    ],
  )


R, W = True, False
# Caption 0 is right in 2 of 3, caption 1 in 3 of 3; the shortest of all is
# wrong, the shortest right one is built on the worse caption.
TOY = group([[(R, 5), (W, 1), (R, 9)], [(R, 8), (R, 7), (R, 8)]])


def chosen(toy=TOY, **config):
  return [(t.k, t.n) for t in select(toy, SophiaConfig(**config))]


# ------------------------------------------------------------------------ rewards
def test_the_caption_reward_is_the_mean_outcome():
  """Eq. 5."""
  assert [caption_reward(row) for row in TOY.trajectories] == [2 / 3, 1.0]
  assert caption_reward(group([[(W, 1), (W, 2)]]).trajectories[0]) == 0.0


@pytest.mark.parametrize("status", Status)
def test_only_right_is_rewarded(status):
  """Eq. 4; a trajectory cut off scores 0 like any other."""
  one = dataclasses.replace(
    TOY.trajectories[0][0], verdict=Verdict(status=status)
  )
  assert one.reward == (1.0 if status is Status.RIGHT else 0.0)


# ---------------------------------------------------------------------- selection
def test_the_shortest_right_one_on_a_good_caption():
  """Eq. 6."""
  assert chosen() == [(1, 1)]


def test_alpha_is_strict():
  assert chosen(alpha=2 / 3) == [(1, 1)]
  assert chosen(alpha=2 / 3 - 1e-9) == [(0, 0)]
  assert chosen(alpha=1.0) == []
  # 3 of 4 is not above the paper's 0.75; 7 of 8 is.
  assert chosen(group([[(R, 1)] * 3 + [(W, 1)]])) == []
  assert chosen(group([[(R, 1)] * 7 + [(W, 1)]])) == [(0, 0)]


def test_keep_n():
  assert chosen(keep_n=2) == [(1, 1), (1, 0)]
  assert chosen(keep_n=8) == [(1, 1), (1, 0), (1, 2)]
  assert chosen(keep_n=8, alpha=0.0) == [(0, 0), (1, 1), (1, 0), (1, 2), (0, 2)]


def test_ties_go_to_the_lowest_place():
  same = group([[(R, 4)] * 3, [(R, 4)] * 3])
  assert chosen(same) == [(0, 0)]
  assert chosen(same, keep_n=4) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_no_caption_reward():
  assert chosen(no_caption_reward=True) == [(0, 0)]
  one_right = group([[(W, 1), (R, 9), (W, 2)], [(W, 3), (W, 4), (W, 5)]])
  assert chosen(one_right) == []
  assert chosen(one_right, no_caption_reward=True) == [(0, 1)]


def over_seeds(**config):
  return {place for seed in range(60) for place in chosen(seed=seed, **config)}


def test_no_shortest_is_a_random_eligible_one():
  assert over_seeds(no_shortest=True) == {(1, 0), (1, 1), (1, 2)}
  assert over_seeds(no_shortest=True, no_caption_reward=True) == {
    (0, 0),
    (0, 2),
    (1, 0),
    (1, 1),
    (1, 2),
  }


def test_random_is_any_right_or_wrong():
  every = {(k, n) for k in range(2) for n in range(3)}
  assert over_seeds(random=True) == every
  wrong = group([[(W, 1)] * 3, [(W, 1)] * 3])
  assert len(chosen(wrong, random=True)) == 1
  assert len(chosen(random=True, keep_n=2)) == 2


def test_random_choices_are_of_the_seed_and_the_problem():
  assert chosen(random=True, seed=3) == chosen(random=True, seed=3)
  places = set()
  for i in range(30):
    problem = dataclasses.replace(PROBLEM, id=f"p{i}")
    other = dataclasses.replace(TOY, problem=problem)
    places.add(chosen(other, random=True)[0])
  assert len(places) > 3, "one draw would choose the same place of each problem"


outcomes = st.tuples(st.booleans(), st.integers(1, 4))
groups = st.integers(1, 4).flatmap(
  lambda n: st.lists(
    st.lists(outcomes, min_size=n, max_size=n), min_size=1, max_size=4
  ).map(group)
)
configs = st.builds(
  SophiaConfig,
  alpha=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
  keep_n=st.integers(1, 3),
  random=st.booleans(),
  no_caption_reward=st.booleans(),
  no_shortest=st.booleans(),
  seed=st.integers(0, 3),
)


@given(groups, configs, st.randoms(use_true_random=False))
def test_the_order_of_the_records_changes_nothing(one, config, rng):
  rows = [tuple(rng.sample(row, len(row))) for row in one.trajectories]
  order = rng.sample(range(len(rows)), len(rows))
  mixed = dataclasses.replace(
    one,
    captions=tuple(one.captions[i] for i in order),
    trajectories=tuple(rows[i] for i in order),
  )
  assert select(mixed, config) == select(one, config)


@given(st.lists(groups, max_size=4), configs, st.integers())
def test_nor_does_the_order_of_the_groups(several, config, seed):
  several = [
    dataclasses.replace(g, problem=dataclasses.replace(PROBLEM, id=f"p{i}"))
    for i, g in enumerate(several)
  ]
  mixed = random.Random(seed).sample(several, len(several))
  pick = lambda gs: {g.problem.id: select(g, config) for g in gs}
  assert pick(mixed) == pick(several)


@given(groups, configs)
def test_selection_by_definition(one, config):
  """Eq. 6 read aloud: of the eligible, the keep_n least, and all of them."""
  every = [t for row in one.trajectories for t in row]
  mean = [
    sum(t.verdict.status is Status.RIGHT for t in row) / len(row)
    for row in one.trajectories
  ]
  allowed = [
    t
    for t in every
    if config.random
    or (
      t.verdict.status is Status.RIGHT
      and (config.no_caption_reward or mean[t.k] > config.alpha)
    )
  ]
  assert list(eligible(one, config)) == allowed
  found = select(one, config)
  assert len(set(found)) == len(found) == min(config.keep_n, len(allowed))
  assert set(found) <= set(allowed)
  if not (config.random or config.no_shortest):
    left = [t for t in allowed if t not in found]
    key = lambda t: (t.length, t.k, t.n)
    assert list(found) == sorted(found, key=key)
    assert not left or not found or key(found[-1]) < min(map(key, left))


# ------------------------------------------------------------------------- credit
def test_credit_is_question_pixels_and_trajectory():
  """The caption is not in the context."""
  (example,) = credit(TOY, SophiaConfig(), "Think slowly.")
  assert example.id == "apples/1/1"
  assert example.question == "Count.\nHow many?\nA. five\nB. six"
  assert example.response == "11"
  assert example.images == ("apples.png",)
  assert example.weight == 1.0
  assert "caption" not in repr(example)


def test_only_what_thinks_in_tags_is_told_to():
  config = SophiaConfig(keep_n=2)
  (plain, _) = credit(TOY, config, "Think slowly.")
  assert plain.system is None, "the model's own default"
  thinking = group(
    [[(R, 3), (R, 2)]], texts="<think>{k}{n}</think> \\boxed{{6}}"
  )
  one, two = credit(thinking, config, "Think slowly.")
  assert one.system == two.system == "Think slowly."
  assert one.response == "<think>01</think> \\boxed{6}"


def test_nothing_selected_nothing_learnt():
  assert credit(TOY, SophiaConfig(alpha=1.0), "Think slowly.") == []
