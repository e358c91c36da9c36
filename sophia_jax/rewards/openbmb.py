r"""OpenBMB's judge of OlympiadBench as it decides, quirks included.

Written from a description of its `AutoScoringJudge` (He et al. 2024, arXiv
2402.14008), so that published numbers can be compared. `judge` decides better;
`Verifier(upstream_compatible=True)` asks this one. Only workers load this
module: it needs sympy and may hang.

Quirks, each in the function named:
  openbmb_text.prepare: 5! is 5, 1,000 is two answers.
  openbmb_text.split: any two answers in Chinese are equal.
  _tolerances: 1 % wider; a list that is too short is no answer right.
  _interval: (1,2) is (1,2,3); unions must be in the same order.
  _number: 50 is 0.5.
  _expression: x + 0.0005 is x; e is a symbol; 3.00000001 is 3.
  _equation: 2x + 2y = 2 is not 3x + 3y = 3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import sympy
from sympy.parsing.latex import parse_latex

from sophia_jax.rewards import openbmb_text
from sophia_jax.rewards.latex import Expression
from sophia_jax.rewards.reading import bracketed
from sophia_jax.rewards.symbolic import FAILURES
from sophia_jax.status import Status

MAX_POWER = 1000
"""Largest exponent that is computed, of a number by a number."""
_VANISHING = 1e-3
"""A difference of formulas below this is none."""


def judge(gold: str, answer: str, tolerance: Sequence[float] = ()) -> Status:
  """Returns RIGHT if every gold item equals an answer item, each another one.

  Args:
    tolerance: absolute, of numbers: one for all items or one for each.
  """
  wanted, found = map(openbmb_text.prepare, (gold, answer))
  if wanted is None or found is None:
    return Status.WRONG
  if wanted == found:
    return Status.RIGHT
  golds, answers = map(openbmb_text.split, (wanted, found))
  slacks = _tolerances(tolerance, len(golds))
  if not len(answers) == len(golds) == len(slacks):
    return Status.WRONG
  for one, slack in zip(golds, slacks, strict=True):
    for i, other in enumerate(answers):
      if any(same(one, other, slack) for same in _KINDS):
        del answers[i]
        break
    else:
      return Status.WRONG
  return Status.RIGHT


def _tolerances(tolerance: Sequence[float], count: int) -> list[float]:
  """Returns 1e-8 where none is stated, all 1 % wider; too few are too few."""
  stated = [t or 1e-8 for t in tolerance] or [1e-8]
  each = stated * count if len(stated) == 1 else stated[:count]
  return [1.01 * t for t in each]


# ------------------------------------------------------------------------- items
def _text(gold: str, answer: str, slack: float) -> bool:
  return gold == answer


def _interval(gold: str, answer: str, slack: float) -> bool:
  """Compares unions in the order they are written; (1,2) is (1,2,3)."""
  if not (bracketed(gold) and bracketed(answer)):
    return False
  golds, answers = gold.split(r"\cup"), answer.split(r"\cup")
  if len(golds) != len(answers):
    return False
  for one, other in zip(golds, answers, strict=True):
    one, other = one.strip(), other.strip()
    if (one[:1], one[-1:]) != (other[:1], other[-1:]):
      return False
    ends = zip(one[1:-1].split(","), other[1:-1].split(","))
    if not all(_expression(a, b, slack) for a, b in ends):
      return False
  return True


def _number(gold: str, answer: str, slack: float) -> bool:
  """Accepts a hundred times too little or too much, as of a percentage."""
  try:
    wanted, found = float(gold), float(answer)
  except ValueError:
    return False
  scaled = (wanted / 100, wanted, wanted * 100)
  return any(abs(value - found) <= slack for value in scaled)


def _formula(gold: str, answer: str, slack: float) -> bool:
  if "=" in gold and "=" in answer:
    return False
  return _expression(gold, answer, slack)


def _expression(gold: str, answer: str, slack: float) -> bool:
  """Compares right-hand sides; with symbols, if they differ by less than 1e-3.

  Constants are compared within `slack`. Trees are not evaluated before: x-x
  has a symbol, an integral from 0 to 1 has one, too.
  """
  one, other = (_parse(_right_side(t)) for t in (gold, answer))
  if one is None or other is None:
    return False
  try:
    return _close(one, other, slack)
  except FAILURES:
    return False


def _close(gold: Expression, answer: Expression, slack: float) -> bool:
  if gold == answer:
    return True
  pi = {sympy.Symbol("pi"): sympy.pi}
  gold, answer = gold.subs(pi), answer.subs(pi)
  if gold.has(sympy.Symbol) != answer.has(sympy.Symbol):
    return False
  if gold.has(sympy.Symbol):
    left = sympy.simplify(gold - answer)
    return bool(left.is_number and abs(left.evalf()) < _VANISHING)
  if not (_computable(gold) and _computable(answer)):
    return False
  return bool(abs(gold.evalf() - answer.evalf()) <= slack)


def _equation(gold: str, answer: str, slack: float) -> bool:
  """Accepts an integer times the other: 2x = 2 is x = 1 but not 3x = 3."""
  one, other = _difference(gold), _difference(answer)
  if one is None or other is None:
    return False
  try:
    ratios = [sympy.simplify(a / b) for a, b in ((one, other), (other, one))]
  except FAILURES:
    return False
  return any(bool(ratio.is_Integer and ratio != 0) for ratio in ratios)


_KINDS = (_text, _interval, _number, _formula, _equation)
"""Tried in this order; one that says yes is enough."""


# --------------------------------------------------------------------- formulas
@functools.lru_cache(maxsize=1000)  # one gold answer meets many answers
def _parse(latex: str) -> Expression | None:
  """Returns the unevaluated tree of `latex`, or None if it is no formula."""
  try:
    return parse_latex(latex)
  except FAILURES:
    return None


def _right_side(text: str) -> str:
  """Returns what follows the first "="; all of it if there is none."""
  return text.split("=")[1] if "=" in text else text


def _difference(equation: str) -> Expression | None:
  """Returns left - right of a text with one "="."""
  sides = [_parse(side) for side in equation.split("=")]
  if len(sides) != 2 or sides[0] is None or sides[1] is None:
    return None
  return sides[0] - sides[1]


def _computable(expression: Expression) -> bool:
  """Returns False where a power of numbers is too large to be computed."""
  powers = [p for p in expression.atoms(sympy.Pow) if p.is_number]
  # Inner powers come first, so that no exponent is computed unchecked.
  for power in sorted(powers, key=lambda p: len(str(p))):
    if not abs(power.exp.evalf()) <= MAX_POWER:
      return False
  return True
