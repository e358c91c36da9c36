"""Reads `tokenizer.model`: InternLM2's SentencePiece BPE as a fast tokenizer.

OpenGVLab publishes the InternLM2-based checkpoints (InternVL2.5 2B, 8B, 26B)
with this file and Python code that loads it. Code of a checkpoint is never run
here, so the few fields that matter are read from the file: a protocol buffer
`ModelProto` of pieces (1), trainer spec (2) and normaliser spec (3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from sophia_jax.types import SophiaError

_BPE = 2  # TrainerSpec.ModelType
_SPACE = "▁"


def _varint(data: bytes, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at, shift = at + 1, shift + 7
    if byte < 0x80:
      return value, at


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
  """Yields (number, value) of each field of a protocol buffer message."""
  at = 0
  while at < len(data):
    key, at = _varint(data, at)
    kind = key & 7
    if kind == 0:
      value, at = _varint(data, at)
      yield key >> 3, value
      continue
    if kind == 2:
      size, at = _varint(data, at)
    elif kind in (1, 5):
      size = 8 if kind == 1 else 4
    else:
      raise ValueError(f"wire type {kind}")
    if at + size > len(data):
      raise ValueError("truncated")
    yield key >> 3, data[at : at + size]
    at += size


def _read(path: str) -> tuple[list[tuple[str, float]], bool]:
  """Returns pieces with their scores, and whether text gets a space in front."""
  with open(path, "rb") as file:
    data = file.read()
  pieces: list[tuple[str, float]] = []
  kind, prefix = 1, True  # the defaults of the format
  for number, value in _fields(data):
    if number == 1:
      parts = dict(_fields(value))
      score = struct.unpack("<f", parts[2])[0] if 2 in parts else 0.0
      pieces.append((parts[1].decode("utf-8"), score))
    elif number == 2:
      kind = dict(_fields(value)).get(3, kind)
    elif number == 3:
      prefix = bool(dict(_fields(value)).get(3, prefix))
  if kind != _BPE:
    raise ValueError("not a BPE model")
  return pieces, prefix


def _merges(
  pieces: Sequence[tuple[str, float]], vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
  """Returns all pairs that form a piece, the best-scored piece first."""
  merges = []
  for piece, score in pieces:
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in vocab and right in vocab:
        merges.append((-score, vocab[left], vocab[right], left, right))
  return [(left, right) for *_, left, right in sorted(merges)]


def load(path: str, added: Mapping[int, str]) -> Tokenizer:
  """Builds a tokenizer from a `tokenizer.model`.

  Args:
    added: id -> text of special tokens, which rename unused pieces or follow the
      last one.

  Raises:
    SophiaError: the file is no SentencePiece BPE model, or an id is taken.
  """
  try:
    pieces, prefix = _read(path)
  except (OSError, ValueError, KeyError, IndexError, struct.error) as e:
    raise SophiaError(
      f"{path}: not a SentencePiece BPE model ({e}); replace the file"
    ) from e
  pieces = [(added.get(i, p), score) for i, (p, score) in enumerate(pieces)]
  vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
  tokenizer = Tokenizer(
    BPE(
      vocab,
      _merges(pieces, vocab),
      unk_token=pieces[0][0],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  spaces: list[Any] = [normalizers.Replace(" ", _SPACE)]
  steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback()]
  steps.append(decoders.Fuse())
  if prefix:
    spaces.insert(0, normalizers.Prepend(_SPACE))
    steps.append(decoders.Strip(" ", 1, 0))
  tokenizer.normalizer = normalizers.Sequence(spaces)
  tokenizer.decoder = decoders.Sequence(steps)
  for i, text in sorted(added.items()):
    tokenizer.add_special_tokens([text])
    if tokenizer.token_to_id(text) != i:
      raise SophiaError(
        f"{path}: the special token {text} has id "
        f"{tokenizer.token_to_id(text)}, not {i}; restore the tokenizer files "
        "of the checkpoint"
      )
  return tokenizer
