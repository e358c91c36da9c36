"""GSPO: the importance ratio is the sequence's (arXiv 2507.18071)."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import advantages, credit, grpo, ratios, reductions
from sophia_jax.algorithms.contract import Algorithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.ClipConfig):
  """Group sequence policy optimisation."""

  low: float = 3e-4
  """Distance of the ratio's lower bound from 1."""
  high: float = 4e-4
  """Distance of the ratio's upper bound from 1."""


def gspo(c: Config) -> Algorithm:
  """Builds -mean_i min(s_i A_i, clip(s_i) A_i), s_i the geometric mean of rho.

  Without a second update on the same rollouts it is GRPO.
  """
  return grpo.clipped(
    c,
    "gspo",
    credit.by_group(advantages.normalised, reductions.sequence),
    ratios.sequence,
  )
