"""Annotators: streams only a model can make, before a round's first update.

Afterwards "old" would be new for the second minibatch. Log-probabilities are 0
outside the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sophia_jax.algorithms import advantages
from sophia_jax.algorithms.contract import (
  Annotator,
  Hidden,
  Score,
  Streams,
  View,
)
from sophia_jax.types import Batch, SophiaError

Made = Mapping[str, np.ndarray]

BOTH = ("old_logps", "ref_logps")
"""Log-probabilities that a KL in the reward compares."""


def logps(
  stream: str,
  model: str = "policy",
  view: View | None = None,
  hidden: Hidden | None = None,
) -> Annotator:
  """Scores the sampled tokens with a model.

  Args:
    stream: name of the log-probabilities.
    model: "policy" at the start of the round, "reference" or "average".
    view: what is shown to the model; None: the batch itself.
    hidden: what is hidden in its images before they are resized.
  """

  def score(say: Score, batch: Batch) -> Streams:
    out = say(model, batch, ("logps",), view)
    return {stream: _masked(out.logps, batch)}

  return Annotator(
    streams=(stream,), models=(model,), score=score, hidden=hidden
  )


def old_logps() -> Annotator:
  """Scores with the policy at the start of the round (pi_old)."""
  return logps("old_logps")


def ref_logps() -> Annotator:
  """Scores with the reference model."""
  return logps("ref_logps", model="reference")


def values(model: str = "policy") -> Annotator:
  """Makes the values of the sampled tokens' states, by a head of `model`."""

  def score(say: Score, batch: Batch) -> Streams:
    out = say(model, batch, ("value",))
    return {"values": _masked(out.heads["value"][..., 0], batch)}

  return Annotator(streams=("values",), models=(model,), score=score)


def _masked(x: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
  return jnp.where(batch.streams["mask"] > 0, x, 0.0)


# ---------------------------------------------------------------- token rewards
def gae(gamma: float, lam: float, kl: float = 0.0) -> Annotator:
  """Makes "advantages" and "returns" of "rewards" and "values".

  Args:
    gamma: discount of a token.
    lam: decay of the advantage.
    kl: coefficient of the k1 estimate log pi_old - log pi_ref, which each
      token's reward is lowered by; reads "old_logps" and "ref_logps" unless 0.
  """

  def score(say: Score, batch: Batch) -> Streams:
    s = batch.streams
    k1 = kl * (s["old_logps"] - s["ref_logps"]) if kl else 0.0
    made = advantages.gae(
      (s["rewards"] - k1) * s["mask"],
      s["values"],
      s["mask"],
      batch.segment_ids,
      gamma,
      lam,
    )
    returns = _masked(made + s["values"], batch)
    return {"advantages": made, "returns": returns}

  return Annotator(
    streams=("advantages", "returns"), reads=BOTH if kl else (), score=score
  )


def bilevel_gae(
  turns: tuple[float, float], tokens: tuple[float, float]
) -> Annotator:
  """Makes advantages of turns and, in them, of tokens: `advantages.bilevel`.

  Reads "rewards" and "ends".

  Args:
    turns: (gamma, lambda) from turn to turn.
    tokens: (gamma, lambda) from token to token.
  """

  def score(say: Score, batch: Batch) -> Streams:
    s = batch.streams
    made = advantages.bilevel(
      s["rewards"],
      s["values"],
      s["mask"],
      s["ends"],
      batch.segment_ids,
      turns,
      tokens,
    )
    returns = _masked(made + s["values"], batch)
    return {"advantages": made, "returns": returns}

  return Annotator(streams=("advantages", "returns"), score=score)


def whiten(stream: str = "advantages") -> Annotator:
  """Shifts and scales a stream to mean 0 and variance 1 over a round's mask."""

  def across(
    streams: Sequence[Made], segment_ids: Sequence[np.ndarray]
  ) -> list[Made]:
    kept = np.concatenate([s[stream][s["mask"] > 0] for s in streams])
    kept = kept.astype(np.float64)
    mean, scale = kept.mean(), 1 / np.sqrt(kept.var(ddof=kept.size > 1) + 1e-8)
    return [
      {stream: _float32((s[stream] - mean) * scale * (s["mask"] > 0))}
      for s in streams
    ]

  return Annotator(streams=(stream,), across=across)


def finite(stream: str, source: str) -> Annotator:
  """Refuses a stream with a value that is not finite; makes none.

  Args:
    source: what made the stream, for the error.
  """

  def across(
    streams: Sequence[Made], segment_ids: Sequence[np.ndarray]
  ) -> list[Made]:
    for s in streams:
      bad = ~np.isfinite(s[stream])
      if bad.any():
        raise SophiaError(
          f"{stream}: {int(bad.sum())} values of {source} are not finite; train "
          "them again, at a lower learning rate"
        )
    return [{} for _ in streams]

  return Annotator(streams=(), across=across)


# ------------------------------------------------------------- sequence rewards
def kl_left_out(beta: float) -> Annotator:
  """Lowers leave-one-out advantages by the KL of the whole response.

    R = r - beta sum_t (log pi_old - log pi_ref)        (RLOO, arXiv 2402.14740)

  Leave-one-out is linear, so its share of the KL is taken from the advantages
  of the rewards: beta G/(G-1) (K_i - mean K). Sequences of a group may lie in
  different batches. Reads "group" and "size".
  """

  def across(
    streams: Sequence[Made], segment_ids: Sequence[np.ndarray]
  ) -> list[Made]:
    found = [_of_segments(s, ids) for s, ids in zip(streams, segment_ids)]
    tags, kl = (np.concatenate([f[i] for f in found]) for i in (2, 1))
    groups, index = np.unique(tags, return_inverse=True)
    means = np.bincount(index, kl) / np.bincount(index)
    mean = dict(zip(groups.tolist(), means.tolist()))
    return [
      {"advantages": _float32(s["advantages"] - beta * _left_out(s, mean, *f))}
      for s, f in zip(streams, found)
    ]

  return Annotator(streams=("advantages",), reads=BOTH, across=across)


def _left_out(
  s: Made,
  mean: Mapping[float, float],
  index: np.ndarray,
  kl: np.ndarray,
  group: np.ndarray,
  size: np.ndarray,
) -> np.ndarray:
  """Returns G/(G-1) (K_i - mean K) at every learnt token, 0 elsewhere."""
  others = np.maximum(size - 1, 1)
  baseline = np.array([mean[g] for g in group.tolist()])
  above = (kl - baseline) * size / others
  return np.where(s["mask"] > 0, np.append(above, 0.0)[index], 0.0)


def _of_segments(
  s: Made, segment_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns (segment of each token or -1, and of each segment: sum of
  log pi_old - log pi_ref, tag of its group, size of the group)."""
  spread, first = segments(s["mask"], segment_ids)
  mask = spread >= 0
  gap = (s["old_logps"] - s["ref_logps"])[mask]
  kl = np.bincount(spread[mask], gap, len(first))
  return spread, kl, s["group"][mask][first], s["size"][mask][first]


def segments(
  mask: np.ndarray, segment_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers the segments of a batch that have learnt tokens.

  Args:
    mask: [..., T], above 0 on the learnt tokens.
    segment_ids: [..., T], as in `Batch`.

  Returns:
    The number of each token's segment, -1 outside the mask, and the place of
    each segment's first token among the learnt ones.
  """
  learnt = mask > 0
  rows = np.arange(learnt[..., 0].size).reshape(*learnt.shape[:-1], 1)
  keys = rows * (learnt.shape[-1] + 1) + segment_ids
  _, first, index = np.unique(
    keys[learnt], return_index=True, return_inverse=True
  )
  spread = np.full(learnt.shape, -1)
  spread[learnt] = index
  return spread, first


def _float32(x: np.ndarray) -> np.ndarray:
  return np.asarray(x, np.float32)
