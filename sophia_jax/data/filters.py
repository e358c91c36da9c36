"""Filters: selects examples fit for training and counts why others are not.

Every filter is off by default. Each example that is left out is counted under
the first filter that objects, so the counts add up.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sophia_jax.types import Example

CountTokens = Callable[[Sequence[str]], Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
  """Requirements of an example. The defaults let everything pass.

  Example: FilterConfig(deduplicate=True, max_tokens=16384, language=0.9,
    max_repetition=0.4, min_compression=0.1)
  """

  deduplicate: bool = False
  """Whether only the first of equal examples is kept."""
  min_tokens: int = 0
  """Minimum response length, tokens."""
  max_tokens: int = 0
  """Maximum response length, tokens; 0: no limit."""
  language: float = 0.0
  """Least share of the response in the script of the question; 0: off."""
  max_repetition: float = 1.0
  """Greatest share of the response that repeats an earlier run of words."""
  min_compression: float = 0.0
  """Least size of the compressed response as a share of the plain one. Prose
  has 0.3 to 0.5, a loop less than 0.05."""
  truncate: bool = False
  """Whether a response too long for a row is cut, where its images fit whole."""

  def __post_init__(self) -> None:
    for name in ("min_tokens", "max_tokens"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    for name in ("language", "max_repetition", "min_compression"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 0 to 1")


def keep(
  examples: Iterable[Example], config: FilterConfig, count_tokens: CountTokens
) -> tuple[list[Example], dict[str, int]]:
  """Returns the examples that pass, in their order, and counts for a report.

  Args:
    examples: candidates for training.
    config: requirements of an example.
    count_tokens: tokens of texts in the policy's vocabulary.

  Returns:
    Examples, and {"examples", "duplicate", "short", "long", "language",
    "repetition", "kept"}: "examples" is the sum of the others.
  """
  examples = list(examples)
  limited = config.min_tokens or config.max_tokens
  texts = [e.response for e in examples] if limited else []
  lengths = count_tokens(texts) if limited else itertools.repeat(0)
  seen: set[tuple[object, ...]] = set()
  reasons = collections.Counter[str]()
  kept = []
  for example, length in zip(examples, lengths):
    reason = _objection(example, length, config)
    if reason is None and config.deduplicate:
      key = _identity(example)
      reason = "duplicate" if key in seen else None
      seen.add(key)
    if reason is None:
      kept.append(example)
    else:
      reasons[reason] += 1
  counts = {name: reasons[name] for name in REASONS}
  return kept, {"examples": len(examples), **counts, "kept": len(kept)}


REASONS = ("duplicate", "short", "long", "language", "repetition")


def _objection(
  example: Example, length: int, config: FilterConfig
) -> str | None:
  if length < config.min_tokens:
    return "short"
  if config.max_tokens and length > config.max_tokens:
    return "long"
  question, response = example.question, example.response
  # What is off is not measured: every measure reads the whole text.
  if config.language and (language_share(question, response) < config.language):
    return "language"
  if config.max_repetition < 1 and repetition(response) > config.max_repetition:
    return "repetition"
  if config.min_compression and compression(response) < config.min_compression:
    return "repetition"
  return None


# --------------------------------------------------------------- deduplication
def normalised(text: str) -> str:
  """Returns a text without differences of case, width, accents and space."""
  return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _identity(example: Example) -> tuple[object, ...]:
  question, response = (
    normalised(example.question),
    normalised(example.response),
  )
  return example.images, question, response


# -------------------------------------------------------------------- language
# Formulas, code, tags and links look the same in every language; most are made
# of Latin letters. Bounded, or a text of brackets that never close would take
# quadratic time.
_NEUTRAL = re.compile(
  r"```.{0,4000}?```|`[^`\n]*`"  # code
  r"|\$\$.{1,800}?\$\$|\$[^$\n]+\$"  # formulas
  r"|\\\(.{1,800}?\\\)|\\\[.{1,800}?\\\]"
  r"|\\(?:begin|end)\{\w+\*?\}|\\[a-zA-Z]+"  # commands outside of them
  r"|</?\w+>|https?://\S+",
  re.DOTALL,
)

_SCRIPTS: dict[str, str] = {
  # Two letters at least: one alone names a point or a variable.
  "latin": "[A-Za-z\u00c0-\u024f\u1e00-\u1eff]{2,}",
  "greek": "[\u0370-\u03ff\u1f00-\u1fff]{2,}",
  "cyrillic": "[\u0400-\u052f]{2,}",
  "hebrew": "[\u0590-\u05ff]+",
  "arabic": "[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff]+",
  "devanagari": "[\u0900-\u097f]+",
  "bengali": "[\u0980-\u09ff]+",
  "tamil": "[\u0b80-\u0bff]+",
  # Written without spaces: two or so characters to a word.
  "thai": "[\u0e00-\u0e7f]{1,4}",
  "hangul": "[\u1100-\u11ff\uac00-\ud7a3]{1,3}",
  "kana": "[\u3040-\u30ff]{1,2}",
  "han": "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]{1,2}",
}
_WORDS = re.compile("|".join(f"(?P<{n}>{p})" for n, p in _SCRIPTS.items()))

# A Japanese text has kana in every sentence, a Chinese one has none; both have
# the same characters otherwise.
_KANA_OF_JAPANESE = 0.1
_ENOUGH = 3  # words, to say what a text is written in


def scripts(text: str) -> dict[str, int]:
  """Words, or what comes near them, of each script; formulas are left out.

  Han and kana count together, as "japanese" or "chinese".
  """
  plain = _NEUTRAL.sub(" ", text)
  found = collections.Counter(
    match.lastgroup or "" for match in _WORDS.finditer(plain)
  )
  kana, han = found.pop("kana", 0), found.pop("han", 0)
  if kana + han:
    japanese = kana > _KANA_OF_JAPANESE * (kana + han)
    found["japanese" if japanese else "chinese"] = kana + han
  return dict(found)


def language_share(question: str, response: str) -> float:
  """Returns the share of a response's words in the question's script.

  1 where either has too few words to tell. It cannot tell languages of one
  script apart, such as English and French.
  """
  asked, answered = scripts(question), scripts(response)
  if sum(asked.values()) < _ENOUGH or sum(answered.values()) < _ENOUGH:
    return 1.0
  script = max(asked, key=lambda name: asked[name])
  return answered.get(script, 0) / sum(answered.values())


# ------------------------------------------------------------------ repetition
_UNITS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|\w+|[^\w\s]")
_BASE = np.uint64(0x9E3779B97F4A7C15)
RUN = 16
"""Words and signs of a run: longer than the phrases that reasoning is made of."""


def repetition(text: str) -> float:
  """Returns the share of words and signs in a run seen earlier in the text."""
  units = _UNITS.findall(text)
  count = len(units) - RUN + 1
  if count < 2:
    return 0.0
  number: dict[str, int] = {}
  ids = [number.setdefault(unit, len(number) + 1) for unit in units]
  values = np.array(ids, np.uint64)
  # A polynomial hash of every run, modulo 2^64.
  runs = np.zeros(count, np.uint64)
  for place in range(RUN):
    runs = runs * _BASE + values[place : place + count]
  _, first, which = np.unique(runs, return_index=True, return_inverse=True)
  again = np.flatnonzero(first[which] < np.arange(count))
  edges = np.zeros(len(units) + 1, np.int64)
  edges[again] += 1
  edges[again + RUN] -= 1
  return float(np.mean(np.cumsum(edges)[:-1] > 0))


def compression(text: str) -> float:
  """Returns the size of the text under DEFLATE over its size, at most 1."""
  data = text.encode("utf-8", "replace")
  return min(len(zlib.compress(data)) / len(data), 1.0) if data else 1.0
