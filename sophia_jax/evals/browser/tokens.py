"""Tokens of a rollout as a page shows them, and what its update made of each.

Log-probabilities under the sampler are in the store; the other values are there
for the rollouts that the run keeps (`rollout.tokens`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from sophia_jax.evals.browser.session import Session, Source
from sophia_jax.evals.browser.views import Card, GroupView
from sophia_jax.rollout import tokens as kept
from sophia_jax.types import SophiaError

MAX_TOKENS = 4000
"""Most tokens of an answer that are shown one by one."""
MOST = 12
"""Tokens that the table of those that stand out has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
  """A token of an answer."""

  place: int
  """Number in the answer, from 1."""
  id: int
  text: str
  logp: float | None
  """Log-probability under the model that sampled it; None: not known."""
  version: int
  """Policy version that drew it; 0: not known."""
  seen: Mapping[str, float] = dataclasses.field(default_factory=dict)
  """Values of its update, by name; {} where they are not kept."""

  @property
  def gap(self) -> float | None:
    """Log-probability of the trainer less that of the sampler."""
    trainer = self.seen.get("trainer")
    if trainer is None or self.logp is None:
      return None
    return trainer - self.logp

  @property
  def weight(self) -> float | None:
    """Weight in the loss, the correction between sampler and trainer
    included."""
    weight = self.seen.get("weight")
    return None if weight is None else weight * self.seen.get("correction", 1.0)

  @property
  def clipped(self) -> bool:
    """Whether a bound of the ratio decided its loss."""
    return any(self.seen.get(name) for name in ("clipped", "clipped_lower"))

  def value(self, name: str) -> float | None:
    """Returns the value that a measure shows; None where it is not known."""
    if name in ("logp", "gap", "weight"):
      found: float | None = getattr(self, name)
      return found
    return self.seen.get(name)


class Measure(NamedTuple):
  """A value that tokens are marked by, in five steps."""

  title: str
  what: str
  """Sentence that says what it is."""
  distance: Callable[[float, float], float]
  """(value, largest of the answer) -> distance from what is usual."""
  bounds: tuple[float, float, float, float]
  """Distances from which a token is dotted, dashed, underlined once and
  twice."""
  steps: tuple[str, str, str, str]
  """The bounds in words."""
  note: str
  """Heading of the tokens that stand out."""

  def level(self, value: float | None, largest: float) -> int:
    """Returns the step of a value, 0 to 4; 0 where it is not known."""
    if value is None:
      return 0
    distance = self.distance(value, largest)
    return sum(distance > bound for bound in self.bounds)


def _size(value: float, largest: float) -> float:
  return abs(value)


def _off_one(ratio: float, largest: float) -> float:
  return abs(math.log(ratio)) if ratio > 0 else math.inf


def _lacking(weight: float, largest: float) -> float:
  return 1 - abs(weight) / largest if largest else 0.0


MEASURES = {
  "logp": Measure(
    "log-probability",
    "Log-probability under the model that sampled the token, at temperature 1.",
    _size,
    (-math.log(0.9), -math.log(0.5), -math.log(0.2), -math.log(0.02)),
    ("below 90 %", "below 50 %", "below 20 %", "below 2 %"),
    "least likely",
  ),
  "gap": Measure(
    "sampler-trainer gap",
    "Log-probability of the trainer, with the weights that the round began "
    "with, less that of the sampler, nats.",
    _size,
    (0.01, 0.05, 0.2, 1.0),
    ("above 0.01", "above 0.05", "above 0.2", "above 1"),
    "largest gap",
  ),
  "entropy": Measure(
    "entropy",
    "Entropy of the policy where it drew the token, nats.",
    _size,
    (0.1, 0.5, 1.0, 2.0),
    ("above 0.1", "above 0.5", "above 1", "above 2"),
    "largest entropy",
  ),
  "ratio": Measure(
    "ratio",
    "Importance ratio of the round's last update that learnt the token.",
    _off_one,
    (0.01, 0.05, 0.2, 0.5),
    ("off 1 by a factor of 1.01", "of 1.05", "of 1.2", "of 1.6"),
    "furthest from 1",
  ),
  "weight": Measure(
    "weight",
    "Weight of the token in the loss, the correction between sampler and "
    "trainer included.",
    _lacking,
    (0.01, 0.25, 0.5, 0.99),
    (
      "below the largest of the answer",
      "below 3/4 of it",
      "below half of it",
      "next to none",
    ),
    "smallest weight",
  ),
}
"""Measures by the name in URLs; only the first needs no kept tokens."""


def shown(turns: Sequence[Sequence[Token]]) -> dict[str, Measure]:
  """Returns the measures that any of the tokens has a value of."""
  return {
    name: measure
    for name, measure in MEASURES.items()
    if any(t.value(name) is not None for turn in turns for t in turn)
  }


def largest(turn: Sequence[Token], name: str) -> float:
  """Returns the largest size of a measure among tokens; 0 where none has it."""
  values = (token.value(name) for token in turn)
  return max((abs(v) for v in values if v is not None), default=0.0)


def outstanding(turn: Sequence[Token], name: str) -> list[Token]:
  """Returns the tokens that stand out by a measure, the furthest first."""
  most, distance = largest(turn, name), MEASURES[name].distance
  ranked = [
    (-distance(value, most), token.place, token)
    for token in turn
    if (value := token.value(name)) is not None
  ]
  return [token for *_, token in sorted(ranked, key=lambda r: r[:2])[:MOST]]


def mean(turn: Sequence[Token], name: str) -> float | None:
  """Returns the mean of a measure over the tokens that have it."""
  values = [v for token in turn if (v := token.value(name)) is not None]
  return math.fsum(values) / len(values) if values else None


class Words:
  """Texts of tokens, by role."""

  def __init__(self, source: Source):
    self._files = source.tokenizers()
    self._read: dict[Path, Any] = {}

  def texts(self, role: str, ids: Sequence[int]) -> list[str]:
    """Returns the text of each token; its number where no tokenizer is known."""
    path = self._files.get(role)
    if path is None:
      return [f"[{i}]" for i in ids]
    if path not in self._read:
      self._read[path] = tokenizers.Tokenizer.from_file(str(path))
    known = self._read[path]
    return [known.decode([i], skip_special_tokens=False) for i in ids]


def of_card(
  session: Session, view: GroupView, card: Card
) -> tuple[list[list[Token]], str]:
  """Returns the tokens of each turn of a rollout, and why the values of its
  update cannot be read; "" where they can, or are not kept."""
  rollout = card.rollout
  captions = [b.caption for b in view.branches if b.caption]
  own = card in captions and rollout.author == "policy"
  role = "caption" if own else rollout.author
  words = Words(session.source(view.place))
  seen, why = _seen(view, card)
  start = 0
  turns = []
  for turn in rollout.turns:
    completion = turn.completion
    ids = completion.token_ids[:MAX_TOKENS]
    versions = [v for v, count in completion.versions for _ in range(count)]
    logps = completion.logps
    turns.append(
      [
        Token(
          place=n + 1,
          id=i,
          text=text,
          logp=logps[n] if logps is not None and n < len(logps) else None,
          version=versions[n] if n < len(versions) else 0,
          seen=seen[start + n] if seen else {},
        )
        for n, (i, text) in enumerate(zip(ids, words.texts(role, ids)))
      ]
    )
    start += len(completion.token_ids)
  return turns, why


def _seen(view: GroupView, card: Card) -> tuple[list[dict[str, float]], str]:
  """Returns the values of each token of a rollout, all turns joined; [] where
  they are not kept, or are of other tokens."""
  rollout = card.rollout
  try:
    found = kept.read(view.place.directory, rollout.id)
  except SophiaError as e:
    return [], str(e)
  ids = [i for turn in rollout.turns for i in turn.completion.token_ids]
  if found is None or list(found.token_ids) != ids:
    return [], ""
  rows: list[dict[str, float]] = [{} for _ in ids]
  for name, values in found.values.items():
    for n in np.flatnonzero(np.isfinite(values)):
      rows[n][name] = float(values[n])
  return rows, ""
