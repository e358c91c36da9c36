"""DPO: right answers are preferred to wrong ones (arXiv 2305.18290)."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import (
  annotate,
  credit,
  diagnostics,
  grpo,
  losses,
  sampling,
  selection,
)
from sophia_jax.algorithms.contract import Algorithm, Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Direct preference optimisation, on pairs of the policy's own samples."""

  n: int = 8
  """Rollouts of a problem."""
  pairs: int = 15
  """Largest number of pairs of a problem."""
  beta: float = 0.1
  """Scale of the implicit reward: beta log pi / pi_ref."""


def dpo(c: Config, method: str = "dpo") -> Algorithm:
  """Builds -mean over pairs of log sigmoid(beta (h_chosen - h_rejected)).

  Args:
    method: name in errors.
  """
  grpo.refuse_single(c.n, method)
  return Algorithm(
    sample=sampling.attempts(c.n),
    select=selection.varied("accuracy"),
    credit=credit.by_pairs(c.pairs),
    streams=credit.PAIRS,
    annotate=(annotate.ref_logps(),),
    terms=(
      Term(
        "preference",
        losses.preference(c.beta),
        weights="pair",
        normaliser="pair",
      ),
    ),
    metrics=diagnostics.of_pairs(c.beta),
  )
