"""Rounds of one update: the policy that learns is the policy that sampled.

Its old log-probabilities are those of the update itself, so the pass that scores
them before is left out: about a quarter of the work of learning. The ratio is 1
and has the gradient of log pi (`ratios.one`).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sophia_jax.algorithms import diagnostics
from sophia_jax.algorithms.contract import Algorithm, Forward, Loss, Term
from sophia_jax.types import Batch

OLD, BEHAVIOUR = "old_logps", "behaviour_logps"


def needs_old(algorithm: Algorithm) -> bool:
  """Tells whether a stream must be known before the update: an annotator reads
  the old log-probabilities, for a KL in the reward."""
  return any(OLD in annotator.reads for annotator in algorithm.annotate)


def on_policy(algorithm: Algorithm) -> Algorithm:
  """Returns the algorithm for rounds of one update, where pi_old is pi.

  An algorithm without old log-probabilities, or with an annotator that reads
  them, comes back as it is.
  """
  if OLD not in algorithm.all_streams or needs_old(algorithm):
    return algorithm
  return dataclasses.replace(
    algorithm,
    annotate=tuple(a for a in algorithm.annotate if OLD not in a.streams),
    streams=(*algorithm.streams, *({BEHAVIOUR} - {*algorithm.streams})),
    terms=tuple(map(_now, algorithm.terms)),
    metrics=(
      *map(_now, algorithm.metrics),
      diagnostics.mean("training/rollout_probs_diff_mean", _gap),
    ),
    maxima=(
      *map(_now, algorithm.maxima),
      diagnostics.mean("training/rollout_probs_diff_max", _gap),
    ),
  )


def _now(term: Term) -> Term:
  """Returns the term with the update's own log-probabilities as the old ones."""

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    old = {OLD: jax.lax.stop_gradient(out.logps)}
    return term.loss(out, batch.replace(streams={**batch.streams, **old}))  # type: ignore[attr-defined]

  made: Loss = loss
  return term._replace(loss=made)


def _gap(out: Forward, batch: Batch) -> Float[Array, "B T"]:
  """Returns how far sampler and trainer disagree; 0 where another model wrote."""
  sampled = jnp.exp(batch.streams[BEHAVIOUR])
  gap = jnp.abs(jnp.exp(out.logps) - sampled)
  return jnp.where(jnp.isnan(sampled), 0.0, gap)
