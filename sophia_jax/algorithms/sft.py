"""Supervised fine-tuning: the warm-up, and how a reasoner is taught."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import losses, reductions
from sophia_jax.algorithms.contract import Algorithm, Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Supervised fine-tuning on examples."""

  reduction: str = "token"
  """Key of reductions.REDUCTIONS."""


def sft(c: Config) -> Algorithm:
  """Builds L = -sum_t w_t log pi(y_t | y_<t, x, v) / sum_t n_t."""
  return Algorithm(
    reduction=reductions.named(c.reduction, "sft"),
    terms=(Term("cross_entropy", losses.nll),),
  )
