"""Perceptual image hashes, and an index that finds near ones.

A picture is hashed twice: whole, and without its plain border, since scans of
one diagram differ first of all in their margins. Each hash is the sign pattern
of 64 low frequencies of the cosine transform (pHash). Sixty-four bits of line
drawings collide, so a hit also needs alike thumbnails and an alike shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int8, UInt64
from PIL import Image

from sophia_jax.data.images import open_image
from sophia_jax.types import SophiaError

RADIUS = 10
"""Largest number of the 64 bits in which hashes of one picture differ."""
MIN_CORRELATION = 0.9
"""Least correlation of two thumbnails of one picture."""
MAX_STRETCH = 1.15
"""Largest quotient of the aspect ratios of one picture."""
VIEWS = 2
"""Views of a picture: whole, and without the border."""

_SIDE = 32
_THUMB = 16
_BANDS = 4
_BLOCK = 2048
# Below this standard deviation of grey levels there is nothing to recognise.
_PLAIN = 2.0

_k = np.arange(_SIDE)
_COSINES = np.cos(np.pi * (2 * _k + 1) * np.arange(1, 9)[:, None] / (2 * _SIDE))


class Signatures(NamedTuple):
  """Hashes and thumbnails of N images: about 530 bytes each."""

  hashes: UInt64[np.ndarray, "N V"]
  thumbs: Int8[np.ndarray, "N V 256"]
  """16x16 grey levels around their mean, the largest at 127."""
  aspects: Float[np.ndarray, "N V"]
  """Width over height; 0 for a view that shows nothing."""


class Hit(NamedTuple):
  """A pair of images that show the same."""

  query: int
  known: int
  score: float
  """Correlation of the thumbnails, 0 to 1."""


# --------------------------------------------------------------------- hashing
def signatures(paths: Sequence[str]) -> tuple[Signatures, dict[int, str]]:
  """Hashes images.

  Returns:
    The signatures, and for each image that cannot be read its index and why;
    such an image is like no other.
  """
  out = Signatures(
    np.zeros((len(paths), VIEWS), np.uint64),
    np.zeros((len(paths), VIEWS, _THUMB**2), np.int8),
    np.zeros((len(paths), VIEWS), np.float32),
  )
  broken = {}
  for i, path in enumerate(paths):
    try:
      grey = open_image(path, 4 * _SIDE).convert("L")
    except SophiaError as e:
      broken[i] = str(e)
      continue
    for v, view in enumerate((grey, without_border(grey))):
      out.hashes[i, v], out.thumbs[i, v], out.aspects[i, v] = _view(view)
  return out, broken


def join(parts: Sequence[Signatures]) -> Signatures:
  """Concatenates signatures, in the order of the parts."""
  return Signatures(*map(np.concatenate, zip(*parts)))


def without_border(grey: Image.Image) -> Image.Image:
  """Cuts a border of one grey off; returns all of it if nothing is left."""
  pixels = np.asarray(grey).astype(np.int16)
  edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
  drawn = np.abs(pixels - np.median(np.concatenate(edges))) > 32
  # Specks of compression are no drawing.
  rows = np.flatnonzero(drawn.mean(axis=1) > 0.002)
  columns = np.flatnonzero(drawn.mean(axis=0) > 0.002)
  if len(rows) < 3 or len(columns) < 3:
    return grey
  return grey.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def _view(
  grey: Image.Image,
) -> tuple[np.uint64, Int8[np.ndarray, "256"], float]:
  small = grey.resize((_SIDE, _SIDE), Image.Resampling.BOX)
  pixels = np.asarray(small, np.float32)
  if pixels.std() < _PLAIN:
    return np.uint64(0), np.zeros(_THUMB**2, np.int8), 0.0
  low = (_COSINES @ pixels @ _COSINES.T).ravel()
  bits = np.packbits(low > np.median(low)).view(np.uint64)[0]
  half = pixels.reshape(_THUMB, 2, _THUMB, 2).mean(axis=(1, 3)).ravel()
  half -= half.mean()
  scaled = np.round(half * (127 / max(np.abs(half).max(), 1e-6)))
  return bits, scaled.astype(np.int8), grey.width / grey.height


# ---------------------------------------------------------------------- search
class Index:
  """Known images; finds those that show what a query shows.

  Multi-index hashing (Norouzi et al., CVPR 2012): of hashes that differ in at
  most 10 of 64 bits, one of 4 bands of 16 differs in at most 2, so a query
  looks up 137 keys in each of 4 tables instead of every known hash.
  """

  def __init__(self, known: Signatures):
    self._known = known
    self._flips = _flips(RADIUS // _BANDS)
    self._tables = [
      [_table(_band(known.hashes[:, v], b)) for b in range(_BANDS)]
      for v in range(VIEWS)
    ]

  def __call__(self, queries: Signatures) -> list[Hit]:
    """Returns all pairs of a query and a known image that show the same."""
    best: dict[tuple[int, int], float] = {}
    for v in range(VIEWS):
      for start in range(0, len(queries.hashes), _BLOCK):
        part = Signatures(*(x[start : start + _BLOCK] for x in queries))
        for q, k, score in self._view_hits(part, v):
          pair = (start + q, k)
          best[pair] = max(score, best.get(pair, 0.0))
    return [Hit(q, k, score) for (q, k), score in sorted(best.items())]

  def _view_hits(
    self, queries: Signatures, v: int
  ) -> list[tuple[int, int, float]]:
    known = self._known
    asked = np.flatnonzero(queries.aspects[:, v] > 0)
    pairs = [
      _lookup(_band(queries.hashes[asked, v], b), table, self._flips)
      for b, table in enumerate(self._tables[v])
    ]
    found = np.concatenate(pairs, axis=1)
    q, k = asked[found[0]], found[1]
    bits = np.bitwise_count(queries.hashes[q, v] ^ known.hashes[k, v])
    near = bits <= RADIUS
    stretch = queries.aspects[q, v] / np.maximum(known.aspects[k, v], 1e-6)
    near &= (stretch < MAX_STRETCH) & (stretch > 1 / MAX_STRETCH)
    # A pair is found by each band in which it is near: once is enough.
    q, k = np.unique(np.stack([q[near], k[near]]), axis=1)
    score = _correlation(queries.thumbs[q, v], known.thumbs[k, v])
    alike = score >= MIN_CORRELATION
    return list(
      zip(q[alike].tolist(), k[alike].tolist(), score[alike].tolist())
    )


def _band(hashes: UInt64[np.ndarray, "N"], b: int) -> Int[np.ndarray, "N"]:
  return ((hashes >> np.uint64(16 * b)) & np.uint64(0xFFFF)).astype(np.int64)


def _flips(bits: int) -> Int[np.ndarray, "F"]:
  """Returns every mask of at most `bits` of 16 bits."""
  chosen = itertools.chain.from_iterable(
    itertools.combinations(range(16), n) for n in range(bits + 1)
  )
  return np.array([sum(1 << bit for bit in bits) for bits in chosen])


_Table = tuple[Int[np.ndarray, "65537"], Int[np.ndarray, "N"]]
"""Start of each key's images, and the images in the order of their keys."""


def _table(keys: Int[np.ndarray, "N"]) -> _Table:
  counts = np.bincount(keys, minlength=1 << 16)
  return np.concatenate([[0], np.cumsum(counts)]), np.argsort(
    keys, kind="stable"
  )


def _lookup(
  keys: Int[np.ndarray, "Q"], table: _Table, flips: Int[np.ndarray, "F"]
) -> Int[np.ndarray, "2 H"]:
  """Returns (query, known) pairs whose keys differ by one of `flips`."""
  starts, order = table
  asked = keys[:, None] ^ flips
  first = starts[asked].ravel()
  count = starts[asked + 1].ravel() - first
  query = np.repeat(np.arange(len(keys)), len(flips))
  # Ranges [first, first + count) one after the other.
  within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
  places = np.repeat(first, count) + within
  return np.stack([np.repeat(query, count), order[places]])


def _correlation(
  a: Int8[np.ndarray, "H 256"], b: Int8[np.ndarray, "H 256"]
) -> Float[np.ndarray, "H"]:
  x, y = a.astype(np.float32), b.astype(np.float32)
  length = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
  return np.einsum("ij,ij->i", x, y) / np.maximum(length, 1e-6)
