"""Reward models of clauses: three classes for each kind of hallucination.

The policy describes images, its clauses are labelled, and a head for each kind
learns to say of a clause, at its last token, whether it states no such fact, a
right or a wrong one (FGAIF, arXiv 2404.05046).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sophia_jax.algorithms import clauses, credit, diagnostics, labels, losses
from sophia_jax.algorithms.contract import (
  EXAMPLE,
  Algorithm,
  Credit,
  Forward,
  Loss,
  Moment,
  Term,
  Words,
)
from sophia_jax.algorithms.labels import CHECKER, EXTRACTOR
from sophia_jax.config import check_choices
from sophia_jax.rewards import facts
from sophia_jax.rewards.facts import ABSENT, KINDS, UNKNOWN, WRONG
from sophia_jax.types import (
  Batch,
  Group,
  Problem,
  Rollout,
  SophiaError,
  TokenSequence,
)

DESCRIBED = Problem(id="0", question="", answer="The left digit is 3.")
"""A problem whose scene is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Reward models of clauses."""

  n: int = 1
  """Descriptions of a problem."""
  labels: str = "models"
  """Labels of clauses: "models", the teacher "extractor" lists facts and the
  teacher "checker" looks for them; "reference", exact, from the scene that a
  problem's answer describes."""
  noise: float = 0.0
  """Probability that an exact label is swapped, right and wrong."""
  kinds: tuple[str, ...] = KINDS
  """Kinds of hallucinations that are learnt: object, attribute, relation."""

  def __post_init__(self) -> None:
    check_choices(self, "clause_rewards", labels=("models", "reference"))
    if not 0 <= self.noise < 0.5:
      raise SophiaError(
        f"clause_rewards.noise: {self.noise}; use 0 to less than 0.5"
      )
    if not self.kinds or not {*self.kinds} <= {*KINDS}:
      raise SophiaError(
        f"clause_rewards.kinds: {self.kinds}; use some of {', '.join(KINDS)}"
      )


def clause_rewards(c: Config) -> Algorithm:
  """Builds L = sum_k mean_j -log p_k(label of clause j), over clause ends."""
  exact = c.labels == "reference"
  label = labels.by_reference(c.noise) if exact else labels.by_models
  asked = () if exact else (EXTRACTOR, CHECKER)
  return Algorithm(
    sample=labels.labelled(c.n, label),
    check=facts.scene if exact else None,
    example=DESCRIBED if exact else EXAMPLE,
    roles=("policy", *asked),
    credit=labelled(c.kinds),
    streams=tuple(name for kind in c.kinds for name in streams(kind)),
    terms=tuple(_term(kind) for kind in c.kinds),
    metrics=tuple(m for kind in c.kinds for m in _metrics(kind)),
    outputs=c.kinds,
    answers=False,
  )


def streams(kind: str) -> tuple[str, str, str]:
  """Returns the names of a kind's streams: the class of a clause, 1 where it is
  known, 1 where it is wrong."""
  return kind, f"{kind}_known", f"{kind}_wrong"


def _term(kind: str) -> Term:
  label, known, _ = streams(kind)
  return Term(
    f"{kind}_loss",
    losses.classes(kind, label),
    weights=known,
    normaliser=known,
  )


def _metrics(kind: str) -> tuple[Term, ...]:
  """Returns the shares of all labels and of the wrong ones that are found."""
  _, known, wrong = streams(kind)
  return (
    diagnostics.mean(f"{kind}_accuracy", _found(kind), known),
    diagnostics.mean(f"{kind}_recall", _found(kind), wrong),
  )


def _found(kind: str) -> Loss:
  def found(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    return jnp.argmax(out.heads[kind], axis=-1) == batch.streams[kind]

  return found


def labelled(kinds: Sequence[str]) -> Credit:
  """Puts the labels of a description's clauses on the tokens after them.

  A description without a known label is left out.
  """

  def credit_of(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    del moment
    made: list[TokenSequence] = []
    for group, rollout in ((g, r) for g in groups for r in g.rollouts):
      for bare in credit.sequences(rollout, group.problem, words):
        own = _labels(rollout, bare, words, kinds)
        if any(own[f"{kind}_known"].any() for kind in kinds):
          every = {**bare.streams, **own}
          made.append(dataclasses.replace(bare, streams=every))
    return credit.alike(made)

  return credit_of


def _labels(
  rollout: Rollout, bare: TokenSequence, words: Words, kinds: Sequence[str]
) -> dict[str, Float[np.ndarray, "L"]]:
  """Returns the streams of all kinds.

  A label is of the token after its clause: the state that predicts it has read
  the clause. Where several clauses end with one token, the worst label holds.
  """
  after = [place + 1 for place in ends(rollout, bare, words)]
  places = [place for place in after if place < len(bare)]
  made: dict[str, Float[np.ndarray, "L"]] = {}
  for kind in kinds:
    worst = np.full(len(bare), UNKNOWN, np.float32)
    given = np.asarray(rollout.rewards[kind], np.float32)
    np.maximum.at(worst, places, given[: len(places)])
    known = worst != UNKNOWN
    label, is_known, is_wrong = streams(kind)
    made[label] = np.where(known, worst - ABSENT, 0).astype(np.float32)
    made[is_known] = known.astype(np.float32)
    made[is_wrong] = (worst == WRONG).astype(np.float32)
  return made


def ends(rollout: Rollout, bare: TokenSequence, words: Words) -> list[int]:
  """Returns the places in a rollout's sequence at which its clauses end."""
  said = rollout.completion
  first = len(bare) - len(said.token_ids)
  found = clauses.token_ends(
    said.text, clauses.finished(said), said.token_ids, words.decode
  )
  return [first + place for place in found]
