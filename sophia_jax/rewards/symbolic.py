"""Equality of formulas, equations and orders, by values of many digits.

Nothing is simplified: `simplify` hangs on formulas of physics and draws random
numbers. Two formulas are equal if their difference vanishes at fixed points, to
hundreds of digits; rational numbers are compared exactly. Only workers load
this module.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator

import sympy
from sympy.parsing.latex import parse_latex
from sympy.parsing.latex.errors import LaTeXParsingError

from sophia_jax.rewards.latex import Expression, Undefined, Unreadable, read

FAILURES = (
  LaTeXParsingError,
  sympy.SympifyError,
  sympy.PolynomialError,
  ArithmeticError,
  AttributeError,
  LookupError,
  NotImplementedError,
  TypeError,
  ValueError,
)
"""Errors of sympy where it cannot read or compute what was written."""

_FOR_SYMPY = re.compile(r"\\(?:int|sum|prod|lim)(?![A-Za-z])|\\frac ?\{d\}")
_NEVER = re.compile(r"\\text|%|\\mathbb|\\begin|\\infty|_\{[^{}]*[^\w{}=]")
_CONSTANTS = {sympy.Symbol("pi"): sympy.pi, sympy.Symbol("e"): sympy.E}
_DIGITS = 300
"""Digits to which a difference is computed before it counts as nought."""
_NOUGHT = sympy.Float("1e-200", 20)
_FLOOR = sympy.Float("1e-250", 20)
_FOLDED = (
  *(sympy.Abs, sympy.floor, sympy.ceiling, sympy.Max, sympy.Min, sympy.sign),
)
"""Functions in pieces: equal at one side of a fold says nothing of the other."""


@functools.lru_cache(maxsize=1000)  # one gold answer meets many answers
def parse(text: str) -> Expression | None:
  """Returns the tree of a spelled formula; None if it is none or undefined."""
  try:
    return read(text)
  except Undefined:
    return None
  except Unreadable:
    return _parse_calculus(text)
  except FAILURES:
    return None


def _parse_calculus(text: str) -> Expression | None:
  """Returns integrals, sums, limits and derivatives, computed, or None.

  Bounds and limits at infinity are left out: what sympy makes of them is not
  always finite where it says so.
  """
  if not _FOR_SYMPY.search(text) or _NEVER.search(text):
    return None
  try:
    tree = parse_latex(text).subs(_CONSTANTS).doit()
  except FAILURES:
    return None
  undefined = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
  return (
    tree if isinstance(tree, sympy.Expr) and not tree.has(*undefined) else None
  )


def equal(gold: Expression, answer: Expression) -> bool:
  """Returns whether two formulas have the same value everywhere.

  Symbols stand for positive numbers unless there is |x| or the like:
  sqrt(a) sqrt(b) is sqrt(ab).
  """
  if gold == answer:
    return True
  if gold.is_Rational and answer.is_Rational:
    return False
  try:
    return all(
      _vanishes_at(point, gold - answer, gold, answer)
      for point in _points(gold, answer)
    )
  except FAILURES:
    return False


def multiples(gold: Expression, answer: Expression) -> bool:
  """Returns whether gold = 0 and answer = 0 differ by a factor only.

  Denominators are multiplied out first: y/x = 2 is y = 2x.
  """
  try:
    one, other = (
      sympy.fraction(sympy.together(tree))[0] for tree in (gold, answer)
    )
    if not (one.free_symbols and other.free_symbols):
      return False  # x = x+1 says nothing of y = y+2
    return constant_ratio(one, other) is not None
  except FAILURES:
    return False


def constant_ratio(gold: Expression, answer: Expression) -> float | None:
  """Returns gold / answer where that is one real number other than 0."""
  first = None
  try:
    for point in _points(gold, answer):
      one, other = (
        tree.evalf(_DIGITS, subs=point, maxn=2 * _DIGITS)
        for tree in (gold, answer)
      )
      if not (_is_value(one) and _is_value(other)):
        return None
      first = first or (one, other)
      left, right = one * first[1], first[0] * other
      if not abs(left - right) <= _NOUGHT * abs(left):
        return None
    if first is None:
      return None
    ratio = sympy.N(first[0] / first[1])
    return float(ratio) if ratio.is_real else None
  except FAILURES:
    return None


def _is_value(value: Expression) -> bool:
  """Returns whether it is a finite number other than 0."""
  return bool(value.is_number and value.is_finite and abs(value) > _FLOOR)


def _vanishes_at(
  point: dict[Expression, Expression],
  difference: Expression,
  gold: Expression,
  answer: Expression,
) -> bool:
  """Returns whether the difference is nought, beside what it is one of."""
  if difference == 0:
    return True
  left = difference.evalf(15, subs=point, maxn=_DIGITS)
  if not (left.is_number and left.is_finite):
    return False
  sizes = [abs(t.evalf(15, subs=point, maxn=_DIGITS)) for t in (gold, answer)]
  if not all(size.is_number and size.is_finite for size in sizes):
    return False
  size = abs(left)
  if size <= _NOUGHT * max(sizes):
    return True
  return bool(max(sizes) <= _FLOOR) and all(
    _is_nought(tree, point) for tree in (gold, answer)
  )


def _is_nought(tree: Expression, point: dict[Expression, Expression]) -> bool:
  """Returns whether it gets smaller with every digit: 0, but not exp(-1000)."""
  few, many = (
    abs(tree.evalf(15, subs=point, maxn=digits))
    for digits in (_DIGITS, 2 * _DIGITS)
  )
  return bool(many == 0 or many <= _NOUGHT * few)


def _points(
  gold: Expression, answer: Expression
) -> Iterator[dict[Expression, Expression]]:
  """Yields values of the symbols, the same for the same formulas.

  Rational numbers, so that nothing is rounded; on both sides of folds.
  """
  symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
  if not symbols:
    yield {}
    return
  folded = gold.has(*_FOLDED) or answer.has(*_FOLDED)
  ranges = [(300, 3000), (300, 3000), (2000, 9000)]
  if folded:
    ranges += [(-3000, -300), (-(10**7), -(10**6)), (10**6, 10**7)]
  rng = random.Random(0)
  for low, high in ranges:
    yield {
      symbol: sympy.Rational(1000 * rng.randint(low, high) + 7, 1_000_003)
      for symbol in symbols
    }
  for turn in (1, -1) if folded else ():  # |x| + |y| is not |x + y|
    yield {
      symbol: turn * (-1) ** i * sympy.Rational(rng.randint(300, 3000), 7)
      for i, symbol in enumerate(symbols)
    }
