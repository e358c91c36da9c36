"""GRPO: a group is its own baseline (arXiv 2402.03300, Eq. 3)."""

from __future__ import annotations

import dataclasses
import math

from sophia_jax.algorithms import (
  advantages,
  annotate,
  credit,
  diagnostics,
  losses,
  ratios,
  reductions,
  sampling,
)
from sophia_jax.algorithms.contract import (
  Algorithm,
  Annotator,
  Credit,
  Loss,
  Term,
  constant,
)
from sophia_jax.types import SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig:
  """Settings that all methods with group baselines have."""

  n: int = 8
  """Rollouts of a problem."""
  kl: float = 0.0
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  kl_estimator: str = "k3"
  """Estimator of the KL, "k3" or "k2"."""
  entropy: float = 0.0
  """Coefficient of the entropy bonus; 0: off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig(GroupConfig):
  """Settings of a clipped surrogate on groups."""

  low: float = 0.2
  """Distance of the ratio's lower bound from 1."""
  high: float = 0.2
  """Distance of the ratio's upper bound from 1."""
  dual: float = 0.0
  """Bound of the loss in |A| where the advantage A is negative; 0: off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ClipConfig):
  """Group-relative policy optimisation."""

  kl: float = 0.04
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  reduction: str = "sequence"
  """Key of reductions.REDUCTIONS; the paper's is "sequence"."""


def grpo(c: Config, method: str = "grpo") -> Algorithm:
  """Builds -mean_i 1/|y_i| sum_t min(rho A, clip(rho) A) + kl k3.

  Args:
    method: name in errors.
  """
  reduction = reductions.named(c.reduction, method)
  return clipped(c, method, credit.by_group(advantages.normalised, reduction))


def clipped(
  c: ClipConfig,
  method: str,
  credited: Credit,
  ratio: ratios.Ratio = ratios.token,
) -> Algorithm:
  """Builds a clipped surrogate on groups."""
  limits = (c.low, c.high, c.dual or math.inf)
  return grouped(
    c,
    method,
    credited,
    losses.surrogate(ratio, *limits),
    (
      *diagnostics.of_policy(ratio),
      *diagnostics.of_clipping(ratio, *limits),
    ),
    ratio,
  )


def grouped(
  c: GroupConfig,
  method: str,
  credited: Credit,
  policy: Loss,
  metrics: tuple[Term, ...],
  ratio: ratios.Ratio = ratios.token,
) -> Algorithm:
  """Builds a policy gradient on groups, with KL and entropy where asked for."""
  refuse_single(c.n, method)
  scored, kl = kl_loss(c.kl, c.kl_estimator)
  return Algorithm(
    sample=sampling.attempts(c.n),
    credit=credited,
    streams=credit.STREAMS,
    annotate=(annotate.old_logps(), *scored),
    terms=(
      Term(diagnostics.POLICY, policy),
      *kl,
      *entropy_bonus(c.entropy),
    ),
    metrics=metrics,
    maxima=(diagnostics.largest_ratio(ratio),),
    outputs=("logps", "entropy"),
  )


def kl_loss(
  coefficient: float, estimator: str
) -> tuple[tuple[Annotator, ...], tuple[Term, ...]]:
  """Returns the annotator and the term of a KL to the reference; none if 0."""
  if not coefficient:
    return (), ()
  loss = losses.kl_to("ref_logps", estimator)
  term = Term(diagnostics.KL, loss, constant(coefficient))
  return (annotate.ref_logps(),), (term,)


def entropy_bonus(
  coefficient: float, over: tuple[str, str] = ("weights", "count")
) -> tuple[Term, ...]:
  """Returns the term of an entropy bonus; none if 0.

  Args:
    over: streams that weigh and normalise it; the policy gradient's by default.
  """
  if not coefficient:
    return ()
  name, loss = diagnostics.ENTROPY, losses.negative_entropy
  return (Term(name, loss, constant(coefficient), *over),)


def refuse_single(n: int, method: str) -> None:
  """Raises SophiaError if a group has no baseline: advantages would be 0."""
  if n < 2:
    raise SophiaError(
      f"{method}.n: a group of {n} has no baseline; use 2 rollouts or more"
    )
