"""PPO with a critic, for language models (arXiv 1707.06347, 1506.02438)."""

from __future__ import annotations

import dataclasses
import math

from sophia_jax.algorithms import (
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
  Annotator,
  Credit,
  Term,
  constant,
)
from sophia_jax.config import check_choices

CRITICS = ("head", "model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticConfig:
  """Settings that all methods with a critic have."""

  n: int = 1
  """Rollouts of a problem."""
  low: float = 0.2
  """Distance of the ratio's lower bound from 1."""
  high: float = 0.2
  """Distance of the ratio's upper bound from 1."""
  gamma: float = 1.0
  """Discount of a token."""
  lam: float = 1.0
  """Decay of the advantage from token to token."""
  kl: float = 0.0
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  kl_estimator: str = "k3"
  """Estimator of the KL in the loss, "k3" or "k2"."""
  entropy: float = 0.0
  """Coefficient of the entropy bonus; 0: off."""
  critic: str = "head"
  """Critic: "head", on the policy; "model", with separate weights."""
  value: float = 0.1
  """Coefficient of the value loss of a head."""
  value_clip: float = 0.2
  """Largest change of a value per round that the loss sees."""
  reduction: str = "token"
  """Key of reductions.REDUCTIONS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CriticConfig):
  """Proximal policy optimisation."""

  dual: float = 0.0
  """Bound of the loss in |A| where the advantage A is negative; 0: off."""
  whiten: bool = True
  """Advantages of mean 0 and variance 1 over a round."""
  kl: float = 0.05
  """Coefficient of the KL to the reference; 0: no reference."""
  kl_in: str = "reward"
  """Place of the KL: "reward", where it is k1, or "loss"."""

  def __post_init__(self) -> None:
    check_choices(self, "ppo", kl_in=("reward", "loss"), critic=CRITICS)


def ppo(c: Config) -> Algorithm:
  """Builds the clipped surrogate on generalised advantages, and the critic."""
  in_loss = c.kl if c.kl_in == "loss" else 0.0
  made = valued(
    c,
    credit.by_reward(reductions.named(c.reduction, "ppo")),
    streams=("rewards", "weights", "count", "mask"),
    in_loss=in_loss,
    advantages=(
      annotate.gae(c.gamma, c.lam, c.kl - in_loss),
      *((annotate.whiten(),) if c.whiten else ()),
    ),
    dual=c.dual or math.inf,
  )
  return dataclasses.replace(made, sample=sampling.attempts(c.n))


def valued(
  c: CriticConfig,
  credited: Credit,
  *,
  streams: tuple[str, ...],
  in_loss: float,
  advantages: tuple[Annotator, ...],
  dual: float = math.inf,
) -> Algorithm:
  """Builds a clipped surrogate on advantages that a critic's values make.

  Args:
    streams: names of the streams that `credited` makes.
    in_loss: coefficient of the KL to the reference in the loss.
    advantages: annotators that read stream "values".
    dual: bound of the loss in |A| where the advantage A is negative.
  """
  _, kl = grpo.kl_loss(in_loss, c.kl_estimator)
  head = c.critic == "head"
  value = Term(
    diagnostics.VALUE,
    losses.value(c.value_clip),
    constant(c.value if head else 1.0),
  )
  bounds = (c.low, c.high, dual)
  return Algorithm(
    credit=credited,
    streams=streams,
    annotate=(
      annotate.old_logps(),
      *((annotate.ref_logps(),) if c.kl else ()),
      annotate.values("policy" if head else "critic"),
      *advantages,
    ),
    terms=(
      Term(diagnostics.POLICY, losses.surrogate(ratios.token, *bounds)),
      *kl,
      *grpo.entropy_bonus(c.entropy),
      *((value,) if head else ()),
    ),
    metrics=(
      *diagnostics.of_policy(ratios.token),
      *diagnostics.of_clipping(ratios.token, *bounds),
      *diagnostics.of_returns(),
    ),
    maxima=(diagnostics.largest_ratio(ratios.token),),
    outputs=("logps", "entropy", *(("value",) if head else ())),
    critic=None if head else _critic(value),
  )


def _critic(value: Term) -> Algorithm:
  """Builds what a critic with separate weights learns."""
  return Algorithm(
    streams=("weights", "count", "values", "returns"),
    terms=(value,),
    outputs=("value",),
  )
