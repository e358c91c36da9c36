r"""How the olympiad judge reads an answer: into one line, then into items.

Twice: as OpenBMB's judge does (`prepare_upstream`, `split_upstream`), quirks
and all, and as it should be done (`prepare`, `split`).
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from sophia_jax.rewards.number import equal_numbers, parse_number
from sophia_jax.rewards.text import (
  LONGEST_GOLD,
  Outcome,
  half_width,
  is_bounded,
)

MAX_CHARS = 1000
"""A longer answer is no answer; formulas of physics are long."""

_BOX = re.compile(r"\\boxed\s*\{")
_DOLLARS = re.compile(r"\$(.*?)\$")

# ----------------------------------------------------------- as OpenBMB's judge
_STRIP_UPSTREAM = "\n$,.:;^_=+`!@#%&*~，。"
_REWRITES_UPSTREAM = (
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
_FONT_UPSTREAM = re.compile(r"\\(?:mathrm|mathbf)\{~?([^}]*)\}")
_CHINESE = re.compile("[\u4e00-\u9fff]+")


def prepare_upstream(text: str) -> str | None:
  """One line of formulas with commas; None if the braces of a box are open."""
  boxes = boxed(text)
  if boxes is None:
    return None
  if boxes:
    text = "".join(f"{box}," for box in boxes)
  elif dollars := _DOLLARS.findall(text.rpartition("\n")[2]):
    text = "".join(f"{formula}," for formula in dollars)
  if "\\in " in text:
    text = text.split("\\in ")[1]
  for old, new in _REWRITES_UPSTREAM:
    text = text.replace(old, new)
  return _FONT_UPSTREAM.sub(r"\1", text.strip(_STRIP_UPSTREAM))


def split_upstream(text: str) -> list[str]:
  """Items at commas outside ( ) and [ ]; a \\pm makes two of one.

  Chinese characters are dropped, so that an answer in words has no items.
  """
  items: list[str] = []
  parts = _at_commas(_CHINESE.sub("", text), "([", ")]")
  for item in map(str.strip, parts if parts[-1] else parts[:-1]):
    signs = ("+", "-") if r"\pm" in item else ("",)
    items += [item.replace(r"\pm", sign) for sign in signs]
  return items


def before_sympy_upstream(gold: str, answer: str) -> Outcome | None:
  """What can be said without reading a formula. Empty is equal to empty."""
  wanted, found = prepare_upstream(gold), prepare_upstream(answer)
  if wanted is None or found is None:
    return "wrong"
  if wanted == found:
    return "right"
  return None if is_bounded(found, MAX_CHARS) else "unparseable"


_HEADING_UPSTREAM = re.compile(r"(?:So the final answer is|所以最终答案是)(.*)")


def extract_upstream(response: str, problem: object = None) -> str | None:
  """The answer as OpenBMB extracts it, for `Verifier(extractor=...)`.

  What follows the last "So the final answer is" (or its Chinese) on its line;
  without one, what `prepare_upstream` finds in the whole response.
  """
  headed = _HEADING_UPSTREAM.findall(response)
  answer = headed[-1] if headed else prepare_upstream(response)
  return answer if answer and len(answer) <= MAX_CHARS else None


# ------------------------------------------------------------------------- ours
_SIGNS = str.maketrans(
  {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "±": r"\pm ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": "=",
    "∪": r"\cup ",
    "∈": r"\in ",
    "∶": ":",
    "、": ",",
    ";": ",",
    "′": "'",
    "$": " ",
    "~": " ",
    "`": " ",
    "\n": " ",
  }
)
_COMMANDS = (
  (re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)(?![A-Za-z])"), ""),
  (re.compile(r"\\(?:displaystyle|quad|qquad)(?![A-Za-z])|\\[,;:! ]"), " "),
  (re.compile(r"\\[dtc]frac"), r"\\frac"),
  (re.compile(r"\\(?:approx|simeq|sim)(?![A-Za-z])"), "="),
  (re.compile(r"\\(?:leq|leqslant|le)(?![A-Za-z])"), r"\\leq "),
  (re.compile(r"\\(?:geq|geqslant|ge)(?![A-Za-z])"), r"\\geq "),
  (re.compile(r"\\(?:lt|gt)(?![A-Za-z])"), lambda m: "<>"["g" in m[0]]),
  (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
  (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))"), "°"),
  (re.compile(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![A-Za-z]))"), "'"),
  (re.compile(r"\\text\s*\{\s*(?:or|and|或|和)\s*\}|或|和"), ","),
  (re.compile(r"(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])"), ","),
  (
    re.compile(
      r"\\(?:mathrm|mathbf|mathit|text|mbox|rm|bf|boldsymbol|operatorname)"
      r"\s*\{([^{}]*)\}"
    ),
    r" \1 ",
  ),
)
_MEMBER = re.compile(r"^[^,=]{0,40}?\\in(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\d,])")
_FENCES = "([{"
_FENCE_ENDS = ")]}"


def prepare(text: str) -> str | None:
  """One line in one spelling; None if the braces of a box are open."""
  boxes = boxed(text)
  if boxes is None:
    return None
  text = ", ".join(boxes) or text
  text = "".join(
    c
    for c in half_width(text).translate(_SIGNS)
    if unicodedata.category(c) != "Cf"
  )
  for pattern, new in _COMMANDS:
    text = pattern.sub(new, text)
  text = _MEMBER.sub("", " ".join(text.split())).strip(" ,.:。")
  # A box in a box leaves braces around everything.
  inside = boxed(f"\\boxed{text}") if text.startswith("{") else None
  return inside[0] if inside and len(inside[0]) == len(text) - 2 else text


def before_sympy(gold: str, answer: str, slack: float) -> Outcome | None:
  """What can be said without reading a formula."""
  wanted, found = prepare(gold), prepare(answer)
  if not found:
    return "unparseable"
  if wanted == found:
    return "right"
  if not is_bounded(found, MAX_CHARS):
    return "unparseable"
  if wanted is None or not is_bounded(wanted, LONGEST_GOLD):
    return "wrong"
  same = same_number(wanted, found, slack)
  return None if same is None else "right" if same else "wrong"


def same_number(gold: str, answer: str, slack: float) -> bool | None:
  """None if one of them is no number with, perhaps, a unit: x = 5 is none.

  Letters behind a gold number may be variables (2m): the answer needs them too.
  An answer may add a unit to a bare number.
  """
  wanted, found = parse_number(gold), parse_number(answer)
  if wanted is None or found is None or "=" in gold + answer:
    return None
  if wanted.unit and wanted.unit != found.unit:
    return False
  return equal_numbers(wanted, found, slack)


def split(text: str) -> list[str]:
  r"""Items at commas outside brackets; those of a set; a \pm makes two of one.

  Where every item of a list has \pm, the signs of one item go together.
  """
  if text.startswith(r"\{") and text.endswith(r"\}"):
    text = text[2:-2]
  items: list[str] = []
  for item in filter(None, map(str.strip, _at_commas(text, "([{", ")]}"))):
    if r"\pm" in item or r"\mp" in item:
      items += [
        item.replace(r"\pm", up).replace(r"\mp", down)
        for up, down in (("+", "-"), ("-", "+"))
      ]
    else:
      items.append(item)
  return items


def readings(text: str) -> list[list[str]]:
  """The items of `text`; once more with 1,000 as one number, not two."""
  joined = _THOUSANDS.sub(
    lambda m: m[0].replace("{,}", "").replace(",", ""), text
  )
  return [split(t) for t in dict.fromkeys((text, joined))]


# ----------------------------------------------------------------------- both
def boxed(text: str) -> list[str] | None:
  r"""The contents of all outermost \boxed{...}; None if one is left open."""
  contents = []
  end = 0
  while box := _BOX.search(text, end):
    depth, end = 1, box.end()
    while depth and end < len(text):
      depth += (text[end] == "{") - (text[end] == "}")
      end += 1
    if depth:
      return None
    contents.append(text[box.end() : end - 1])
  return contents


def bracketed(text: str) -> bool:
  """Whether it begins and ends as an interval or a tuple does."""
  return text[:1] in ("(", "[") and text[-1:] in (")", "]")


class Interval(NamedTuple):
  """An interval, a point or a tuple: brackets and what is between commas."""

  brackets: str
  places: list[str]


def interval(text: str) -> Interval | None:
  """`text` as an interval or a tuple, if it is one of at least two places."""
  text = text.strip()
  if len(text) < 2 or not bracketed(text):
    return None
  places = _at_commas(text[1:-1], "([{", ")]}")
  return Interval(text[0] + text[-1], places) if len(places) > 1 else None


_NAME = re.compile(r"\\?[A-Za-z]+'*(?:_(?:\w|\{[^{}]*\}))?(?:\([^()=]*\))?")


def is_name(text: str) -> bool:
  r"""Whether it only names what follows: x, S_{max}, \theta, f(x)."""
  return _NAME.fullmatch(text.replace(" ", "")) is not None


def _at_commas(text: str, left: str, right: str) -> list[str]:
  items, depth, start = [], 0, 0
  for i, c in enumerate(text):
    depth += (c in left) - (c in right)
    if c == "," and depth == 0:
      items.append(text[start:i])
      start = i + 1
  return [*items, text[start:]]
