"""Metrics of an update and of a round, under the field's names.

Names are verl's, beside some of TRL's. Terms report means over the mask and
learn nothing; `of_round` and `sampler_gap` are pure functions on the host.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sophia_jax.algorithms import segments
from sophia_jax.algorithms.contract import (
  Algorithm,
  Forward,
  Loss,
  Moment,
  Term,
)
from sophia_jax.algorithms.ratios import Ratio
from sophia_jax.algorithms.selection import deviation
from sophia_jax.types import Batch, FinishReason, Group, Rollout, TokenSequence

POLICY = "actor/pg_loss"
"""Name of the term that corrections weight: the policy gradient."""
KL = "actor/kl_loss"
ENTROPY = "actor/entropy_loss"
VALUE = "critic/vf_loss"
_KNOWN = {"policy", "reasoner"}
"""The authors that are no teachers."""
_PER_TOKEN = {
  "entropy": "actor/entropy",
  "ratio": "actor/ratio_mean",
  "clipped": "actor/pg_clipfrac",
  "clipped_lower": "actor/pg_clipfrac_lower",
  "correction": "rollout_corr/rollout_is_mean",
}
"""Metrics that are kept token by token, by the name of their column."""


# -------------------------------------------------------------------- an update
def mean(name: str, value: Loss, weights: str = "mask") -> Term:
  """Returns a term that reports the weighted mean of a value."""

  def seen(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    return jax.lax.stop_gradient(jnp.asarray(value(out, batch), jnp.float32))

  return Term(name, seen, weights=weights, normaliser=weights)


def stream(name: str, key: str, weights: str = "mask") -> Term:
  """Returns a term that reports the mean of a stream."""
  return mean(name, lambda out, batch: batch.streams[key], weights)


def of_policy(ratio: Ratio) -> tuple[Term, ...]:
  """Returns the metrics of a policy gradient.

  actor/ppo_kl is the mean of log pi_old - log pi.
  """

  def ppo_kl(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    return batch.streams["old_logps"] - out.logps

  return (
    mean("actor/ppo_kl", ppo_kl),
    mean("actor/ratio_mean", lambda out, batch: ratio(out.logps, batch)),
    entropy(),
  )


def of_clipping(
  ratio: Ratio, low: float, high: float, dual: float
) -> tuple[Term, ...]:
  """Returns the shares of tokens whose loss a bound decides, the dual bound's
  apart; arguments as in `losses.surrogate`."""

  def clipped(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    rho, a = ratio(out.logps, batch), batch.streams["advantages"]
    return jnp.clip(rho, 1 - low, 1 + high) * a < rho * a

  def clipped_lower(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    rho, a = ratio(out.logps, batch), batch.streams["advantages"]
    return (a < 0) & (jnp.maximum(rho, 1 - low) > dual)

  return (
    mean("actor/pg_clipfrac", clipped),
    mean("actor/pg_clipfrac_lower", clipped_lower),
  )


def clipped_higher(ratio: Ratio, high: float) -> Term:
  """Returns the share of tokens whose loss the upper bound decides."""

  def clipped(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    rho, a = ratio(out.logps, batch), batch.streams["advantages"]
    return (a > 0) & (rho > 1 + high)

  return mean("actor/pg_clipfrac_higher", clipped)


def capped(ratio: Ratio, high: float) -> Term:
  """Returns the share of tokens whose importance weight is cut to 1 + high."""
  return mean(
    "actor/pg_clipfrac", lambda out, batch: ratio(out.logps, batch) > 1 + high
  )


def largest_ratio(ratio: Ratio) -> Term:
  """Returns the term whose largest value is the largest importance ratio."""
  return mean("actor/ratio_max", lambda out, batch: ratio(out.logps, batch))


def entropy() -> Term:
  """Returns the metric of the policy's entropy, nats a token."""

  def value(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    assert out.entropy is not None
    return out.entropy

  return mean("actor/entropy", value)


def of_teachers(ratio: Ratio, weighted: Ratio) -> tuple[Term, ...]:
  """Returns the metrics of the tokens that teachers wrote.

  Args:
    ratio: ratio of these tokens.
    weighted: what multiplies their advantage.
  """
  values = {
    "prob": lambda out, batch: jnp.exp(out.logps),
    "ratio": lambda out, batch: ratio(out.logps, batch),
    "weight": lambda out, batch: weighted(out.logps, batch),
  }
  return tuple(
    mean(f"actor/teacher_{name}", value, "source")
    for name, value in values.items()
  )


def per_token(algorithm: Algorithm) -> tuple[Term, ...]:
  """Returns what is kept of an update token by token: the log-probability, and
  what the method reports of entropy, ratio, clipping and correction."""
  reported = {term.name: term for term in algorithm.metrics}
  return (
    Term("logp", lambda out, batch: out.logps),
    *(
      reported[metric]._replace(name=name)
      for name, metric in _PER_TOKEN.items()
      if metric in reported
    ),
  )


def of_returns() -> tuple[Term, ...]:
  """Returns the means of advantages, returns and values; they are streams."""
  names = ("advantages", "returns", "values")
  return tuple(stream(f"critic/{name}/mean", name) for name in names)


def of_pairs(beta: float) -> tuple[Term, ...]:
  """Returns margin and accuracy of pairs by their implicit rewards."""

  def margin(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    h = batch.streams["sign"] * (out.logps - batch.streams["ref_logps"])
    return beta * segments.total(h, batch.bundle_ids)

  return (
    mean("rewards/margins", margin, weights="pair"),
    mean(
      "rewards/accuracies",
      lambda out, batch: margin(out, batch) > 0,
      weights="pair",
    ),
  )


# ---------------------------------------------------------------------- a round
def of_round(
  groups: Sequence[Group],
  kept: Sequence[Group],
  sequences: Sequence[TokenSequence],
  moment: Moment,
) -> dict[str, float]:
  """Returns the metrics of a round's samples.

  Args:
    groups: everything sampled, with part "reward" (`credit.rewarded`).
    kept: the groups that are learnt.
    sequences: what is learnt of them.
    moment: the round; the staleness of a rollout of the policy is its distance
      in versions. Version n are the weights that round n - 1 begins with.
  """
  rollouts = [r for g in groups for r in g.rollouts]
  lengths = [float(r.length) for r in rollouts]
  advantages = [
    s.streams["advantages"][s.streams["mask"] > 0]
    for s in sequences
    if "advantages" in s.streams
  ]
  parts = {key: _part(rollouts, key) for key in _keys(rollouts)}
  own = [r for r in rollouts if r.author == "policy"]
  stale = [float(moment.round + 1 - r.version) for r in own if r.version]
  return {
    **_spread("critic/score", parts.get("reward", [])),
    **_spread("critic/advantages", np.concatenate([[], *advantages])),
    **{f"rewards/{k}/mean": float(np.mean(v)) for k, v in parts.items()},
    **{f"rewards/{k}/std": float(np.std(v)) for k, v in parts.items()},
    "frac_reward_zero_std": _share(map(_constant, groups)),
    **_mean("critic/score/group_std", [deviation(g) for g in groups]),
    "training/filter_groups/sampled": float(len(groups)),
    "training/filter_groups/kept": float(len(kept)),
    **_spread("response_length", lengths),
    "response_length/clip_ratio": _share(map(_cut, rollouts)),
    **_spread("prompt_length", [_prompt(r) for r in rollouts]),
    **_spread("training/off_policy/trajectory_staleness", stale),
    **_of_sources(groups, kept),
  }


def _of_sources(
  groups: Sequence[Group], kept: Sequence[Group]
) -> dict[str, float]:
  """Returns the part that each teacher has, where there are teachers.

  source/ROLE/share and /reward are of the rollouts that are learnt,
  source/ROLE/WHY counts answers that are absent.
  """
  learnt = [r for g in kept for r in g.rollouts]
  others = sorted({r.author for g in groups for r in g.rollouts} - _KNOWN)
  found: dict[str, float] = {}
  for role in others:
    own = [r for r in learnt if r.author == role]
    found[f"source/{role}/share"] = len(own) / max(len(learnt), 1)
    if own:
      rewards = _part(own, "reward")
      found[f"source/{role}/reward"] = float(np.mean(rewards))
  for name, count in collections.Counter(
    why for g in groups for why in g.absent
  ).items():
    found[f"source/{name}"] = float(count)
  return found


def sampler_gap(
  streams: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, float]:
  """Returns how far sampler and trainer disagree on the sampled tokens.

  Args:
    streams: "old_logps" of the trainer, "behaviour_logps" of the sampler and
      "mask" of a round's batches.
  """
  # Nobody knows what another model's tokens were drawn with.
  learnt = [(s["mask"] > 0) & ~np.isnan(s["behaviour_logps"]) for s in streams]
  trainer, sampler = (
    np.exp(np.concatenate([s[name][m] for s, m in zip(streams, learnt)]))
    for name in ("old_logps", "behaviour_logps")
  )
  if not trainer.size:
    return {}
  gap = np.abs(trainer - sampler)
  # Rounding alone has no correlation.
  varied = gap.size > 1 and min(trainer.std(), sampler.std()) > 1e-6
  pearson = np.corrcoef(trainer, sampler)[0, 1] if varied else 1.0
  return {
    "training/rollout_probs_diff_mean": float(gap.mean()),
    "training/rollout_probs_diff_max": float(gap.max()),
    "training/rollout_probs_diff_std": float(gap.std()),
    "training/rollout_actor_probs_pearson_corr": float(pearson),
  }


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
  return {f"{name}/mean": float(np.mean(values))} if values else {}


def _spread(
  name: str, values: Sequence[float] | Float[np.ndarray, "L"]
) -> dict[str, float]:
  if not len(values):
    return {}
  return {
    f"{name}/mean": float(np.mean(values)),
    f"{name}/max": float(np.max(values)),
    f"{name}/min": float(np.min(values)),
  }


def _keys(rollouts: Iterable[Rollout]) -> list[str]:
  return sorted({key for r in rollouts for key in r.rewards})


def _part(rollouts: Iterable[Rollout], key: str) -> list[float]:
  """Returns a part of those that have it; of several turns, their sum."""
  return [
    math.fsum(np.ravel(r.rewards[key])) for r in rollouts if key in r.rewards
  ]


def _share(outcomes: Iterable[bool]) -> float:
  found = list(outcomes)
  return sum(found) / len(found) if found else 0.0


def _constant(group: Group) -> bool:
  return len(set(_part(group.rollouts, "reward"))) <= 1


def _cut(rollout: Rollout) -> bool:
  return rollout.completion.finish_reason is FinishReason.LENGTH


def _prompt(rollout: Rollout) -> float:
  prompt = rollout.turns[-1].prompt
  return float(len(getattr(prompt, "token_ids", ())))
