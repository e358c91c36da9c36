"""SEED-Bench-R1: GRPO with ratio 1 on questions about videos (arXiv 2503.24376).

A round is learnt in one update, so that the ratio of policy and sampler is 1 and
nothing is clipped. The options of a question are shuffled at every visit.
"""

from __future__ import annotations

import dataclasses
import functools

from sophia_jax.algorithms import (
  advantages,
  annotate,
  credit,
  diagnostics,
  grpo,
  losses,
  options,
  ratios,
  reductions,
  sampling,
)
from sophia_jax.algorithms.contract import Algorithm, Term, constant

EPSILON = 1e-4
"""Added to a group's standard deviation, as in the code."""
LIMIT = 11.0
"""Largest absolute log-ratio of the KL, as in the code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """GRPO with ratio 1 on options that are shuffled."""

  n: int = 8
  """Rollouts of a problem."""
  kl: float = 0.1
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  shuffle: bool = True
  """Whether the options of a problem are shuffled in every round."""
  reduction: str = "sequence"
  """Key of reductions.REDUCTIONS; the code's is "sequence"."""


normalised = functools.partial(advantages.normalised, epsilon=EPSILON)


def seed_bench_r1(c: Config, method: str = "seed_bench_r1") -> Algorithm:
  """Builds -mean_i 1/|y_i| sum_t [exp(log pi - sg log pi) A_i - kl k3].

  Args:
    method: name in errors.
  """
  grpo.refuse_single(c.n, method)
  reduction = reductions.named(c.reduction, method)
  sample = sampling.attempts(c.n)
  return Algorithm(
    sample=options.shuffled(sample) if c.shuffle else sample,
    credit=credit.by_group(normalised, reduction),
    streams=credit.STREAMS,
    annotate=(annotate.ref_logps(),) if c.kl else (),
    terms=(
      Term(diagnostics.POLICY, losses.weighted(ratios.one)),
      *_kl(c.kl),
    ),
    metrics=(diagnostics.entropy(),),
    outputs=("logps", "entropy"),
  )


def _kl(coefficient: float) -> tuple[Term, ...]:
  if not coefficient:
    return ()
  loss = losses.kl_to("ref_logps", limit=LIMIT)
  return (Term(diagnostics.KL, loss, constant(coefficient)),)
