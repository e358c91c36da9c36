"""CISPO: the importance weight is clipped, no token loses its gradient
(MiniMax-M1, arXiv 2506.13585)."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import (
  advantages,
  credit,
  diagnostics,
  grpo,
  losses,
  ratios,
  reductions,
)
from sophia_jax.algorithms.contract import Algorithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.GroupConfig):
  """Clipped importance-sampling policy optimisation."""

  high: float = 4.0
  """Distance of the weight's upper bound from 1; there is no lower one."""
  reduction: str = "token"
  """Key of reductions.REDUCTIONS; the paper's is "token"."""


def cispo(c: Config) -> Algorithm:
  """Builds -1/sum|y_i| sum_i sum_t sg[min(rho, 1 + high)] A log pi."""
  reduction = reductions.named(c.reduction, "cispo")
  return grpo.grouped(
    c,
    "cispo",
    credit.by_group(advantages.normalised, reduction),
    losses.capped(ratios.token, c.high),
    (
      *diagnostics.of_policy(ratios.token),
      diagnostics.capped(ratios.token, c.high),
    ),
  )
