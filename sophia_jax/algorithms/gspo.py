"""GSPO: the importance ratio is the sequence's (arXiv 2507.18071)."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import advantages, credit, grpo, ratios, reductions
from sophia_jax.algorithms.contract import Algorithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.GroupConfig):
  """Group sequence policy optimisation."""

  low: float = 3e-4
  """Distance of the ratio's lower bound from 1."""
  high: float = 4e-4
  """Distance of the ratio's upper bound from 1."""
  dual: float = 0.0
  """Bound of the loss in |A| where the advantage A is negative; 0: off."""


def gspo(c: Config) -> Algorithm:
  """Builds -mean_i min(s_i A_i, clip(s_i) A_i), s_i the geometric mean of rho.

  Without a second update on the same rollouts it is GRPO.
  """
  return grpo.clipped(
    c,
    "gspo",
    credit.by_group(advantages.normalised, reductions.sequence),
    (c.low, c.high, c.dual),
    ratios.sequence,
  )
