r"""Reads an answer as OpenBMB's judge does, quirks included: a line, then items.

Written from a description of its `AutoScoringJudge` (He et al. 2024, arXiv
2402.14008); `openbmb` compares the items.
"""

from __future__ import annotations

import re

from sophia_jax.rewards.reading import MAX_CHARS, boxed
from sophia_jax.rewards.text import is_bounded
from sophia_jax.status import Status

_DOLLARS = re.compile(r"\$(.*?)\$")
_STRIP = "\n$,.:;^_=+`!@#%&*~，。"
_REWRITES = (
  (r"\left", ""),
  (r"\right", ""),
  ("∶", ":"),
  ("，", ","),
  ("$", ""),
  (r"\approx", "="),
  (r"\simeq", "="),
  (r"\sim", "="),
  (r"^\prime", "'"),
  (r"^{\prime}", "'"),
  (r"^\circ", ""),
  ("%", ""),
)
_FONT = re.compile(r"\\(?:mathrm|mathbf)\{~?([^}]*)\}")
_CHINESE = re.compile("[\u4e00-\u9fff]+")


def prepare(text: str) -> str | None:
  r"""Returns one line of formulas with commas; None if a box is left open.

  Quirks: drops % and ! at the end of an answer (5! is 5) and ^\circ, but not
  \%, ^{\circ}, \text{...} and the comma of 1,000 (two answers).
  """
  boxes = boxed(text)
  if boxes is None:
    return None
  if boxes:
    text = "".join(f"{box}," for box in boxes)
  elif dollars := _DOLLARS.findall(text.rpartition("\n")[2]):
    text = "".join(f"{formula}," for formula in dollars)
  if "\\in " in text:
    text = text.split("\\in ")[1]
  for old, new in _REWRITES:
    text = text.replace(old, new)
  return _FONT.sub(r"\1", text.strip(_STRIP))


def split(text: str) -> list[str]:
  r"""Returns items at commas outside ( ) and [ ]; a \pm makes two of one.

  Chinese characters are dropped, so that an answer in words has no items and
  any two answers in Chinese are equal.
  """
  items: list[str] = []
  parts = _at_commas(_CHINESE.sub("", text))
  for item in map(str.strip, parts if parts[-1] else parts[:-1]):
    signs = ("+", "-") if r"\pm" in item else ("",)
    items += [item.replace(r"\pm", sign) for sign in signs]
  return items


def before_sympy(gold: str, answer: str) -> Status | None:
  """Returns what can be said without reading a formula. Empty equals empty."""
  wanted, found = prepare(gold), prepare(answer)
  if wanted is None or found is None:
    return Status.WRONG
  if wanted == found:
    return Status.RIGHT
  return None if is_bounded(found, MAX_CHARS) else Status.UNPARSEABLE


_HEADING = re.compile(r"(?:So the final answer is|所以最终答案是)(.*)")


def extract_upstream(response: str, problem: object = None) -> str | None:
  """Returns the answer as OpenBMB extracts it, for `Verifier(extractor=...)`.

  What follows the last "So the final answer is" (or its Chinese) on its line;
  without one, what `prepare` finds in the whole response.
  """
  headed = _HEADING.findall(response)
  answer = headed[-1] if headed else prepare(response)
  return answer if answer and len(answer) <= MAX_CHARS else None


def _at_commas(text: str) -> list[str]:
  items, depth, start = [], 0, 0
  for i, c in enumerate(text):
    depth += (c in "([") - (c in ")]")
    if c == "," and depth == 0:
      items.append(text[start:i])
      start = i + 1
  return [*items, text[start:]]
