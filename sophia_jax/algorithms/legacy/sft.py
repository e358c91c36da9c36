"""Supervised fine-tuning: the warm-up, and how a reasoner is taught."""

from __future__ import annotations

from sophia_jax.algorithms.legacy.losses import Term, cross_entropy

TERMS = (Term("cross_entropy", cross_entropy),)
STREAMS = ("weights", "count")
