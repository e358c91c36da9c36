r"""Reads one number out of a short answer, exactly and within bounds.

Decimals, thousands separators, scientific notation, fractions (a/b, \frac),
mixed numbers, percent, a base as a subscript, a unit behind the number. Nothing
is evaluated: a product, a root or a power is not a number here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sophia_jax.rewards.notation import bare_words, spell
from sophia_jax.rewards.units import Unit, read_unit, same_unit

REL_TOL = Fraction(1, 10**6)
"""Largest relative error of a decimal that stands for another number."""

MAX_DIGITS = 60
MAX_EXPONENT = 300
MAX_UNIT_WORDS = 4

# Matched against text of at most ANSWER_CHARS characters; a digit run belongs
# to one group only, so there is nothing to backtrack into.
_SIGN = r"(?P<sign>[+-]?) ?"
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_SCIENCE = re.compile(
  _SIGN + rf"(?P<base>{_DECIMAL})(?:[eE](?P<exp>[+-]?\d{{1,4}})"
  r"| ?(?:\\times|\\cdot|[xX*]) ?10 ?(?:\^|\*\*) ?[{(]? ?(?P<pow>[+-]?\d{1,4})"
  r" ?[})]?)?"
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
  r"(?:\{ ?(?P<den>-?[\d.]+) ?\}|(?P<d1>\d))(?P<rest>.*)",
  re.DOTALL,
)
_BASED = re.compile(
  _SIGN + r"(?P<digits>[0-9A-Z]+|\([0-9A-Z]+\)) ?_ ?"
  r"(?:(?P<b1>\d)|\{ ?\(?(?P<base>\d{1,2})\)? ?\})"
)
_BASE_WORDS = "two three four five six seven eight nine"
_BASES = {word: str(i) for i, word in enumerate(_BASE_WORDS.split(), 2)}
_REPEATING = re.compile(
  _SIGN + r"(?P<whole>\d*)\.(?P<fixed>\d*) ?\\(?:overline|dot) ?"
  r"\{(?P<cycle>\d{1,20})\}"
)
_SMALL = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: i for i, word in enumerate(_SMALL.split())} | {
  word: 10 * i for i, word in enumerate(_TENS.split(), 2)
}
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d/.,])")


@dataclass(frozen=True)
class Number:
  """Example: Number(Fraction(5, 2), ulp=Fraction(1, 10)) for "2.5"."""

  value: Fraction
  """Number as written: 50 for 50 %."""
  percent: bool = False
  unit: str = ""
  sure_unit: bool = True
  """False where the unit is one letter, which may be a variable."""
  ulp: Fraction | None = None
  """Unit in the last place of a decimal; None for an exact number."""
  base: int = 10


def parse_number(text: str) -> Number | None:
  """Returns the number that `text` is, or None. nan and inf are no numbers."""
  text = _SPACED.sub(lambda m: m[0].replace(" ", ""), spell(text))
  text = text.strip()
  if text.startswith("(") and text.endswith(")") and "," not in text:
    text = text[1:-1].strip()
  if (named := _in_words(bare_words(text).strip().lower())) is not None:
    return Number(Fraction(named))
  text = re.sub(r"_\{\\text\{([a-z]+)\}\}", _base_digit, text)
  if repeating := _REPEATING.fullmatch(text):
    return _repeated(repeating)
  if based := _BASED.fullmatch(text):
    return _in_base(based)
  for pattern, read in ((_SLASH, _ratio), (_FRAC, _ratio), (_SCIENCE, _scaled)):
    match = pattern.fullmatch(text)
    if match is None:
      continue
    magnitude, ulp = read(match)
    unit = _unit(match["rest"])
    if magnitude is None or unit is None:
      return None
    sign = -1 if match["sign"] == "-" else 1
    if unit.name == "%":
      return Number(sign * magnitude, percent=True, ulp=ulp)
    return Number(
      sign * magnitude, unit=unit.name, sure_unit=unit.is_sure, ulp=ulp
    )
  return None


def equal_numbers(gold: Number, answer: Number, tolerance: float = 0.0) -> bool:
  """Returns whether two numbers agree: exactly, or as decimals do.

  A percent sign on one side only: 0.5 is 50 %. A figure above 1 may lack its
  sign (50 for 50 %), but 0.25 is not 0.25 %. Units are compared where both
  sides have one, a percent sign being one, and bases always.

  Args:
    tolerance: stated by the problem, absolute.
  """
  if gold.base != answer.base or not same_unit(gold.unit, answer.unit):
    return False
  if gold.percent != answer.percent and (gold.unit or answer.unit):
    return False
  # 0.3 as it is written, not as a float holds it.
  slack = Fraction(str(tolerance))
  ulps = (gold.ulp, answer.ulp)
  if gold.percent == answer.percent:
    return agree(gold.value, answer.value, ulps, slack)
  if gold.percent:
    left, scaled = gold.value / 100, gold
    values = (left, answer.value, (_cent(gold.ulp), answer.ulp), slack / 100)
  else:
    right, scaled = answer.value / 100, answer
    values = (gold.value, right, (gold.ulp, _cent(answer.ulp)), slack)
  if agree(*values):
    return True
  return abs(scaled.value) > 1 and agree(gold.value, answer.value, ulps, slack)


def agree(
  gold: Fraction,
  answer: Fraction,
  ulps: Sequence[Fraction | None],
  slack: Fraction = Fraction(0),
) -> bool:
  """Returns whether two values are equal as far as they are written.

  Exact values must be equal. A decimal stands for what it is rounded or cut
  from if that differs by no more than `REL_TOL`: 0.333333 is 1/3, 0.3333 is
  not, and 3.14159266 is not 3.14159265.

  Args:
    ulps: unit in the last place of each decimal, None for exact values.
    slack: tolerance stated by the problem, absolute.
  """
  error = abs(answer - gold)
  if error <= slack:
    return True
  if error > REL_TOL * abs(gold) or ulps[0] is ulps[1] is None:
    return False
  if (ulps[0] or 0) > (ulps[1] or 0):
    return stands_for(gold, answer, ulps[0])
  return stands_for(answer, gold, ulps[1])


def stands_for(
  decimal: Fraction, value: Fraction, ulp: Fraction | None
) -> bool:
  """Returns whether a decimal is a value rounded, or cut, to its last place."""
  ulp = ulp or Fraction(0)
  error = abs(decimal - value)
  is_cut = error < ulp and abs(decimal) < abs(value)
  return error <= ulp / 2 or is_cut


def slack_of_each(tolerance: Sequence[float], count: int) -> list[float]:
  """Returns `Problem.tolerance` for each of `count` answers, 0 by default."""
  each = list(tolerance) if len(tolerance) > 1 else [*tolerance] * count
  return (each + [0.0] * count)[:count]


def _cent(ulp: Fraction | None) -> Fraction | None:
  return None if ulp is None else ulp / 100


def _fraction(digits: str) -> Fraction | None:
  digits = digits.replace(",", "")
  if len(digits) > MAX_DIGITS or digits.count(".") > 1 or not digits.isascii():
    return None
  if digits in ("", ".", "-", "-."):
    return None
  return Fraction(digits + "0" if digits.endswith(".") else digits)


def _scaled(match: re.Match[str]) -> tuple[Fraction | None, Fraction | None]:
  """Returns the value of a decimal and the unit in its last place."""
  base = _fraction(match["base"])
  written = match["exp"] or match["pow"]
  exponent = int(written or 0)
  if base is None or abs(exponent) > MAX_EXPONENT:
    return None, None
  scale = Fraction(10) ** exponent
  places = len(match["base"].partition(".")[2])
  is_decimal = places or written is not None
  ulp = scale / 10**places if is_decimal else None
  return base * scale, ulp


def _ratio(match: re.Match[str]) -> tuple[Fraction | None, None]:
  groups = match.groupdict()
  num = _fraction(groups["num"] or groups.get("n1") or "")
  den = _fraction(groups["den"] or groups.get("d1") or "")
  whole = _fraction(groups["whole"] or "0")
  if num is None or whole is None or not den:
    return None, None
  return whole + num / den, None


def _in_base(match: re.Match[str]) -> Number | None:
  """Returns the number whose base is its subscript."""
  base = int(match["base"] or match["b1"])
  digits = match["digits"].strip("()")
  if not 2 <= base <= 36 or len(digits) > MAX_DIGITS or not digits.isascii():
    return None
  try:
    value = int(digits, base)
  except ValueError:  # a digit that the base lacks
    return None
  sign = -1 if match["sign"] == "-" else 1
  return Number(Fraction(sign * value), base=base)


def _in_words(text: str) -> int | None:
  """Returns the number of "seven" or "twenty-one"."""
  tens, hyphen, ones = text.partition("-" if "-" in text else " ")
  one, other = _NUMBER_WORDS.get(tens), _NUMBER_WORDS.get(ones)
  if not hyphen or one is None or other is None:
    return _NUMBER_WORDS.get(text)
  return one + other if one >= 20 and 1 <= other <= 9 else None


def _base_digit(match: re.Match[str]) -> str:
  return f"_{{{_BASES.get(match[1], match[1])}}}"


def _repeated(match: re.Match[str]) -> Number | None:
  r"""Returns the value of 0.1\overline{6}."""
  fixed, cycle = match["fixed"], match["cycle"]
  start = _fraction(f"{match['whole'] or 0}.{fixed}0")
  if start is None:
    return None
  rest = Fraction(int(cycle), 10 ** len(cycle) - 1) / 10 ** len(fixed)
  return Number((start + rest) * (-1 if match["sign"] == "-" else 1))


def _unit(behind: str) -> Unit | None:
  """Returns the unit behind the digits; None if that is no unit."""
  text = behind.strip()
  if text.startswith("(") and not text.endswith(")"):
    return None
  if len(text.split()) > MAX_UNIT_WORDS + 4 or text[:1] == "^":
    return None
  if behind in ("K", "T"):  # 42K: thousands, not kelvins
    return None
  # "42 apples", but 42ab is a product.
  apart = behind[:1] in ("", " ", "\\") or not behind[:1].isascii()
  return read_unit(text, always_a_unit=apart)
