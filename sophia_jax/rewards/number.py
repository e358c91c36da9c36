r"""Reads one number out of a short answer, exactly and within bounds.

Decimals, thousands separators, scientific notation, fractions (a/b, \frac),
mixed numbers, percent, a unit behind the number. No evaluation: a product, a
root or a power is not a number here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

REL_TOL = Fraction(1, 10**6)
"""Two numbers are equal if |answer - gold| <= REL_TOL * |gold|."""

MAX_DIGITS = 60
MAX_EXPONENT = 300

# Matched against text of at most ANSWER_CHARS characters; a digit run belongs
# to one group only, so there is nothing to backtrack into.
_SIGN = r"(?P<sign>[+-]?) ?"
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_SCIENCE = re.compile(
  _SIGN + rf"(?P<base>{_DECIMAL})"
  r"(?:[eE](?P<exp>[+-]?\d{1,4})| ?[x*] ?10 ?\^ ?\{?(?P<pow>[+-]?\d{1,4})\}?)?"
  r"(?P<rest>.*)",
  re.DOTALL,
)
_SLASH = re.compile(
  _SIGN + rf"(?:(?P<whole>\d+) )?(?P<num>{_DECIMAL}) ?/ ?(?P<den>{_DECIMAL})"
  r"(?P<rest>.*)",
  re.DOTALL,
)
_FRAC = re.compile(
  _SIGN + r"(?P<whole>\d*) ?\\frac ?(?:\{ ?(?P<num>-?[\d.]+) ?\}|(?P<n1>\d)) ?"
  r"(?:\{ ?(?P<den>[\d.]+) ?\}|(?P<d1>\d))(?P<rest>.*)",
  re.DOTALL,
)
_UNIT = re.compile(r"[^\W\d_]+(?:[/ ][^\W\d_]+){0,3}(?:\^?[23²³])?")
_SCALES = re.compile(
  r"pi|e|i|k|dozen|hundred|thousand|million|billion|trillion|squared|cubed"
  r"|factorial|half|halves|thirds?|or|over|to|and|plus|minus|times|mod"
)
_ONE_LETTER_UNITS = frozenset("mgsLlNJWVACKFhHT")
_REWRITES = {
  "−": "-",
  "–": "-",
  "，": ",",
  "×": "x",
  "％": "%",
  r"\times": "x",
  r"\cdot": "x",
  r"\dfrac": r"\frac",
  r"\tfrac": r"\frac",
  r"\%": "%",
  r"\$": "",
  r"{,}": ",",
  r"\,": " ",
  r"\!": "",
  r"\;": " ",
  r"\ ": " ",
  "~": " ",
  "^{\\circ}": "°",
  "^\\circ": "°",
  "$": "",
  "£": "",
  "€": "",
  "¥": "",
}


@dataclass(frozen=True)
class Number:
  """An exact value; `percent` divides it by 100 when both sides agree to."""

  value: Fraction
  percent: bool = False
  unit: str = ""


def parse_number(text: str) -> Number | None:
  """The number that `text` is, or None. nan and inf are no numbers."""
  for old, new in _REWRITES.items():
    text = text.replace(old, new)
  text = " ".join(text.split())
  if "=" in text:  # "x = 5": what is asked for is on the right
    left, _, text = text.rpartition("=")
    text = text.strip() if len(left) <= 40 else ""
  text = text.lstrip("≈ ")
  for pattern, read in ((_SLASH, _ratio), (_FRAC, _ratio), (_SCIENCE, _scaled)):
    match = pattern.fullmatch(text)
    if match is None:
      continue
    magnitude = read(match)
    tail = _rest(match["rest"].strip())
    if magnitude is None or tail is None:
      return None
    sign = -1 if match["sign"] == "-" else 1
    return Number(sign * magnitude, *tail)
  return None


def equal_numbers(gold: Number, answer: Number, tolerance: float = 0.0) -> bool:
  """Equality within REL_TOL, or within `tolerance` (absolute) if it is wider.

  A percent sign on one side only may mean a forgotten sign (50 for 50%) or a
  fraction (0.5 for 50%): both are accepted. 50 and 0.5 are not equal. Units
  are compared only where both sides have one.
  """
  if gold.unit and answer.unit and gold.unit != answer.unit:
    return False
  # 0.3 as it is written, not as a float holds it.
  slack = Fraction(str(tolerance))
  if _close(gold.value, answer.value, slack):
    return True
  if gold.percent == answer.percent:
    return False
  left = gold.value / 100 if gold.percent else gold.value
  right = answer.value / 100 if answer.percent else answer.value
  return _close(left, right, slack / 100 if gold.percent else slack)


def slack_of_each(tolerance: Sequence[float], count: int) -> list[float]:
  """`Problem.tolerance` for each of `count` answers; 0 where there is none."""
  each = list(tolerance) if len(tolerance) > 1 else [*tolerance] * count
  return (each + [0.0] * count)[:count]


def _close(gold: Fraction, answer: Fraction, slack: Fraction) -> bool:
  return abs(answer - gold) <= max(REL_TOL * abs(gold), slack)


def _fraction(digits: str) -> Fraction | None:
  digits = digits.replace(",", "")
  if len(digits) > MAX_DIGITS or digits.count(".") > 1 or not digits.isascii():
    return None
  if digits in ("", ".", "-", "-."):
    return None
  return Fraction(digits + "0" if digits.endswith(".") else digits)


def _scaled(match: re.Match[str]) -> Fraction | None:
  base = _fraction(match["base"])
  exponent = int(match["exp"] or match["pow"] or 0)
  if base is None or abs(exponent) > MAX_EXPONENT:
    return None
  return base * Fraction(10) ** exponent


def _ratio(match: re.Match[str]) -> Fraction | None:
  groups = match.groupdict()
  num = _fraction(groups["num"] or groups.get("n1") or "")
  den = _fraction(groups["den"] or groups.get("d1") or "")
  whole = _fraction(groups["whole"] or "0")
  if num is None or whole is None or not den:
    return None
  return whole + num / den


def _rest(text: str) -> tuple[bool, str] | None:
  """(percent, unit) of what stands behind the digits; None if not a unit."""
  if text in ("%", "percent", r"\text{percent}", r"\text{ percent}"):
    return True, ""
  for command in (r"\text{", r"\mathrm{", r"\mbox{"):
    if text.startswith(command) and "}" in text:
      text = text.removeprefix(command).replace("}", "", 1).strip()
  text = text.rstrip(".").removeprefix("° ").strip()
  if text in ("", "°", "degrees", "degree"):
    return False, ""
  if text in ("°C", "°F"):
    return False, text
  if not _UNIT.fullmatch(text):
    return None
  words = text.replace("/", " ").split()
  if any(_SCALES.fullmatch(w.lower().rstrip("23²³^")) for w in words):
    return None
  if (
    len(words[0].rstrip("23²³^")) == 1 and words[0][0] not in _ONE_LETTER_UNITS
  ):
    return None
  return False, text
