"""The rewards of Reason-RFT's three tasks (arXiv 2503.20752 and its code).

Each takes what a model wrote, the gold answer, and whether the verifier finds the
whole text right, which counts where there are no answer tags. Model output is
hostile: texts are bounded and every scan is linear.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

_CHARS = 20_000
"""Length of the end of a text that is read."""
_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_CALL = re.compile(r"(\w{1,64})\((\w{1,64}),\s{0,16}'?(\w{1,64})'?\)")
Call = tuple[str, str, str]
"""Function, object, value."""

EXACT, NOTHING = 0.05, 0.20
"""Relative errors below which a number earns 1, and above which it earns 0."""


def tagged(text: str) -> str | None:
  """Returns the inside of the first <answer>...</answer> on one line."""
  for line in text[-_CHARS:].split("\n"):
    start = line.find("<answer>")
    end = line.find("</answer>", start + len("<answer>"))
    if 0 <= start < end:
      return line[start + len("<answer>") : end].strip()
  return None


def counting(text: str, gold: str, verified: bool) -> float:
  """Returns 1 where the tagged answer is the gold string, else 0."""
  found = tagged(text)
  if found is None:
    return float(text.strip() == gold.strip() or verified)
  return float(found == gold.strip())


def geometry(text: str, gold: str, verified: bool) -> float:
  """Returns a number's reward by its relative error e = |a - g| / |g|.

    1 for e < 5 %,  0 for e > 20 %,  1/2 (cos(pi (e - 0.05) / 0.15) + 1) between

  What are no two numbers is compared as strings.
  """
  found = tagged(text)
  answer = text.strip() if found is None else found
  earned = _graded(answer, gold.strip())
  return max(earned, float(found is None and verified))


def _graded(answer: str, gold: str) -> float:
  try:
    a, g = float(answer), float(gold)
  except ValueError:
    return float(answer == gold)
  if not (math.isfinite(a) and math.isfinite(g)):
    return 0.0
  error = abs(a - g)
  if error < EXACT * abs(g) or error == 0:
    return 1.0
  if error > NOTHING * abs(g):
    return 0.0
  way = (error - EXACT * abs(g)) / ((NOTHING - EXACT) * abs(g))
  return 0.5 * (math.cos(math.pi * way) + 1)


def transformation(text: str, gold: str, verified: bool) -> float:
  """Returns the partial credit of a sequence of transformations.

  Both sides are sets of (function, object, value), matched greedily: 1 for an
  equal call, then 1/2 for function and object, 1/2 for function and value, 1/4
  for the function alone. The sum is multiplied by the share of the prediction's
  calls that are distinct, and divided by the larger set's size.
  """
  del verified
  found = tagged(text)
  said = calls(text[-_CHARS:] if found is None else found)
  left, wanted = list(dict.fromkeys(said)), list(dict.fromkeys(calls(gold)))
  if not left or not wanted:
    return 0.0
  each = (len(left) / len(said)) / max(len(left), len(wanted))
  earned = 0.0
  for worth, part in _CREDITS:
    earned += worth * each * _matched(left, wanted, part)
  return earned


_CREDITS: tuple[tuple[float, Callable[[Call], tuple[str, ...]]], ...] = (
  (1.0, lambda call: call),
  (0.5, lambda call: call[:2]),
  (0.5, lambda call: (call[0], call[2])),
  (0.25, lambda call: call[:1]),
)
"""Worth of a match, and the parts of a call that must agree; best first."""


def calls(text: str) -> list[Call]:
  """Returns the calls FUNCTION(OBJECT, VALUE) of a text, in their order."""
  return [match.groups() for match in _CALL.finditer(text)]  # type: ignore[misc]


def _matched(
  left: list[Call], wanted: list[Call], part: Callable[[Call], tuple[str, ...]]
) -> int:
  """Removes calls of both sides whose parts agree; returns the pairs."""
  pairs = 0
  for call in tuple(left):
    other = next((w for w in wanted if part(w) == part(call)), None)
    if other is not None:
      left.remove(call)
      wanted.remove(other)
      pairs += 1
  return pairs


def well_formed(text: str) -> bool:
  """Returns whether a text is <think>...</think><answer>...</answer>."""
  return len(text) <= _CHARS and _FORMAT.fullmatch(text) is not None


TASKS: dict[str, Callable[[str, str, bool], float]] = {
  "verified": lambda text, gold, verified: float(verified),
  "counting": counting,
  "geometry": geometry,
  "transformation": transformation,
}
"""Reward of each task; "verified" is the project's verifier alone."""
