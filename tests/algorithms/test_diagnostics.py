"""Metrics of a round, by hand."""

import dataclasses

import numpy as np

from sophia_jax.algorithms import credit, diagnostics
from sophia_jax.algorithms.contract import Moment
from sophia_jax.algorithms.registry import build
from sophia_jax.types import FinishReason
from tests.algorithms import rows

ROUND = Moment(round=5)


def versioned(group, version):
  """The group as drawn by the policy of a version, its first answer cut off."""

  def one(r):
    reason = FinishReason.LENGTH if r.path == (0,) else FinishReason.STOP
    answer = dataclasses.replace(
      r.completion, versions=((version, r.length),), finish_reason=reason
    )
    turn = dataclasses.replace(r.turns[0], completion=answer)
    return dataclasses.replace(r, turns=(turn,))

  return dataclasses.replace(group, rollouts=tuple(map(one, group.rollouts)))


def of_round(groups, name="dapo", **settings):
  algorithm = build(name, settings)
  scored = credit.rewarded(groups, algorithm.reward, ROUND)
  kept, sequences = credit.learn(algorithm, groups, None, ROUND)
  return diagnostics.of_round(scored, kept, sequences, ROUND)


def test_a_round_by_hand():
  groups = [
    versioned(rows.group(0, [(2, 1), (4, 0), (6, 0), (8, 1)]), 6),
    versioned(rows.group(1, [(3, 1), (3, 1), (3, 1), (3, 1)]), 4),
  ]
  found = of_round(groups, n=4, buffer=0)
  want = {
    "critic/score/mean": 0.5,  # of 1 and -1
    "critic/score/max": 1.0,
    "critic/score/min": -1.0,
    "rewards/accuracy/mean": 0.75,
    "rewards/accuracy/std": np.sqrt(3) / 4,
    "frac_reward_zero_std": 0.5,
    "critic/score/group_std/mean": np.sqrt(4 / 3) / 2,
    "training/filter_groups/sampled": 2,
    "training/filter_groups/kept": 1,
    "response_length/mean": 4.0,
    "response_length/max": 8,
    "response_length/min": 2,
    "response_length/clip_ratio": 0.25,
    "training/off_policy/trajectory_staleness/mean": 1.0,
    "training/off_policy/trajectory_staleness/max": 2.0,
    "training/off_policy/trajectory_staleness/min": 0.0,
    # (+-1) / std, by tokens: 10 right, 10 wrong.
    "critic/advantages/mean": 0.0,
    "critic/advantages/max": 1 / np.sqrt(4 / 3),
  }
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
  assert {"prompt_length/mean", "rewards/reward/mean"} <= set(found)


def test_a_round_of_nothing_has_no_means():
  found = diagnostics.of_round([], [], [], ROUND)
  assert found["training/filter_groups/sampled"] == 0
  assert "critic/score/mean" not in found
  assert all(np.isfinite(v) for v in found.values())


def test_pairs_and_token_rewards_have_no_advantages_of_the_host():
  for name in ("dpo", "ppo"):
    assert "critic/advantages/mean" not in of_round(rows.GROUPS, name)


def test_the_gap_between_sampler_and_trainer():
  mask = np.float32([[0, 1, 1], [1, 0, 0]])
  old = np.log(np.float32([[9, 0.5, 0.25], [0.5, 9, 9]]))
  same = {"old_logps": old, "behaviour_logps": old, "mask": mask}
  found = diagnostics.sampler_gap([same])
  assert found["training/rollout_probs_diff_max"] == 0
  np.testing.assert_allclose(
    found["training/rollout_actor_probs_pearson_corr"], 1.0, rtol=1e-6
  )
  other = np.log(np.float32([[9, 0.6, 0.25], [0.2, 9, 9]]))
  found = diagnostics.sampler_gap([{**same, "behaviour_logps": other}])
  gaps = [0.1, 0.0, 0.3]
  for fold in ("mean", "max", "std"):
    name = f"training/rollout_probs_diff_{fold}"
    np.testing.assert_allclose(found[name], getattr(np, fold)(gaps), atol=1e-6)
