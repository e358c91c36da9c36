"""Which questions say the same: normalised text, and shared word n-grams.

Normalising removes what a copy changes: case, width, spacing, punctuation,
placeholders of images, and the spelling of mathematics (`$\\frac{1}{2}$`, 1/2).
Numbers and operators stay, so the same question with other numbers is another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

N = 8
"""Words of an n-gram."""
THRESHOLD = 0.5
"""Least share of the shorter question's n-grams that the longer one has."""
MIN_GRAMS = 5
"""Questions with fewer (under 12 words) must be equal word for word."""
BOILERPLATE = 8
"""Most benchmark questions with one n-gram; a commoner one is an instruction
("answer with the option's letter") and does not count."""


class TextHit(NamedTuple):
  """A question that says the same as question `known` of the index."""

  query: int
  known: int
  equal: bool
  score: float
  """1.0 if they are equal; otherwise the share of common n-grams."""
  words: int
  """Length of the common text, in words."""


# ------------------------------------------------------------------ normalising
_MARK = re.compile(r"<image ?\d*>")
_FRACTION = re.compile(r"\\[dtc]?frac *\{([^{}]*)\} *\{([^{}]*)\}")
_COMMAND = re.compile(r"\\([a-z]+)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MEANING = {
  **dict.fromkeys(("times", "cdot", "ast"), "*"),
  **dict.fromkeys(("le", "leq", "leqslant"), "<="),
  **dict.fromkeys(("ge", "geq", "geqslant"), ">="),
  **dict.fromkeys(("circ", "degree", "degrees"), " degree "),
  **dict.fromkeys(
    ("left", "right", "big", "bigg", "displaystyle", "quad", "qquad"), " "
  ),
  **dict.fromkeys(("text", "textbf", "mathrm", "mathbf", "mathit"), " "),
  **dict.fromkeys(("mathbb", "operatorname", "begin", "end"), " "),
  "div": "/",
}
_SIGNS = str.maketrans(
  {
    **dict.fromkeys("×·∙⋅∗", "*"),
    **dict.fromkeys("−–—‐‑", "-"),
    **dict.fromkeys("÷⁄", "/"),
    "≤": "<=",
    "≥": ">=",
    "°": " degree ",
    "√": " sqrt ",
    "∠": " angle ",
    "△": " triangle ",
    "π": " pi ",
    **{
      # Greek letters by the names LaTeX gives them.
      chr(code): f" {unicodedata.name(chr(code)).split()[-1].lower()} "
      for code in range(0x3B1, 0x3CA)
      if code not in (0x3C0, 0x3C2)
    },
  }
)
# Han, kana and hangul are written without spaces: each sign is a word.
_SIGN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"\d+(?:\.\d+)?|[{_SIGN}]|[^\W\d_{_SIGN}]+|[-+*/=<>%]")


def words(text: str) -> list[str]:
  """Returns the words, numbers and operators of a text, normalised.

  Example: words("What is $\\\\dfrac{1}{2}$ of X?") -> what is 1 / 2 of x
  """
  text = text.casefold()
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text).casefold().translate(_SIGNS)
  text = _MARK.sub(" ", text)
  if "\\" in text:
    text = _FRACTION.sub(r"\1/\2", text)
    text = _COMMAND.sub(lambda m: _MEANING.get(m[1], f" {m[1]} "), text)
  return _WORD.findall(_THOUSANDS.sub("", text))


# ----------------------------------------------------------------------- search
class TextIndex:
  """Known questions; finds those that a question repeats."""

  def __init__(self, texts: Sequence[Sequence[str]]):
    """Indexes questions that are given as their `words`."""
    self._ids = {
      w: i for i, w in enumerate(sorted({w for t in texts for w in t}), 1)
    }
    # Odd multipliers: the hash of an n-gram is a sum modulo 2^64.
    rng = np.random.default_rng(0)
    self._factors = rng.integers(0, 2**63, N, dtype=np.uint64) * 2 + 1
    self._equal: dict[tuple[str, ...], list[int]] = {}
    for i, text in enumerate(texts):
      self._equal.setdefault(tuple(text), []).append(i)
    grams, question = _distinct(*self._grams_of(texts)[:2])
    keys, which, counts = np.unique(
      grams, return_inverse=True, return_counts=True
    )
    common = counts > BOILERPLATE
    self._boilerplate = keys[common]
    rare = ~common[which]
    self._keys = keys[~common]
    self._known = question[rare]  # sorted by n-gram, as `_distinct` sorts
    self._starts = np.concatenate([[0], np.cumsum(counts[~common])])
    self._sizes = np.bincount(self._known, minlength=len(texts))

  def _grams_of(
    self, texts: Sequence[Sequence[str]]
  ) -> tuple[
    UInt64[np.ndarray, "G"], Int[np.ndarray, "G"], Int[np.ndarray, "Q"]
  ]:
    """Hashes of n-grams of known words, their texts, and n-grams of each text.

    The last counts all n-grams, those with unknown words included.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    get = self._ids.get
    ids = np.fromiter((get(w, 0) for t in texts for w in t), np.uint64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    count = len(ids) - N + 1
    sizes = np.maximum(lengths - N + 1, 0)
    if count < 1:
      return np.zeros(0, np.uint64), np.zeros(0, np.int64), sizes
    hashes = np.zeros(count, np.uint64)
    whole = owner[:count] == owner[N - 1 :]
    for k, factor in enumerate(self._factors):
      part = ids[k : k + count]
      hashes += part * factor
      whole &= part > 0
    return hashes[whole], owner[:count][whole], sizes

  def __call__(self, texts: Sequence[Sequence[str]]) -> list[TextHit]:
    """Returns all pairs of a question and a known one that say the same."""
    hits = [
      TextHit(i, known, True, 1.0, len(text))
      for i, text in enumerate(texts)
      if text
      for known in self._equal.get(tuple(text), ())
    ]
    equal = {(hit.query, hit.known) for hit in hits}
    hits += [h for h in self._shared(texts) if (h.query, h.known) not in equal]
    return hits

  def _shared(self, texts: Sequence[Sequence[str]]) -> list[TextHit]:
    grams, owner, sizes = self._grams_of(texts)
    plain = ~_is_in(grams, self._boilerplate)
    sizes = sizes - np.bincount(owner[~plain], minlength=len(texts))
    grams, owner = _distinct(grams[plain], owner[plain])
    hit = _is_in(grams, self._keys)
    place, owner = np.searchsorted(self._keys, grams[hit]), owner[hit]
    first = self._starts[place]
    count = self._starts[place + 1] - first
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    known = self._known[np.repeat(first, count) + within]
    pairs, shared = np.unique(
      np.repeat(owner, count) * len(self._sizes) + known, return_counts=True
    )
    query, known = np.divmod(pairs, max(len(self._sizes), 1))
    least = np.minimum(sizes[query], self._sizes[known])
    enough = (least >= MIN_GRAMS) & (shared >= THRESHOLD * least)
    return [
      TextHit(q, k, False, min(s / n, 1.0), s + N - 1)
      for q, k, s, n in zip(
        query[enough].tolist(),
        known[enough].tolist(),
        shared[enough].tolist(),
        least[enough].tolist(),
      )
    ]


def _distinct(
  grams: UInt64[np.ndarray, "G"], owner: Int[np.ndarray, "G"]
) -> tuple[UInt64[np.ndarray, "D"], Int[np.ndarray, "D"]]:
  """Returns each n-gram of a text once, sorted by n-gram."""
  order = np.lexsort((owner, grams))
  grams, owner = grams[order], owner[order]
  new = np.ones(len(grams), bool)
  new[1:] = (grams[1:] != grams[:-1]) | (owner[1:] != owner[:-1])
  return grams[new], owner[new]


def _is_in(
  values: UInt64[np.ndarray, "G"], keys: UInt64[np.ndarray, "K"]
) -> Bool[np.ndarray, "G"]:
  """Tells which queries are among sorted keys."""
  if not len(keys):
    return np.zeros(len(values), bool)
  place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
  return keys[place] == values
