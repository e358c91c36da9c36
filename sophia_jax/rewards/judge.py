r"""Judges formulas: the answer types `math` and `olympiad`.

An answer is read into items (`reading`); every gold item must equal an answer
item, each another one. Items are compared as what they are: words, numbers
with units, ratios, matrices, tuples, sets (`regions`), orders, equations,
formulas (`symbolic`). Relations are compared as relations: only a bare name
(x, S_{max}, f(2)) before "=" may be missing. In doubt an answer is wrong.

Only workers load this module: it needs sympy and may hang.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from sophia_jax.rewards import symbolic
from sophia_jax.rewards.latex import Expression
from sophia_jax.rewards.notation import bare_words, squeeze
from sophia_jax.rewards.number import (
  Number,
  agree,
  equal_numbers,
  parse_number,
  slack_of_each,
  stands_for,
)
from sophia_jax.rewards.reading import (
  ORDERS,
  Statement,
  at_top,
  bracketed,
  cut_qualifier,
  interval,
  matrix,
  prepare,
  prepare_gold,
  readings,
  split,
  statement,
)
from sophia_jax.rewards.regions import same_region
from sophia_jax.rewards.text import normalise
from sophia_jax.rewards.units import read_unit, same_unit
from sophia_jax.status import Status

_LESS = re.compile(r"[<>]|\\(?:le|ge)(?![A-Za-z])")


def judge(gold: str, answer: str, tolerance: Sequence[float] = ()) -> Status:
  """Returns RIGHT if the items of the answer are those of the gold answer.

  Args:
    tolerance: absolute, of numbers: one for all items or one for each.
  """
  wanted, found = prepare_gold(gold), prepare(answer)
  if wanted is None or found is None:
    return Status.UNPARSEABLE if found is None else Status.WRONG
  if squeeze(wanted) == squeeze(found):
    return Status.RIGHT
  (wanted, qualifier), (found, other) = map(cut_qualifier, (wanted, found))
  if qualifier.contradicts(other):
    return Status.WRONG
  if same_region(wanted, found):
    return Status.RIGHT
  if _joined_otherwise(wanted, found):
    return Status.WRONG
  for golds in readings(wanted):
    slacks = slack_of_each(tolerance, len(golds))
    for answers in readings(found):
      if same_items(golds, answers, slacks):
        return Status.RIGHT
  return Status.WRONG if _is_readable(found) else Status.UNPARSEABLE


def _joined_otherwise(one: str, other: str) -> bool:
  """Returns whether "or" joins the orders of one line, "and" the other's."""
  if not _LESS.search(one + other):
    return False
  joins = [
    {mark for mark in (r"\lor", r"\land") if len(at_top(line, (mark,))) > 1}
    for line in (one, other)
  ]
  return all(joins) and joins[0] != joins[1]


def _is_readable(line: str) -> bool:
  """Returns whether a word, a number or a formula is in the answer."""
  for item in readings(line)[0]:
    for part in statement(item).parts:
      places = interval(part)
      for place in places.places if places else [part]:
        known = parse_number(place) or _words(place) or matrix(place)
        if known or symbolic.parse(_without_unit(place).text) is not None:
          return True
  return False


def same_items(
  golds: Sequence[str], answers: Sequence[str], slacks: Sequence[float]
) -> bool:
  """Returns whether each gold item equals an answer item, each another one.

  Items in the given order where the answer lacks the names of a gold answer
  with several, x=3, y=5, and where a list is cut short by dots.
  """
  names = [statement(gold).name for gold in golds]
  if len(golds) > 1 and len(set(names)) == len(names) and all(names):
    places = interval(answers[0]) if len(answers) == 1 else None
    answers = places.places if places else answers
    in_order = not all(statement(answer).name for answer in answers)
  else:
    in_order = any(r"\ldots" in gold for gold in golds)
  if len(answers) != len(golds):
    return False
  if in_order:
    return all(map(same_item, golds, answers, slacks))
  left = list(answers)
  for gold, slack in zip(golds, slacks, strict=True):
    for i, answer in enumerate(left):
      if same_item(gold, answer, slack):
        del left[i]
        break
    else:
      return False
  return True


def same_item(gold: str, answer: str, slack: float = 0.0) -> bool:
  """Returns whether two items say the same."""
  if squeeze(gold) == squeeze(answer):
    return True
  one, other = statement(gold), statement(answer)
  if one.has_order or other.has_order:
    return same_region(gold, answer) or _same_orders(one, other)
  if _share_a_value(one, other, slack):
    return True
  return _same_equation(one, other)


def _share_a_value(one: Statement, other: Statement, slack: float) -> bool:
  """Compares what follows a name, the same name if both have one."""
  if one.name and other.name and one.name != other.name:
    return False
  golds, answers = _values(one), _values(other)
  return any(
    same_value(gold, answer, slack) for gold in golds for answer in answers
  )


def _values(said: Statement) -> list[str]:
  r"""Returns what a statement gives as its value: one text, or two spellings.

  S = ab/2 = 6 gives 6; 22/7 \approx 3.14 gives both. An equation, 2x = 5, gives
  none, and so does a chain whose constants differ, S = 6 = 7.
  """
  parts, relations = said.parts, said.relations
  if said.name:
    parts, relations = parts[1:], relations[1:]
  elif len(parts) > 1 and not all(_constant(p) is not None for p in parts):
    return []
  exact = [parts[0]]
  rounded: list[str] = []
  for part, relation in zip(parts[1:], relations, strict=True):
    if relation not in ("=", r"\approx"):
      return []
    (rounded if relation == r"\approx" or rounded else exact).append(part)
  constants = [part for part in exact if _constant(part) is not None]
  if any(not same_value(constants[0], c) for c in constants[1:]):
    return []
  if not all(_rounds_to(exact[-1], part) for part in rounded):
    return []
  return [exact[-1], *rounded]


def _constant(text: str) -> Expression | None:
  tree = symbolic.parse(_without_unit(text).text)
  return tree if tree is not None and not tree.free_symbols else None


def _rounds_to(exact: str, decimal: str) -> bool:
  """Returns whether a decimal is a value to the places it is given to."""
  number, value = parse_number(decimal), _constant(exact)
  if number is None or value is None:
    return False
  ulp = number.ulp if number.ulp is not None else Fraction(1)
  try:
    return stands_for(number.value, Fraction(str(value.evalf(40))), ulp)
  except symbolic.FAILURES:
    return False


# ----------------------------------------------------------------------- values
def same_value(gold: str, answer: str, slack: float = 0.0) -> bool:
  """Returns whether two values without relations are equal."""
  if squeeze(gold) == squeeze(answer):
    return True
  for same in _KINDS:
    verdict = same(gold, answer, slack)
    if verdict is not None:
      return verdict
  return _same_formula(gold, answer, slack)


def _same_words(gold: str, answer: str, _: float) -> bool | None:
  words = _words(gold), _words(answer)
  return words[0] == words[1] if any(words) else None


def _words(text: str) -> str:
  r"""Returns text in words, normalised; "" for a formula.

  Words are \text{...} alone, several words, or one that is no product.
  """
  plain = bare_words(text).strip()
  if not re.fullmatch(r"[^\W\d_]+(?:[ '-]+[^\W\d_]+)*\.?", plain):
    return ""
  marked = text.startswith(r"\text{")
  is_chinese = bool(re.search("[\u4e00-\u9fff]", plain))
  longest = max(map(len, plain.split()))
  sure = (marked and longest > 1) or longest > 4 or is_chinese
  known = {"yes", "no", "true", "none", "even", "odd", "both"}
  return normalise(plain) if sure or plain.lower() in known else ""


def _same_numbers(gold: str, answer: str, slack: float) -> bool | None:
  one, other = parse_number(gold), parse_number(answer)
  if one is not None and other is not None:
    return same_number(one, other, slack)
  in_base = any(n is not None and n.base != 10 for n in (one, other))
  return False if in_base else None


def same_number(gold: Number, answer: Number, slack: float) -> bool:
  """Compares numbers with units. An answer may add a unit to a bare number.

  It may lack one that is sure; a letter behind the gold number may be a
  variable (2m) and must be there.
  """
  if gold.unit and not gold.sure_unit and gold.unit != answer.unit:
    return False
  if not gold.unit and answer.unit and not answer.sure_unit:
    return False
  return equal_numbers(gold, answer, slack)


_OF_ANGLES = re.compile(r"(?<!arc)(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


class _Measured(NamedTuple):
  text: str
  unit: str = ""


def _without_unit(text: str) -> _Measured:
  r"""Splits 2\sqrt{3} \text{ cm}; an unmarked unit needs a space and letters.

  The degrees of \sin 30° belong to the function.
  """
  marked = re.search(r"(?:\\text\{[^{}]*\}|°|[\u4e00-\u9fff]).*$", text)
  bare = re.search(
    r"(?:(?<=[\d})])\s*|(?<=\\pi) )([A-Za-zμΩ]{2,}(?:[/^{}\d A-Za-z-]*))$",
    text,
  )
  for match in (marked, bare):
    if match and text[: match.start()].strip():
      if match[0] == "°" and _OF_ANGLES.search(text):
        continue
      unit = read_unit(match[0], always_a_unit=match is marked)
      if unit is not None and unit.is_sure:
        return _Measured(text[: match.start()].strip(), unit.name)
  return _Measured(text)


def _same_formula(gold: str, answer: str, slack: float) -> bool:
  """Compares formulas, of constants within `slack` or as a decimal is written.

  An infinity that the gold answer has not is wrong, whatever sympy makes of it.
  """
  one, other = _without_unit(gold), _without_unit(answer)
  if not same_unit(one.unit, other.unit) or _are_other_angles(one, other):
    return False
  if r"\infty" in gold + answer:
    return _sign_of_infinity(gold) == _sign_of_infinity(answer) != ""
  trees = [symbolic.parse(text) for text in (one.text, other.text)]
  wanted, found = trees
  if wanted is None or found is None:
    return False
  if symbolic.equal(wanted, found):
    return True
  if wanted.free_symbols or found.free_symbols:
    return False
  numbers = [parse_number(text) for text in (one.text, other.text)]
  ulps = [None if number is None else number.ulp for number in numbers]
  if not slack and not any(ulps):
    return False
  try:
    values = [Fraction(str(tree.evalf(40))) for tree in (wanted, found)]
  except symbolic.FAILURES:
    return False
  return agree(values[0], values[1], ulps, Fraction(str(slack)))


def _are_other_angles(one: _Measured, other: _Measured) -> bool:
  r"""Returns whether degrees stand against radians: a bare \pi/6 is no pi/6 °."""
  return {one.unit, other.unit} == {"°", ""} and any(
    not said.unit and r"\pi" in said.text for said in (one, other)
  )


def _sign_of_infinity(text: str) -> str:
  found = re.fullmatch(r"([+-]?)\s*\\infty", text.strip())
  return (found[1] or "+") if found else ""


# --------------------------------------------------------------------- structures
def _same_rows(gold: str, answer: str, slack: float) -> bool | None:
  """Compares matrices place by place."""
  golds, answers = matrix(gold), matrix(answer)
  if golds is None and answers is None:
    return None
  if golds is None or answers is None:
    return False
  if [len(row) for row in golds] != [len(row) for row in answers]:
    return False
  return all(
    same_item(a, b, slack)
    for one, other in zip(golds, answers, strict=True)
    for a, b in zip(one, other, strict=True)
  )


_HALF_OF_DAY = re.compile(
  r"\s*(?:\\text\{)?(?<![A-Za-z])([ap])\.? ?m\.?\}?$", re.IGNORECASE
)
_CLOCK = re.compile(r"\d{1,2}:[0-5]\d(?::[0-5]\d)?")


def _same_ratio(gold: str, answer: str, _: float) -> bool | None:
  """Compares 3:2 with 6:4 or 3/2; times of the clock place by place."""
  if not any(at_top(text, (":",))[1:] for text in (gold, answer)):
    return None
  halves = [_HALF_OF_DAY.findall(t.lower()) for t in (gold, answer)]
  if all(halves) and halves[0] != halves[1]:
    return False
  gold, answer = (_HALF_OF_DAY.sub("", text) for text in (gold, answer))
  golds, answers = at_top(gold, (":",)), at_top(answer, (":",))
  clock = any(_CLOCK.fullmatch(text.strip()) for text in (gold, answer))
  if clock and len(golds) == len(answers):
    return all(map(same_value, golds, answers))
  trees: list[list[Expression]] = [
    [symbolic.parse(part) for part in parts] for parts in (golds, answers)
  ]
  if clock or any(t is None or t == 0 for parts in trees for t in parts):
    return False
  for parts in trees:
    if len(parts) == 1:
      parts.append(parts[0] / parts[0])
  (first, *golds_left), (second, *answers_left) = trees
  return len(golds_left) == len(answers_left) and all(
    symbolic.equal(a * second, b * first)
    for a, b in zip(golds_left, answers_left, strict=True)
  )


def _same_sets(gold: str, answer: str, slack: float) -> bool | None:
  if not (gold.startswith(r"\{") and answer.startswith(r"\{")):
    return None
  golds, answers = split(gold), split(answer)
  one_each = golds != [gold] and answers != [answer]
  return one_each and same_items(golds, answers, [slack] * len(golds))


def _same_fenced(gold: str, answer: str, slack: float) -> bool | None:
  """Compares tuples, intervals and unions of them place by place.

  Parts of a union are in any order. None: formulas in brackets, (x+1)(x-1).
  """
  if not (bracketed(gold) or bracketed(answer) or r"\cup" in gold + answer):
    return None
  golds, answers = at_top(gold, (r"\cup",)), at_top(answer, (r"\cup",))
  if len(golds) != len(answers):
    return False
  if len(golds) > 1:
    return same_items(golds, answers, [slack] * len(golds))
  one, other = interval(gold), interval(answer)
  if one is None and other is None:
    return None
  if one is None or other is None or len(one.places) != len(other.places):
    return False
  return one.brackets == other.brackets and all(
    same_item(a, b, slack)
    for a, b in zip(one.places, other.places, strict=True)
  )


_KINDS: tuple[Callable[[str, str, float], bool | None], ...] = (
  _same_words,
  _same_numbers,
  _same_rows,
  _same_ratio,
  _same_sets,
  _same_fenced,
)
"""Comparisons by kind of value, in their order; None: values of another kind."""


# -------------------------------------------------------------------- relations
def _same_equation(one: Statement, other: Statement) -> bool:
  """Compares two equations: one is a multiple of the other."""
  if not (one.relations == other.relations == ["="]):
    return False
  trees = [_difference(*said.parts) for said in (one, other)]
  if trees[0] is None or trees[1] is None:
    return False
  return symbolic.multiples(trees[0], trees[1])


_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def _same_orders(one: Statement, other: Statement) -> bool:
  """Compares orders: the same signs between the same parts, either way round.

  Of two parts: one difference is a positive multiple of the other.
  """
  if not (one.has_order and other.has_order):
    return False
  if not (all(one.parts) and all(other.parts)):
    return False  # a sign alone: > is not <
  one, other = _rising(one), _rising(other)
  if one.relations != other.relations or not ORDERS.issuperset(one.relations):
    return False
  if all(map(same_value, one.parts, other.parts)):
    return True
  if len(one.parts) != 2:
    return False
  trees = [_difference(*said.parts) for said in (one, other)]
  if trees[0] is None or trees[1] is None:
    return False
  ratio = symbolic.constant_ratio(trees[0], trees[1])
  return ratio is not None and (ratio > 0 or one.relations == [r"\ne"])


def _rising(said: Statement) -> Statement:
  """Returns the same orders with < and <= only, if all point one way."""
  if {">", r"\ge"}.isdisjoint(said.relations):
    return said
  return Statement(
    said.parts[::-1], [_TURNED.get(r, r) for r in said.relations[::-1]]
  )


def _difference(left: str, right: str) -> Expression | None:
  sides = [symbolic.parse(_without_unit(side).text) for side in (left, right)]
  if sides[0] is None or sides[1] is None:
    return None
  return sides[0] - sides[1]
