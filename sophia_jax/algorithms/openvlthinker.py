"""OpenVLThinker's RL: GRPO that asks for a summary (arXiv 2503.17352 v3).

The method is a schedule: verified chains, SFT from the base, GRPO on medium, then
on hard problems, three times. Its stages are `chains`, `buckets`, `sft` and this.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import grpo, reflections, selection
from sophia_jax.algorithms.contract import Algorithm, Moment, Reward
from sophia_jax.types import Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
  """GRPO with a penalty of right answers without a summary."""

  n: int = 5
  """Rollouts of a problem."""
  high: float = 0.3
  """Distance of the ratio's upper bound from 1."""
  dual: float = 3.0
  """Bound of the loss in |A| where the advantage A is negative; 0: off."""
  kl: float = 0.01
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  reduction: str = "token"
  """Key of reductions.REDUCTIONS; the authors' is "token"."""
  penalty: float = 0.5
  """Penalty of a right answer with nothing between </think> and the answer."""


def summarised(penalty: float) -> Reward:
  """Returns the reward 1 of a right answer, 1 - penalty without a summary."""

  def reward(rollout: Rollout, moment: Moment) -> float:
    empty = reflections.has_empty_summary(rollout.completion.text)
    return selection.part(rollout, "accuracy") * (1 - penalty * empty)

  return reward


def openvlthinker(c: Config) -> Algorithm:
  """Builds GRPO on the reward with a summary."""
  plain = grpo.grpo(c, "openvlthinker")
  return dataclasses.replace(plain, reward=summarised(c.penalty))
