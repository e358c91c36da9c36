"""Dr.GRPO: GRPO without its biases by deviation and length.

arXiv 2503.20783.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import advantages, credit, grpo, reductions
from sophia_jax.algorithms.contract import Algorithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.ClipConfig):
  """GRPO done right."""

  longest: int = 3000
  """Maximum response length, tokens: divides the sum over each response."""


def dr_grpo(c: Config) -> Algorithm:
  """Builds -mean_i 1/longest sum_t min(rho A, clip(rho) A), A = R - mean R."""
  reduction = reductions.constant(c.longest)
  return grpo.clipped(
    c, "dr_grpo", credit.by_group(advantages.centred, reduction)
  )
