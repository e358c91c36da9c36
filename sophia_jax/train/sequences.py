"""Examples -> token sequences with streams, by the one renderer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from sophia_jax.algorithms.credit import reduced
from sophia_jax.algorithms.reductions import Reduction
from sophia_jax.data import filters
from sophia_jax.data.chat import Renderer
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.mixture import Sequences
from sophia_jax.data.packing import Size, size_of
from sophia_jax.types import Example, Role, TokenSequence


class Rendered(Sequences):
  """Sequences whose streams are made on demand.

  Kept for all sequences, the streams would take three times the memory of the
  tokens.
  """

  def __init__(
    self,
    bare: Sequence[TokenSequence],
    weights: Sequence[float],
    reduction: Reduction,
  ):
    self._bare = bare
    self._weights = weights
    self._reduction = reduction

  @property
  def sizes(self) -> list[Size]:
    """Size of each sequence; no stream is made for it."""
    return [size_of(sequence) for sequence in self._bare]

  def __len__(self) -> int:
    return len(self._bare)

  def __getitem__(self, index: int, /) -> TokenSequence:
    bare = self._bare[index]
    streams = reduced(bare.roles, self._reduction, advantages=1.0)
    # Into the weights and not the advantages: supervised terms read no advantage.
    streams["weights"] = self._weights[index] * streams["weights"]
    return dataclasses.replace(bare, streams=streams)

  def __iter__(self) -> Iterator[TokenSequence]:
    return (self[index] for index in range(len(self)))


def prepare(
  examples: Iterable[Example],
  renderer: Renderer,
  reduction: Reduction,
  config: FilterConfig,
  length: int,
) -> tuple[Rendered, dict[str, int]]:
  """Filters, renders, and cuts to `length` tokens where the config says so.

  Sequences that cannot be cut stay as long as they are: the loader drops and
  counts them, or stops.

  Returns:
    Sequences with the streams of a right response ("mask", "weights", which the
    example's weight scales, "count", and "advantages" of 1), and the counts of
    `filters.keep` with the number "truncated" among those kept.
  """
  kept, counts = filters.keep(examples, config, renderer.counts)
  bare, cut = [], 0
  for example in kept:
    whole = _bare(example, renderer)
    short = truncated(whole, length) if config.truncate else None
    cut += short is not None and len(short) < len(whole)
    bare.append(whole if short is None else short)
  sequences = Rendered(bare, [e.weight for e in kept], reduction)
  return sequences, {**counts, "truncated": cut}


def _bare(example: Example, renderer: Renderer) -> TokenSequence:
  prompt = renderer.prompt(example.question, example.images, example.system)
  return renderer.sequence(prompt, example.response, id=example.id, streams={})


def truncated(sequence: TokenSequence, length: int) -> TokenSequence | None:
  """Returns the first `length` tokens, or None if they are not worth learning.

  A cut through the prompt, and so through an image, leaves nothing to learn.
  """
  if len(sequence) <= length:
    return sequence
  kept = sequence.roles[:length]
  if Role.RESPONSE not in kept or Role.IMAGE in sequence.roles[length:]:
    return None
  return dataclasses.replace(
    sequence,
    token_ids=sequence.token_ids[:length],
    roles=kept,
    streams={k: v[:length] for k, v in sequence.streams.items()},
  )
