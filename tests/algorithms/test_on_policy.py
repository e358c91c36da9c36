"""A round of one update needs no pass for old log-probabilities."""

import dataclasses

import jax
import numpy as np
import pytest

from sophia_jax.algorithms import registry
from sophia_jax.algorithms.on_policy import on_policy
from tests.algorithms import rows

METHODS = {
  "grpo": {"n": 4},
  "dapo": {"n": 4},
  "dr_grpo": {"n": 4},
  "gspo": {"n": 4},
  "cispo": {"n": 4},
  "ppo": {"n": 1, "critic": "head", "kl": 0.0},
  "rloo": {"n": 4, "kl": 0.0},
}


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_and_the_metrics_are_those_with_the_pass(name):
  whole = registry.build(name, METHODS[name])
  short = on_policy(whole)
  assert "old_logps" in whole.all_streams
  assert "old_logps" not in short.all_streams
  batch = rows.ready(whole)
  less = dataclasses.replace(
    batch,
    streams={k: v for k, v in batch.streams.items() if k != "old_logps"},
  )
  params = rows.MODELS["policy"]
  want = rows.gradient(whole, params, batch)
  most = max(np.abs(x).max() for x in jax.tree.leaves(want))
  assert most > 0
  rows.close(rows.gradient(short, params, less), want, 1e-5, 1e-5 * most)
  names = [term.name for term in whole.metrics]
  assert [term.name for term in short.metrics][: len(names)] == names


def test_what_sampler_and_trainer_disagree_on_is_still_seen():
  short = on_policy(registry.build("grpo", {"n": 4}))
  assert "behaviour_logps" in short.streams
  assert short.metrics[-1].name == "training/rollout_probs_diff_mean"
  assert short.maxima[-1].name == "training/rollout_probs_diff_max"


def test_a_kl_in_the_reward_needs_the_pass():
  for name, settings in (
    ("rloo", {"n": 4, "kl": 0.1}),
    ("ppo", {"n": 1, "kl": 0.1, "critic": "head"}),
  ):
    whole = registry.build(name, settings)
    assert on_policy(whole) is whole


def test_without_old_log_probabilities_nothing_changes():
  whole = registry.build("sft")
  assert on_policy(whole) is whole
