"""Clauses: the stretches of a response that are labelled and rewarded.

A clause is a sentence, or a part of one that a comma, semicolon or mark ends and
that has at least five words, with at least five after it (FGAIF, arXiv
2404.05046, whose sentences are spaCy's; these are found by rule).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sophia_jax.types import Completion, FinishReason

LEAST = 5
"""Words on each side of a mark inside a sentence that ends a clause there."""
MOST = 128
"""Clauses of a response at most; the last one holds the rest."""

_SENTENCE = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s)|[。！？]+|(?=\n)")
_INSIDE = re.compile(r"[,;!?](?=\s)|[，；]")
_WORD = re.compile(r"\w+")
_ABBREVIATED = re.compile(
  r"\b(?:mr|mrs|ms|dr|st|prof|fig|no|vs|cf|approx|e\.g|i\.e)\.$", re.IGNORECASE
)


class Clause(NamedTuple):
  """Characters of a response: `start` to `stop`, space around them included."""

  start: int
  stop: int
  end: int
  """Place after its last character that is no space."""


def split(text: str) -> list[Clause]:
  """Cuts a text into clauses; none where it holds nothing but space.

  Their spans partition the text: each begins where the one before stops. Space
  belongs to the clause after it, at the end of the text to the last.
  """
  ends = [m.end() for m in _SENTENCE.finditer(text) if not _short(text, m)]
  words = [m.start() for m in _WORD.finditer(text)]
  cuts: list[int] = []
  last = 0
  for end in (*ends, len(text)):
    cuts += _inside(text, last, end, words)
    last = end
  cuts = sorted({*cuts, *ends, len(text)})
  return _clauses(text, cuts)


def _short(text: str, mark: re.Match[str]) -> bool:
  """Returns whether a mark ends an abbreviation, and not a sentence."""
  return bool(_ABBREVIATED.search(text[max(0, mark.end() - 12) : mark.end()]))


def _inside(
  text: str, start: int, stop: int, words: Sequence[int]
) -> Iterable[int]:
  """Yields the cuts inside a sentence.

  Args:
    words: place of every word of the text.
  """
  count = lambda a, b: (
    bisect.bisect_left(words, b) - bisect.bisect_left(words, a)
  )
  for mark in _INSIDE.finditer(text, start, stop):
    place = mark.end()
    if count(start, place) >= LEAST <= count(place, stop):
      yield place
      start = place


def _clauses(text: str, cuts: Iterable[int]) -> list[Clause]:
  """Makes clauses of the stretches between cuts; space alone is none."""
  found: list[Clause] = []
  start = 0
  for stop in cuts:
    piece = text[start:stop].rstrip()
    if piece and len(found) < MOST:
      found.append(Clause(start, stop, start + len(piece)))
      start = stop
  if found and found[-1].stop < len(text):
    first = found[-1].start
    end = first + len(text[first:].rstrip())
    found[-1] = Clause(first, len(text), end)
  return found


def finished(completion: Completion) -> list[Clause]:
  """Returns the clauses of a response, without a last one that was cut off."""
  found = split(completion.text)
  cut = completion.finish_reason is not FinishReason.STOP
  return found[:-1] if cut else found


def texts(completion: Completion) -> list[str]:
  """Returns the words of each clause of a response, on one line."""
  return [
    " ".join(completion.text[c.start : c.end].split())
    for c in finished(completion)
  ]


def token_ends(
  text: str,
  clauses: Sequence[Clause],
  ids: Sequence[int],
  decode: Callable[[Sequence[int]], str],
) -> list[int]:
  """Returns the index of the token that each clause ends with, never falling.

  It is the first token with which the decoded ids hold the clause's last
  character. Clauses inside one token share it.

  Args:
    text: the response.
    ids: its tokens.
    decode: from ids to text, as of the tokenizer that wrote them.
  """
  whole = decode(ids) == text
  found: list[int] = []
  low = 0
  for clause in clauses:
    high = len(ids) - 1
    while low < high:
      middle = (low + high) // 2
      said = decode(ids[: middle + 1])
      there = len(said) >= clause.end
      if whole:
        there = said[: clause.end] == text[: clause.end]
      low, high = (low, middle) if there else (middle + 1, high)
    found.append(low)
  return found
