"""GRPO-CARE: a bonus for right answers that follow from their own reasoning.

arXiv 2506.16141. A slowly moving copy of the policy says how likely an answer is
after the question and the reasoning before it; among the right rollouts of a
group those that are likely enough earn more. There is no KL.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from sophia_jax.algorithms import (
  annotate,
  credit,
  diagnostics,
  papo,
  seed_bench_r1,
  selection,
)
from sophia_jax.algorithms.contract import (
  Algorithm,
  Annotator,
  Average,
  Credit,
  Moment,
  Reward,
  Words,
)
from sophia_jax.config import check_range
from sophia_jax.rewards.extract import answer_span
from sophia_jax.types import Group, Rollout, TokenSequence

LOGPS = "average_logps"
EXTRA = ("group", "answer", "accuracy", "reward")
"""Streams that the credit adds: the problem's tag, 1 on the tokens of the answer,
and two numbers of the rollout."""
MADE = ("advantages", "likelihood", "bonus")
"""Streams that the bonus makes; the advantages replace those without it."""
_ROUNDING = 1e-6
"""Room for equal likelihoods, whose mean may be rounded up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(seed_bench_r1.Config):
  """Consistency-aware GRPO."""

  kl: float = 0.0
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  format: float = 1.0
  """Reward of thoughts in tags that an answer follows, on top of the accuracy."""
  bonus: float = 0.5
  """Share of the accuracy that is paid on top; 0: off, no copy of the policy."""
  highest: float = 0.95
  """Likelihood beyond which more does not count."""
  least: float = 0.1
  """Accuracy that a rollout must exceed to be compared."""
  margin: float = 0.0
  """Distance below the mean likelihood that still earns the bonus."""
  decay: float = 0.995
  """Share of the copy that stays when it moves towards the policy."""
  every: int = 10
  """Updates between two moves of the copy."""

  def __post_init__(self) -> None:
    for key in ("format", "bonus", "margin"):
      value = getattr(self, key)
      check_range(f"grpo_care.{key}", value, value >= 0, "0 or more")
    for key in ("highest", "least", "decay"):
      value = getattr(self, key)
      check_range(f"grpo_care.{key}", value, 0 <= value <= 1, "0 to 1")
    check_range("grpo_care.every", self.every, self.every > 0, "1 or more")


def grpo_care(c: Config) -> Algorithm:
  """Builds GRPO with ratio 1 on accuracy + format + bonus.

  Without the bonus it is SEED-Bench-R1's GRPO on accuracy + format.
  """
  plain = seed_bench_r1.seed_bench_r1(c, "grpo_care")
  plain = dataclasses.replace(plain, reward=formed(c.format))
  if not c.bonus:
    return plain
  assert plain.credit is not None
  return dataclasses.replace(
    plain,
    credit=located(plain.credit),
    streams=(*plain.streams, *EXTRA),
    annotate=(
      *plain.annotate,
      annotate.logps(LOGPS, model="average"),
      consistent(c),
    ),
    metrics=(
      *plain.metrics,
      diagnostics.stream("rewards/bonus/mean", "bonus", "weights"),
      diagnostics.stream("rewards/likelihood/mean", "likelihood", "weights"),
    ),
    average=Average(c.decay, c.every),
  )


def formed(share: float) -> Reward:
  """Returns the accuracy plus `share` for an answer in its form."""

  def reward(rollout: Rollout, moment: Moment) -> float:
    del moment
    form = has_form(rollout.completion.text)
    return selection.part(rollout, "accuracy") + share * form

  return reward


def has_form(text: str) -> bool:
  """Returns whether a text is thoughts in tags and then an answer, in tags or in
  a box."""
  if papo.has_form(text):
    return True
  before, closed, after = text.partition("</think>")
  opened = after.lstrip().startswith("<answer>") and "</answer>" in after
  return bool(closed) and before.lstrip().startswith("<think>") and opened


# ------------------------------------------------------------------- the answer
def located(credited: Credit) -> Credit:
  """Returns the credit with the streams of EXTRA."""

  def credit_with(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    known = {r.id: r for g in groups for r in g.rollouts}
    made = credited(groups, words, moment)
    return [_located(s, known[credit.rollout_of(s)], words) for s in made]

  return credit_with


def _located(
  sequence: TokenSequence, rollout: Rollout, words: Words
) -> TokenSequence:
  mask = sequence.streams["mask"]
  (places,) = np.nonzero(mask)
  answer = np.zeros_like(mask)
  extracted = rollout.verdict.extracted if rollout.verdict else ""
  ids = sequence.token_ids[places].tolist()
  found = answer_tokens(ids, words, extracted)
  answer[places[found]] = 1
  streams = {
    **sequence.streams,
    "answer": answer,
    "accuracy": mask * np.float32(selection.part(rollout, "accuracy")),
    "reward": mask * np.float32(selection.part(rollout, "reward")),
  }
  return dataclasses.replace(sequence, streams=streams)


def answer_tokens(
  ids: Sequence[int], words: Words, extracted: str = ""
) -> slice:
  """Returns the tokens of a response that hold part of its answer; none where it
  has none.

  Args:
    extracted: the answer that the verifier has found.
  """
  span = answer_span(words.decode(ids), extracted)
  if span is None:
    return slice(0)
  written = lambda count: len(words.decode(ids[:count]))
  counts = range(len(ids) + 1)
  # The first token that writes beyond the start, and the one that writes the end.
  start = bisect.bisect_right(counts, span[0], key=written) - 1
  stop = bisect.bisect_left(counts, span[1], key=written)
  return slice(start, stop)


# -------------------------------------------------------------------- the bonus
def bonuses(
  accuracy: Float[np.ndarray, "G"],
  likelihood: Float[np.ndarray, "G"],
  c: Config,
) -> Float[np.ndarray, "G"]:
  """Returns the bonus of each rollout of a group.

    S = { i : a_i > least, a_i >= mean a and p_i > 0 }
    b_i = bonus a_i  if i in S and p_i >= mean_{j in S} p_j - margin, else 0

  Where S is empty, there is no bonus. A likelihood of 0 is that of a rollout
  whose answer was not located: it cannot be compared.
  """
  compared: Bool[np.ndarray, "G"] = (accuracy > c.least) & (likelihood > 0)
  compared &= accuracy >= accuracy.mean() - _ROUNDING
  if not compared.any():
    return np.zeros_like(accuracy)
  bar = likelihood[compared].mean() - c.margin - _ROUNDING
  return c.bonus * accuracy * (compared & (likelihood >= bar))


def consistent(c: Config) -> Annotator:
  """Makes the streams MADE of those of EXTRA and of the copy's log-probabilities.

    p_i = min(exp(mean_t log m(y_t)), highest)      t over the answer's tokens

  The rollouts of a group may lie in different batches. A rollout without an
  answer has likelihood 0.
  """

  def across(
    streams: Sequence[Mapping[str, np.ndarray]],
    segment_ids: Sequence[np.ndarray],
  ) -> list[dict[str, np.ndarray]]:
    spreads = [
      annotate.segments(s["mask"], ids) for s, ids in zip(streams, segment_ids)
    ]
    each = [_of_rollouts(s, *f, c) for s, f in zip(streams, spreads)]
    tags, likelihood, accuracy, reward = map(np.concatenate, zip(*each))
    bonus, advantage = np.zeros_like(reward), np.zeros_like(reward)
    for tag in np.unique(tags):
      own = tags == tag
      bonus[own] = bonuses(accuracy[own], likelihood[own], c)
      advantage[own] = seed_bench_r1.normalised(reward[own] + bonus[own])
    cuts = np.cumsum([len(first) for _, first in spreads])[:-1]
    made = (np.split(x, cuts) for x in (advantage, likelihood, bonus))
    return [
      {name: _spread(x, spread) for name, x in zip(MADE, values)}
      for (spread, _), values in zip(spreads, zip(*made))
    ]

  return Annotator(streams=MADE, across=across)


def _of_rollouts(
  s: Mapping[str, np.ndarray], spread: np.ndarray, first: np.ndarray, c: Config
) -> tuple[np.ndarray, ...]:
  """Returns (group's tag, likelihood, accuracy, reward) of each segment."""
  mask = spread >= 0
  answer = s["answer"][mask].astype(np.float64)
  count = np.bincount(spread[mask], answer, len(first))
  total = np.bincount(spread[mask], answer * s[LOGPS][mask], len(first))
  likelihood = np.exp(total / np.maximum(count, 1)) * (count > 0)
  numbers = (
    s[name][mask][first].astype(np.float64) for name in ("accuracy", "reward")
  )
  return s["group"][mask][first], np.minimum(likelihood, c.highest), *numbers


def _spread(values: np.ndarray, spread: np.ndarray) -> np.ndarray:
  """Returns each segment's value at its learnt tokens, 0 elsewhere."""
  return np.append(values, 0.0)[spread].astype(np.float32)
