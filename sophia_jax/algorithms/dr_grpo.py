"""Dr.GRPO: GRPO without its biases by deviation and length.

arXiv 2503.20783.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import advantages, credit, grpo, reductions
from sophia_jax.algorithms.contract import Algorithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.GroupConfig):
  """GRPO done right."""

  low: float = 0.2
  """Distance of the ratio's lower bound from 1."""
  high: float = 0.2
  """Distance of the ratio's upper bound from 1."""
  dual: float = 0.0
  """Bound of the loss in |A| where the advantage A is negative; 0: off."""
  longest: int = 3000
  """Maximum response length, tokens: divides the sum over each response."""


def dr_grpo(c: Config) -> Algorithm:
  """Builds -mean_i 1/longest sum_t min(rho A, clip(rho) A), A = R - mean R."""
  return grpo.clipped(
    c,
    "dr_grpo",
    credit.by_group(advantages.centred, reductions.constant(c.longest)),
    (c.low, c.high, c.dual),
  )
