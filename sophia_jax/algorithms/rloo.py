"""RLOO: REINFORCE with the other rollouts as baseline (arXiv 2402.14740)."""

from __future__ import annotations

import dataclasses

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
from sophia_jax.algorithms.contract import Algorithm, Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """REINFORCE leave-one-out."""

  n: int = 4
  """Rollouts of a problem."""
  kl: float = 0.03
  """Coefficient of the KL to the reference in the reward; 0: no reference."""
  entropy: float = 0.0
  """Coefficient of the entropy bonus; 0: off."""
  reduction: str = "sum"
  """Key of reductions.REDUCTIONS; the paper's, of whole responses, is "sum"."""


def rloo(c: Config) -> Algorithm:
  """Builds -mean_i A_i sum_t log pi, A_i = R_i - mean of the others' R.

  R is the reward minus kl times the response's log pi_old - log pi_ref.
  """
  grpo.refuse_single(c.n, "rloo")
  penalty = (annotate.ref_logps(), annotate.kl_left_out(c.kl)) if c.kl else ()
  return Algorithm(
    sample=sampling.attempts(c.n),
    credit=credit.by_group(
      advantages.leave_one_out, reductions.named(c.reduction, "rloo")
    ),
    streams=(*credit.STREAMS, "group", "size"),
    annotate=(annotate.old_logps(), *penalty),
    terms=(
      Term(diagnostics.POLICY, losses.reinforce),
      *grpo.entropy_bonus(c.entropy),
    ),
    metrics=diagnostics.of_policy(ratios.token),
    maxima=(diagnostics.largest_ratio(ratios.token),),
    outputs=("logps", "entropy"),
  )
