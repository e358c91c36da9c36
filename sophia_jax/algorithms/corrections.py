"""Importance weights between sampler and trainer.

A served policy computes other log-probabilities than the trainer, and rollouts
of an earlier round come from earlier weights. Where the sampler is the
trainer's own program on the same weights there is nothing to correct.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sophia_jax.algorithms import diagnostics, segments
from sophia_jax.algorithms.contract import Algorithm, Forward, Loss, Term
from sophia_jax.algorithms.ratios import bounded
from sophia_jax.config import check_choices
from sophia_jax.types import Batch, SophiaError

LEVELS = ("token", "sequence", "geometric")
MODES = ("truncate", "mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Weights pi_old / mu, mu being the policy that sampled."""

  level: str = "token"
  """Level of a weight: "token", "sequence" (product over the response) or
  "geometric" (mean over it)."""
  mode: str = "truncate"
  """Treatment of large weights: "truncate" to `high`, or "mask" outside of
  [low, high]."""
  low: float = 0.0
  """Lower bound where masked."""
  high: float = 2.0
  """Upper bound."""

  def __post_init__(self) -> None:
    check_choices(self, "correction", level=LEVELS, mode=MODES)


def importance(batch: Batch, level: str) -> Float[Array, "B T"]:
  """Returns pi_old / mu at every token; 1 where another model wrote.

  Reads "old_logps", "behaviour_logps" and "source".
  """
  s, ids = batch.streams, batch.segment_ids
  d = _gap(batch) * s["mask"]
  spread = {
    "token": lambda: d,
    "sequence": lambda: segments.total(d, ids),
    "geometric": lambda: segments.mean(d, s["mask"], ids),
  }
  return jnp.exp(bounded(spread[level]()))


def _gap(batch: Batch) -> Float[Array, "B T"]:
  """Returns log pi_old - log mu; 0 where another model wrote, whose own
  log-probabilities are not known."""
  s = batch.streams
  own = s["source"] == 0
  return jnp.where(own, s["old_logps"] - s["behaviour_logps"], 0.0)


def weight(batch: Batch, config: Config) -> Float[Array, "B T"]:
  """Returns the truncated or masked importance weights."""
  w = importance(batch, config.level)
  kept = {
    "truncate": lambda: jnp.minimum(w, config.high),
    "mask": lambda: jnp.where((w >= config.low) & (w <= config.high), w, 0.0),
  }
  return jax.lax.stop_gradient(kept[config.mode]())


def corrected(algorithm: Algorithm, config: Config) -> Algorithm:
  """Returns the algorithm with its policy term weighted by pi_old / mu.

  Raises:
    SophiaError: the method has no old log-probabilities to compare with.
  """
  if "old_logps" not in algorithm.all_streams:
    raise SophiaError(
      "correction: the method keeps no old log-probabilities, so there is no "
      "importance weight; leave it out"
    )

  def with_weight(loss: Loss) -> Loss:
    return lambda out, batch: weight(batch, config) * loss(out, batch)

  terms = tuple(
    t._replace(loss=with_weight(t.loss)) if t.name == diagnostics.POLICY else t
    for t in algorithm.terms
  )
  return dataclasses.replace(
    algorithm,
    terms=terms,
    streams=(
      *algorithm.streams,
      *({"behaviour_logps", "source"} - {*algorithm.streams}),
    ),
    metrics=(*algorithm.metrics, *_metrics(config)),
    maxima=(
      *algorithm.maxima,
      diagnostics.mean("rollout_corr/rollout_is_max", _weights(config)),
    ),
  )


def _weights(config: Config) -> Loss:
  return lambda out, batch: weight(batch, config)


def _metrics(config: Config) -> tuple[Term, ...]:
  def k1(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    return -_gap(batch)

  def k3(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    d = bounded(-k1(out, batch))
    return jnp.exp(d) - d - 1

  def cut(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    w = importance(batch, config.level)
    return (w > config.high) | (w < config.low)

  return (
    diagnostics.mean("rollout_corr/rollout_is_mean", _weights(config)),
    diagnostics.mean("rollout_corr/rollout_rs_masked_fraction", cut),
    diagnostics.mean("rollout_corr/kl", k1),
    diagnostics.mean("rollout_corr/k3_kl", k3),
  )
