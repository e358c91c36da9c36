"""Tokens of a sample of a round's rollouts, as its updates saw them.

No pass is made for them: the update returns what it reports target by target
(`diagnostics.per_token`), and the microbatches that hold a chosen rollout are
fetched at the end of the round. The choice depends on the run's seed, the round
and its rollouts alone, so a round that is repeated keeps the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from sophia_jax.algorithms import credit, diagnostics
from sophia_jax.algorithms.contract import Algorithm, Term
from sophia_jax.algorithms.on_policy import OLD
from sophia_jax.data.packing import Row
from sophia_jax.data.rows import unpack
from sophia_jax.rollout.tokens import Learnt
from sophia_jax.runs.stage import Stage
from sophia_jax.types import Role, TokenSequence

_DRAW = 11
"""Stream of random numbers that the choice is drawn from."""

Columns = Mapping[str, Float[np.ndarray, "L"]]


def terms(stage: Stage) -> tuple[Term, ...]:
  """Returns what a stage's updates return target by target; () where nothing is
  kept."""
  if not stage.config.keep_tokens:
    return ()
  return diagnostics.per_token(stage.algorithm)


def chosen(
  sequences: Sequence[TokenSequence], count: int, seed: int, round: int
) -> dict[str, list[int]]:
  """Draws rollouts of the policy.

  Returns:
    The indices of each one's sequences by its id. Of a rollout in several pairs
    those of the first pair.
  """
  own: dict[str, dict[str, list[int]]] = {}
  for i, sequence in enumerate(sequences):
    if not np.any(sequence.streams.get("source", 0)):
      pairs = own.setdefault(credit.rollout_of(sequence), {})
      pairs.setdefault(sequence.bundle, []).append(i)
  names = sorted(own)
  order = np.random.default_rng([seed, _DRAW, round]).permutation(len(names))
  drawn = [names[n] for n in order[:count]]
  return {name: next(iter(own[name].values())) for name in drawn}


class Kept:
  """Collects the tokens of a round's chosen rollouts over its updates."""

  def __init__(
    self,
    stage: Stage,
    seed: int,
    round: int,
    sequences: Sequence[TokenSequence],
  ):
    """Chooses the rollouts.

    Args:
      seed: seed of the run.
      sequences: what the round learns, with all streams.
    """
    config = stage.config
    self._algorithm, self._sequences = stage.algorithm, sequences
    self._once = config.minibatches * stage.train.epochs == 1
    self._chosen = chosen(sequences, config.keep_tokens, seed, round)
    self._wanted = set(itertools.chain(*self._chosen.values()))
    self._seen: list[tuple[Sequence[Row], Mapping[str, Any]]] = []

  def see(
    self, rows: Sequence[Row], tokens: Sequence[Mapping[str, Any]]
  ) -> None:
    """Remembers what an update made of the chosen rollouts; waits for nothing.

    Args:
      rows: rows of the update's batch, indices of sequences.
      tokens: values [B, T] of each microbatch (`Session.tokens`).
    """
    size = len(rows) // max(len(tokens), 1)
    for number, values in enumerate(tokens):
      own = rows[number * size : (number + 1) * size]
      if not self._wanted.isdisjoint(itertools.chain(*own)):
        self._seen.append((own, values))

  def rollouts(self) -> dict[str, Learnt]:
    """Returns the rollouts by their ids, with the values of the last update that
    learnt them. Every process must call it."""
    found: dict[int, Columns] = {}
    for rows, values in self._seen:
      whole = multihost_utils.process_allgather(values, tiled=True)
      found |= unpack(rows, self._sequences, whole)
    return {
      name: self._joined(indices, found)
      for name, indices in self._chosen.items()
      if found.keys() >= set(indices)
    }

  def _joined(
    self, indices: Sequence[int], found: Mapping[int, Columns]
  ) -> Learnt:
    parts = [
      _learnt(self._sequences[i], found[i], self._algorithm, self._once)
      for i in indices
    ]
    return Learnt(
      token_ids=tuple(i for part in parts for i in part.token_ids),
      values={
        name: np.concatenate([part.values[name] for part in parts])
        for name in parts[0].values
      },
    )


def _learnt(
  sequence: TokenSequence, seen: Columns, algorithm: Algorithm, once: bool
) -> Learnt:
  """Returns the tokens that the policy wrote in a sequence.

  Args:
    seen: what the update returned, at every token.
    once: the round makes one update, whose log-probabilities are those of the
      weights that the round begins with.
  """
  streams = sequence.streams
  weight = streams[algorithm.terms[0].weights]
  values = {**seen, "weight": weight}
  for name, stream in (("advantage", "advantages"), ("trainer", OLD)):
    if stream in streams:
      values[name] = streams[stream]
  if once:
    values.setdefault("trainer", seen["logp"])
  learnt = streams.get("mask", weight) != 0
  own = sequence.roles == Role.RESPONSE
  return Learnt(
    token_ids=tuple(sequence.token_ids[own].tolist()),
    values={
      name: np.where(learnt, value, np.nan)[own]
      for name, value in values.items()
    },
  )
