"""Streams that only a model can make: old and reference log-probabilities, values.

All sequences of a round are scored before its first update: afterwards the "old"
policy of the second update would be a new one. Only streams are kept, a few
floats per token on the host; pixels are read again for the update.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from sophia_jax.algorithms.contract import Annotator, Forward, Hidden, View
from sophia_jax.data import hiding
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import unpack
from sophia_jax.train import outputs, sharding
from sophia_jax.train.state import Params
from sophia_jax.types import Batch, SophiaError, TokenSequence

Arrays = Mapping[str, np.ndarray]


class Scorer(NamedTuple):
  """A model that annotators score with."""

  module: nn.Module
  params: Params


def annotate(
  annotators: Sequence[Annotator],
  models: Mapping[str, Scorer],
  sequences: Sequence[TokenSequence],
  packing: PackConfig,
  reading: Reading,
  mesh: Mesh,
  block: int,
) -> list[TokenSequence]:
  """Returns the sequences with the annotators' streams beside their own.

  A stream's value belongs to its token, as everywhere; it is 0 at targets where
  every stream of the sequence is 0. Sequences that fit no row come back as they
  are (`drop_oversize`). With several processes all get all of it.

  Args:
    models: models by the names that annotators use.
    packing: shape of a microbatch.
    reading: how rows become arrays; its streams are not looked at.
    block: tokens of a row whose logits exist at the same time.

  Raises:
    SophiaError: an annotator names a model that is not there.
  """
  _check(annotators, models)
  if not annotators or not sequences:
    return list(sequences)
  loaders = {
    hidden: Loader(
      _hiding(sequences, hidden),
      dataclasses.replace(packing, microbatches=1),
      LoaderConfig(shuffle=False),
      dataclasses.replace(reading, streams=tuple(sequences[0].streams)),
    )
    for hidden in dict.fromkeys((None, *(a.hidden for a in annotators)))
  }
  loader = loaders[None]
  found = list(_scored(annotators, models, loaders, mesh, block))
  segment_ids = [ids for ids, _ in found]
  streams: list[Arrays] = [each for _, each in found]
  for annotator in annotators:
    if annotator.across is not None:
      added = annotator.across(streams, segment_ids)
      streams = [{**old, **new} for old, new in zip(streams, added)]
  names = [name for a in annotators for name in a.streams]
  made: dict[int, dict[str, np.ndarray]] = {}
  for step, each in enumerate(streams):
    new = {name: each[name] for name in names}
    made |= unpack(loader.rows(step), sequences, new)
  return [
    dataclasses.replace(s, streams={**s.streams, **made.get(i, {})})
    for i, s in enumerate(sequences)
  ]


def _check(
  annotators: Sequence[Annotator], models: Mapping[str, Scorer]
) -> None:
  for annotator in annotators:
    for name in annotator.models:
      if name not in models:
        raise SophiaError(
          f"algorithm: {', '.join(annotator.streams)} need the model {name!r}, "
          f"which the stage does not have; it has {', '.join(sorted(models))}"
        )


def _hiding(
  sequences: Sequence[TokenSequence], hidden: Hidden | None
) -> Sequence[TokenSequence]:
  """Returns the sequences with names of images that are partly hidden.

  An image has one such name in a round, so rows pack as they do without.
  """
  if hidden is None:
    return sequences

  def named(sequence: TokenSequence) -> TokenSequence:
    draw = int(sequence.streams["draw"].max(initial=0))
    images = (hiding.name(path, *hidden, draw) for path in sequence.images)
    return dataclasses.replace(sequence, images=tuple(images))

  return [named(sequence) for sequence in sequences]


def _scored(
  annotators: Sequence[Annotator],
  models: Mapping[str, Scorer],
  loaders: Mapping[Any, Loader],
  mesh: Mesh,
  block: int,
) -> Iterator[tuple[np.ndarray, Arrays]]:
  """Yields segment ids and all streams of every microbatch, on the host.

  Args:
    loaders: loaders of the same rows, by `Annotator.hidden`.
  """
  scoring = [a for a in annotators if a.score is not None]
  pending: collections.deque[Any] = collections.deque()
  for batches in zip(*(each.after({}) for each in loaders.values())):
    parts = (sharding.microbatches(batch, mesh) for batch in batches)
    for same in zip(*parts):
      seen = dict(zip(loaders, same))
      micro = seen[None]
      for annotator in scoring:
        modules = tuple(
          (name, models[name].module) for name in annotator.models
        )
        params = {name: models[name].params for name in annotator.models}
        shown = seen[annotator.hidden]
        shown = dataclasses.replace(shown, streams=micro.streams)
        added = _score(annotator, modules, block, params, shown)
        streams = {**micro.streams, **added}
        micro = dataclasses.replace(micro, streams=streams)
      pending.append(_whole((micro.segment_ids, micro.streams)))
    # One is fetched while the next is computed; more would pile up pixels.
    while len(pending) > 1:
      yield jax.device_get(pending.popleft())
  yield from map(jax.device_get, pending)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
  annotator: Annotator,
  modules: tuple[tuple[str, nn.Module], ...],
  block: int,
  params: Mapping[str, Params],
  micro: Batch,
) -> dict[str, Any]:
  """Runs one annotator on a microbatch."""
  wanted = outputs.nonzero(micro, sorted(micro.streams))

  def score(
    model: str,
    batch: Batch,
    names: tuple[str, ...],
    view: View | None = None,
  ) -> Forward:
    module = dict(modules)[model]
    asked = outputs.viewed(module, outputs.only(batch, wanted), view)
    return outputs.forward(module, params[model], asked, names, block)

  assert annotator.score is not None
  added = annotator.score(score, micro)
  return {n: jnp.where(wanted, added[n], 0.0) for n in annotator.streams}


@jax.jit
def _whole(tree: Any) -> Any:
  """Puts all of every array onto every device."""
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree
  )
