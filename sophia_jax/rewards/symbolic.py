"""The part of the olympiad judge that needs sympy; only workers load it.

LaTeX is read by sympy's own parser, as by OpenBMB's judge; it builds trees and
computes nothing. Computing with a tree may take for ever: the worker is killed
then.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.parsing.latex import parse_latex
from sympy.parsing.latex.errors import LaTeXParsingError

from sophia_jax.rewards.number import REL_TOL

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
"""What sympy raises where it cannot read or compute what was written."""

MAX_POWER = 1000
"""The largest exponent that is computed, of a number by a number."""

Expression = Any
"""A sympy tree; sympy has no types."""

_CONSTANTS = {
  sympy.Symbol("pi"): sympy.pi,
  sympy.Symbol("e"): sympy.E,
}
_POINTS = 3
_DIGITS = 30
_ZERO = 1e-9


@functools.lru_cache(maxsize=1000)  # one gold answer meets many answers
def parse(latex: str) -> Expression | None:
  """The unevaluated tree of `latex`, or None if it is no formula."""
  try:
    return parse_latex(latex)
  except FAILURES:
    return None


def _or_no(
  equal: Callable[..., bool],
) -> Callable[..., bool]:
  """What sympy cannot compute is not equal."""

  @functools.wraps(equal)
  def checked(*args: Any, **kwargs: Any) -> bool:
    try:
      return bool(equal(*args, **kwargs))
    except FAILURES:
      return False

  return checked


def computable(expression: Expression) -> bool:
  """False where a power of numbers is too large to be computed."""
  powers = [p for p in expression.atoms(sympy.Pow) if p.is_number]
  # Inner powers come first, so that no exponent is computed unchecked.
  for power in sorted(powers, key=lambda p: len(str(p))):
    if not abs(power.exp.evalf()) <= MAX_POWER:
      return False
  return True


# ----------------------------------------------------------- as OpenBMB's judge
@_or_no
def close_upstream(
  gold: Expression, answer: Expression, tolerance: float, vanishing: float
) -> bool:
  """Constants within `tolerance`; what has symbols if the difference, once
  simplified, is below `vanishing`. Trees are not evaluated before: x-x has a
  symbol.
  """
  if gold == answer:
    return True
  pi = {sympy.Symbol("pi"): sympy.pi}
  gold, answer = gold.subs(pi), answer.subs(pi)
  # Bound ones too: an integral from 0 to 1 has a symbol.
  if gold.has(sympy.Symbol) != answer.has(sympy.Symbol):
    return False
  if gold.has(sympy.Symbol):
    left = sympy.simplify(gold - answer)
    return bool(left.is_number and abs(left.evalf()) < vanishing)
  if not (computable(gold) and computable(answer)):
    return False
  return bool(abs(gold.evalf() - answer.evalf()) <= tolerance)


@_or_no
def multiples_upstream(gold: Expression, answer: Expression) -> bool:
  """One is an integer, not 0, times the other."""
  for left, right in ((gold, answer), (answer, gold)):
    ratio = sympy.simplify(left / right)
    if ratio.is_Integer and ratio != 0:
      return True
  return False


# ------------------------------------------------------------------------- ours
@_or_no
def close(gold: Expression, answer: Expression, tolerance: float) -> bool:
  """Constants within `tolerance` or REL_TOL; others equal everywhere.

  e is Euler's number. Symbols stand for positive numbers unless |x| is written:
  sqrt(a) sqrt(b) is sqrt(ab).
  """
  if gold == answer:
    return True
  if not (computable(gold) and computable(answer)):
    return False
  gold, answer = _ground(gold), _ground(answer)
  if isinstance(gold, Relational) or isinstance(answer, Relational):
    return _same_relation(gold, answer)
  if gold.free_symbols or answer.free_symbols:
    return _equal_everywhere(gold, answer)
  one, other = gold.evalf(_DIGITS), answer.evalf(_DIGITS)
  return bool(abs(one - other) <= max(tolerance, float(REL_TOL) * abs(one)))


@_or_no
def multiples(gold: Expression, answer: Expression) -> bool:
  """Whether gold = 0 and answer = 0 are one equation but for a factor.

  Denominators are multiplied out first: y/x = 2 is y = 2x.
  """
  if not (computable(gold) and computable(answer)):
    return False
  one, other = (
    sympy.fraction(sympy.together(_ground(e)))[0] for e in (gold, answer)
  )
  return _constant_ratio(one, other) is not None


def _ground(expression: Expression) -> Expression:
  """Constants and integrals computed; f(x) is a symbol like any other."""
  return (
    expression.replace(
      lambda e: isinstance(e, AppliedUndef), lambda e: sympy.Symbol(str(e))
    )
    .subs(_CONSTANTS)
    .doit()
  )


def _same_relation(gold: Expression, answer: Expression) -> bool:
  """Inequalities: the same sign of a positive multiple."""
  if type(gold) is type(answer) and isinstance(gold, sympy.Ne):
    return (
      _constant_ratio(gold.lhs - gold.rhs, answer.lhs - answer.rhs) is not None
    )
  sides = (sympy.core.relational._Greater, sympy.core.relational._Less)
  if not (isinstance(gold, sides) and isinstance(answer, sides)):
    return False
  strict = (sympy.StrictGreaterThan, sympy.StrictLessThan)
  if isinstance(gold, strict) is not isinstance(answer, strict):
    return False
  ratio = _constant_ratio(gold.gts - gold.lts, answer.gts - answer.lts)
  return ratio is not None and ratio > 0


def _equal_everywhere(gold: Expression, answer: Expression) -> bool:
  for one, other in _values(gold, answer):
    if not (one.is_number and other.is_number and one.is_finite):
      return sympy.simplify(gold - answer) == 0
    if not abs(one - other) <= _ZERO * max(abs(one), abs(other)):
      return False
  return True


def _constant_ratio(gold: Expression, answer: Expression) -> float | None:
  """gold / answer where that is one number other than 0 everywhere."""
  ratios = []
  for one, other in _values(gold, answer):
    if not (one.is_number and other.is_number) or one == 0 or other == 0:
      return None
    ratios.append(one / other)
  first = ratios[0]
  if all(abs(r - first) <= _ZERO * abs(first) for r in ratios):
    return float(sympy.re(first))
  return None


def _values(
  gold: Expression, answer: Expression
) -> Iterator[tuple[Expression, Expression]]:
  """Both at the same points, chosen at random and always the same."""
  symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
  negative = gold.has(sympy.Abs) or answer.has(sympy.Abs)
  rng = random.Random(0)
  for i in range(_POINTS):
    sign = -1 if negative and i % 2 else 1
    point = {s: sign * sympy.Float(rng.uniform(0.3, 3.0)) for s in symbols}
    yield tuple(e.evalf(_DIGITS, subs=point) for e in (gold, answer))
