"""DAPO: GRPO with clip-higher, dynamic sampling, mean over tokens and a soft
penalty of overlong responses (arXiv 2503.14476)."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import grpo, selection
from sophia_jax.algorithms.contract import Algorithm, Moment, Reward
from sophia_jax.types import Rollout, SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
  """Decoupled clip and dynamic sampling."""

  n: int = 16
  """Rollouts of a problem."""
  high: float = 0.28
  """Distance of the ratio's upper bound from 1: clip-higher."""
  kl: float = 0.0
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  reduction: str = "token"
  """Key of reductions.REDUCTIONS; the paper's is "token"."""
  longest: int = 20480
  """Maximum response length, tokens."""
  buffer: int = 4096
  """Length before the maximum over which the penalty grows, tokens; 0: off."""
  penalty: float = 1.0
  """Penalty of a response of the maximum length."""

  def __post_init__(self) -> None:
    if not 0 <= self.buffer <= self.longest:
      raise SophiaError(
        f"dapo.buffer: {self.buffer} tokens are not between 0 and the longest "
        f"response, {self.longest}; lower buffer or raise longest"
      )


def shaped(c: Config) -> Reward:
  """Returns the reward 1 or -1 with the soft overlong punishment (Eq. 13).

  R = +-1 + min(0, (longest - buffer - |y|) / buffer) penalty
  """

  def reward(rollout: Rollout, moment: Moment) -> float:
    over = rollout.length - (c.longest - c.buffer)
    penalty = c.penalty * min(0.0, -over / max(c.buffer, 1))
    outcome = 2 * selection.part(rollout, "accuracy") - 1
    return outcome + (penalty if c.buffer else 0.0)

  return reward


def dapo(c: Config) -> Algorithm:
  """Builds GRPO on groups with both right and wrong answers."""
  return dataclasses.replace(
    grpo.grpo(c, "dapo"), reward=shaped(c), select=selection.varied("accuracy")
  )
