"""RL-PLUS: a teacher's answer in every group, weighted by multiple importance
sampling and by how new it is (arXiv 2508.00222 and its code)."""

from __future__ import annotations

import dataclasses
import math

from sophia_jax.algorithms import (
  advantages,
  annotate,
  credit,
  diagnostics,
  grpo,
  losses,
  ratios,
  reductions,
  sampling,
)
from sophia_jax.algorithms.contract import (
  Algorithm,
  Moment,
  Reward,
  Term,
  constant,
)
from sophia_jax.algorithms.selection import part
from sophia_jax.types import Rollout, SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Hybrid policy optimisation with external data."""

  n: int = 8
  """Rollouts of a problem, the teachers' included."""
  teachers: tuple[str, ...] = ("teacher",)
  """Teachers of config.teachers that fill a place each."""
  uniform: float = 1.0
  """Probability U of a token under what is not known of a teacher: 1, as the
  code has it, or 1 / vocabulary, as the text means."""
  gamma: float = 0.5
  """Exponent of the exploration advantage (1 - pi)^gamma; 0: off."""
  std: bool = False
  """Division of advantages by the group's deviation: the paper's, not the
  code's."""
  split: bool = False
  """Baseline of the policy's own rollouts alone."""
  clip: float = 0.0
  """Distance of the bounds of the policy's own ratio from 1; 0: not clipped."""
  longest: int = 8192
  """Maximum response length, tokens: divides the sum over each response."""
  scale: float = 1.0
  """Factor of the policy gradient; the code does not divide by sequences, which
  is a factor of as many as a microbatch has."""
  entropy: float = 0.001
  """Coefficient of the entropy bonus, a mean over tokens; 0: off."""
  think: bool = True
  """Reward 0 for an answer without the end of a thought, </think>."""

  def __post_init__(self) -> None:
    if self.n - len(self.teachers) < 1 or self.n < 2:
      raise SophiaError(
        f"rl_plus.n: {self.n} rollouts with {len(self.teachers)} teachers leave "
        "no group of the policy's own; raise n"
      )
    for key, least in (("uniform", 1e-30), ("gamma", 0.0), ("clip", 0.0)):
      if not least <= getattr(self, key) < math.inf:
        raise SophiaError(
          f"rl_plus.{key}: {getattr(self, key)} is out of range; use a number "
          f"{'above' if least else 'from'} 0"
        )


def gated(think: bool) -> Reward:
  """Returns the accuracy, 0 where an answer has to think and does not."""

  def reward(rollout: Rollout, moment: Moment) -> float:
    thought = not think or "</think>" in rollout.completion.text
    return part(rollout, "accuracy") * thought

  return reward


def rl_plus(c: Config) -> Algorithm:
  """Builds -sum_own rho A - sum_teacher 4 pi / (3 pi_old + U) (1 - sg pi)^gamma A.

  Both sums are over tokens, divided by `longest`; A = R - mean R over the group.
  """
  advantage = advantages.normalised if c.std else advantages.centred
  mixture = ratios.mixture(c.uniform)
  external = losses.weighted(ratios.focal(mixture, c.gamma))
  bounds = (c.clip, c.clip) if c.clip else (math.inf, math.inf)
  own = losses.surrogate(ratios.token, *bounds)
  ratio = ratios.by_source(ratios.token, mixture)
  return Algorithm(
    sample=sampling.with_teachers(c.n - len(c.teachers), c.teachers),
    roles=("policy", *dict.fromkeys(c.teachers)),
    reward=gated(c.think),
    credit=credit.by_group(advantage, reductions.constant(c.longest), c.split),
    streams=(*credit.STREAMS, "source"),
    annotate=(annotate.old_logps(),),
    terms=(
      Term(
        diagnostics.POLICY,
        losses.by_source(own, external),
        constant(c.scale),
      ),
      # A mean over tokens, whatever divides the policy gradient.
      *grpo.entropy_bonus(c.entropy, ("mask", "mask")),
    ),
    metrics=(
      *diagnostics.of_policy(ratio),
      *diagnostics.of_teachers(mixture, ratios.focal(mixture, c.gamma)),
    ),
    maxima=(diagnostics.largest_ratio(ratio),),
    outputs=("logps", "entropy"),
  )
