"""Vision-EKIPL (arXiv 2506.06856, a reconstruction): the pool and its best."""

import asyncio
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import credit, diagnostics, grpo, selection
from sophia_jax.algorithms.registry import build
from sophia_jax.types import SophiaError
from tests.algorithms import rows, words
from tests.algorithms.test_sophia import PROBLEM
from tests.algorithms.words import Letters, World


def pool(*rewards):
  return rows.group(0, [(1 + i, r) for i, r in enumerate(rewards)])


def kept(rewards, n, worst):
  rule = selection.best(n, "accuracy", worst=worst)
  (group,) = rule([pool(*rewards)], rows.START)
  return [r.path[0] for r in group.rollouts]


@pytest.mark.parametrize(
  ("rewards", "worst", "want"),
  [
    ((0, 1, 0, 1, 1), False, [1, 3, 4]),
    ((0, 1, 0, 1, 1), True, [1, 2, 3]),  # all equal: the worst, not the last
    ((0, 1, 0, 0, 1), True, [0, 1, 4]),
    ((1, 1, 1, 1), True, [0, 1, 3]),
    ((0, 0, 0.5, 0, 0), True, [0, 1, 2]),
  ],
)
def test_the_best_of_the_pool_and_a_worst_where_all_are_equal(
  rewards, worst, want
):
  assert kept(rewards, 3, worst) == want


@given(st.lists(st.integers(0, 2), min_size=3, max_size=8), st.booleans())
def test_a_pool_with_two_rewards_is_never_dead_with_its_worst(rewards, worst):
  found = [rewards[i] for i in kept(rewards, 3, worst)]
  assert sorted(found)[1:] == sorted(rewards)[-3:][1:] or worst
  if worst and len(set(rewards)) > 1:
    assert len(set(found)) > 1
  assert max(found) == max(rewards)


def sampled(right, **config):
  algorithm = build("vision_ekipl", {"n": 3, "keep": 3, **config})
  world = World(right=right)
  group = asyncio.run(algorithm.sample(world, PROBLEM))
  scored = credit.rewarded([group], algorithm.reward, rows.START)
  return algorithm, scored, world


def test_external_answers_join_the_pool_and_their_share_is_reported():
  algorithm, scored, world = sampled(
    lambda path: path[0] > 1, teachers=("big", "small")
  )
  assert [role for role, *_ in world.asked] == [*["policy"] * 3, "big", "small"]
  groups = algorithm.select(scored, rows.START)
  assert [r.author for r in groups[0].rollouts] == ["policy", "policy", "big"]
  seen = diagnostics.of_round(scored, groups, [], rows.START)
  assert seen["source/big/share"] == pytest.approx(1 / 3)
  assert seen["source/small/share"] == 0


def test_the_kept_are_normalised_together_and_marked_by_source():
  algorithm, scored, _ = sampled(lambda path: path == (3,), teachers=("big",))
  groups = algorithm.select(scored, rows.START)
  made = algorithm.credit(groups, Letters(), rows.START)
  where = [np.flatnonzero(s.streams["mask"])[0] for s in made]
  source = [s.streams["source"][i] for s, i in zip(made, where)]
  a = [s.streams["advantages"][i] for s, i in zip(made, where)]
  assert source == [0, 0, 1]
  np.testing.assert_allclose(a, np.array([-1, -1, 2]) / 3**0.5, rtol=1e-4)


def test_without_external_models_it_is_grpo_on_the_same_rewards():
  settings = {"n": 4, "kl": 0.1, "teachers": (), "keep": 4}
  mine = build("vision_ekipl", settings)
  plain = grpo.grpo(grpo.Config(n=4, kl=0.1))
  with_task = [
    dataclasses.replace(
      g,
      rollouts=tuple(
        dataclasses.replace(
          r, rewards={**r.rewards, "task": r.rewards["accuracy"], "format": 0}
        )
        for r in g.rollouts
      ),
    )
    for g in rows.GROUPS
  ]
  one, other = rows.learnt(mine, with_task), rows.learnt(plain)
  by_id = {s.id: s for s in one}
  for s in other:
    for name, values in s.streams.items():
      np.testing.assert_array_equal(by_id[s.id].streams[name], values)
  assert [t.name for t in mine.terms] == [t.name for t in plain.terms]


def test_the_task_and_the_form_make_the_reward():
  class Tagged(words.World):
    async def ask(self, role, problem, path, prompt, turn=0):
      text = ("<think>a</think> <answer>6</answer>", "<answer>6</answer>", "5")
      return rows.completion([1], [-1.0], text=text[path[0]])

  algorithm = build(
    "vision_ekipl", {"n": 3, "keep": 2, "teachers": (), "task": "counting"}
  )
  world = Tagged(right=lambda path: False)
  group = asyncio.run(algorithm.sample(world, PROBLEM))
  assert [algorithm.reward(r, rows.START) for r in group.rollouts] == [2, 1, 0]


@pytest.mark.parametrize(
  ("config", "said"),
  [
    ({"task": "count"}, "'count' is unknown; use one of verified, counting"),
    ({"n": 2, "keep": 9}, "keep: 9 of a pool of 2 own and 1 external"),
    ({"keep": 1}, "keep 2 up to all"),
  ],
)
def test_settings_that_cannot_work_are_refused(config, said):
  with pytest.raises(SophiaError, match=said):
    build("vision_ekipl", config)
