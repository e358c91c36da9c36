r"""Reads a formula in spelled LaTeX into a sympy tree, without evaluating text.

A recursive-descent parser of school and university notation: sums, products,
fractions, roots, powers, functions, factorials, binomials, absolute values,
subscripts and primes. Integrals, sums over an index, limits and derivatives are
left to sympy's own parser. Only workers load this module.

Two readings are chosen: 1/2x is 1/(2x), as in sympy's and OpenBMB's parser, and
3\frac{1}{2} is a mixed number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import sympy

Expression = Any
"""A sympy tree; sympy has no types."""


class Unreadable(ValueError):
  """The text is no formula of this grammar."""


class Undefined(ValueError):
  """The formula has no value: 1/0, 0^0, log 0."""


MAX_POWER = 1000
"""Largest exponent of an irrational number that is computed."""

MAX_BITS = 50_000
"""Size of the largest power of a rational number that is computed."""

_TOKEN = re.compile(
  r"\\text\{[^{}]*\}|\\mathbb\{[A-Z]\}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+"
  r"|\*\*|[A-Za-z]|\S"
)
_RAISED_FIRST = re.compile(
  r"([A-Za-z]) ?\^ ?(\d|\{[^{}]*\}) ?_ ?(\w|\{[^{}]*\})"
)
_FRACTION_OF_NUMBERS = re.compile(r"\\frac\{?\d+\}?\{?\d+\}?")
_GREEK_NAMES = (
  "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho"
  " sigma tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma"
  " Phi Psi Omega hbar ell odot triangle"
)
_GREEK = frozenset(_GREEK_NAMES.split())
_FUNCTIONS: dict[str, Callable[..., Expression]] = {
  "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot,
  "sec": sympy.sec, "csc": sympy.csc, "arcsin": sympy.asin, "tg": sympy.tan,
  "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh,
  "cosh": sympy.cosh, "tanh": sympy.tanh, "exp": sympy.exp, "ln": sympy.log,
  "log": sympy.log, "lg": lambda x: sympy.log(x) / sympy.log(10),
  "max": sympy.Max, "min": sympy.Min, "gcd": sympy.gcd, "lcm": sympy.lcm,
}  # fmt: skip
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc", "tg")
_NAMES = re.compile(
  "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|exp|log|ln|lg"
  "|sqrt|max|min|gcd|lcm|pi"
)
_ACCENTS = frozenset(
  {r"\vec", r"\overrightarrow", r"\overline", r"\hat", r"\bar", r"\tilde"}
)
"""Marks over a name: \\vec{AB} is not \\vec{BA}."""
_APPLIED = frozenset("fghFGH")
"""Letters that are functions where a bracket follows."""
_ENDS = frozenset(")]}|,=<>:;") | {r"\rfloor", r"\rceil", r"\}"}
_TIMES = frozenset({"*", r"\cdot", r"\times"})
_DIVIDED = frozenset({"/", r"\div"})
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor",
            r"\lceil": r"\rceil", "|": "|"}  # fmt: skip


def read(text: str) -> Expression:
  """Returns the tree of a spelled formula.

  Raises:
    Unreadable: it is none, or has what is left to sympy's parser.
    Undefined: it has no value.
  """
  # v^2_0 is v_0^2.
  tokens = _TOKEN.findall(_RAISED_FIRST.sub(r"\1_\3^\2", text))
  if not tokens or any("^" == t == u for t, u in itertools.pairwise(tokens)):
    raise Unreadable(text)
  parser = _Parser(tokens)
  tree = parser.sum()
  if parser.here != "":
    raise Unreadable(f"{text}: {parser.here}")
  return tree


class _Parser:
  """One pass over the tokens; `here` is the next one, "" at the end."""

  def __init__(self, tokens: list[str]):
    self._tokens = _with_names(tokens)
    self._at = 0
    self._bars = 0
    self._degrees = False
    """Whether ° means pi/180: inside a trigonometric function."""

  @property
  def here(self) -> str:
    return self._peek(0)

  def _peek(self, ahead: int) -> str:
    at = self._at + ahead
    return self._tokens[at] if at < len(self._tokens) else ""

  def _take(self, wanted: str = "") -> str:
    token = self.here
    if not token or (wanted and token != wanted):
      raise Unreadable(f"{wanted or 'something'} is missing")
    self._at += 1
    return token

  def _taken(self, *options: str) -> bool:
    if self.here and self.here in options:
      self._at += 1
      return True
    return False

  # ------------------------------------------------------------------ operators
  def sum(self) -> Expression:
    """Reads terms with signs between them."""
    sign = self._sign()
    total = sign * self._product()
    while self.here in ("+", "-"):
      sign = self._sign()
      total += sign * self._product()
    return _finite(total)

  def _sign(self) -> int:
    sign = 1
    while self.here in ("+", "-"):
      sign *= -1 if self._take() == "-" else 1
    return sign

  def _product(self) -> Expression:
    value = self._juxtaposed()
    while self.here in _TIMES or self.here in _DIVIDED:
      divides = self._take() in _DIVIDED
      sign = self._sign()
      factor = sign * self._juxtaposed()
      value = _divide(value, factor) if divides else value * factor
    return _finite(value)

  def _juxtaposed(self, in_argument: bool = False) -> Expression:
    """Reads factors with nothing between them: 2x(x+1)."""
    value = self._power()
    while self._begins_factor():
      if in_argument and (_function_of(self.here) or self.here in "(["):
        break
      if self.here[0].isdigit() and self._tokens[self._at - 1][0].isdigit():
        raise Unreadable("two numbers side by side")
      value = value * self._power()
    return _finite(value)

  def _begins_factor(self) -> bool:
    token = self.here
    if token == "|":
      return not self._bars
    is_operator = token in _TIMES or token in _DIVIDED or token in "+-^_!'°%*"
    return bool(token) and not is_operator and token not in _ENDS

  def _power(self) -> Expression:
    """Reads a factor with its factorials, degree sign and exponent."""
    base = self._postfixed(self._atom())
    if self._taken("^", "**"):
      return _raise(base, self._exponent())
    return base

  def _postfixed(self, value: Expression) -> Expression:
    while self.here in ("!", "°"):
      if self._take() == "!":
        value = _finite(sympy.factorial(value))
      elif self._degrees:
        value = value * sympy.pi / 180
    return value

  def _exponent(self) -> Expression:
    if self.here in ("+", "-"):
      return self._sign() * self._exponent()
    exponent = self._atom()
    if self.here in ("^", "**"):
      raise Unreadable("a tower of powers without braces")
    return exponent

  # ----------------------------------------------------------------------- atoms
  def _atom(self) -> Expression:
    token = self.here
    if not token:
      raise Unreadable("the formula is cut")
    if token[0].isdigit() or re.fullmatch(r"\.\d+", token):
      return self._number()
    if token == "|" or token in ("(", "[", "{", r"\lfloor", r"\lceil"):
      return self._bracketed()
    name = _function_of(token)
    if name:
      return self._function(name)
    if token in _ACCENTS:
      return self._accented()
    commands: dict[str, Callable[[], Expression]] = {
      r"\frac": self._fraction,
      r"\sqrt": self._root,
      r"\binom": self._binomial,
    }
    if token in commands:
      self._take()
      return commands[token]()
    return self._symbol()

  def _number(self) -> Expression:
    """Reads a number, exactly, and a fraction of numbers behind it."""
    token = self._take()
    if self.here == "_":
      raise Unreadable("a number in another base inside a formula")
    value = sympy.Rational(token)
    if self.here == r"\frac" and value.is_Integer:
      ahead = "".join(self._tokens[self._at : self._at + 7])
      if _FRACTION_OF_NUMBERS.match(ahead):
        self._take()
        return value + self._fraction()
    return value

  def _bracketed(self) -> Expression:
    opening = self._take()
    closing = _CLOSING[opening]
    bars, self._bars = self._bars, int(opening == "|")
    value = self.sum()
    self._take(closing)
    self._bars = bars
    if opening == "|":
      return sympy.Abs(value)
    if opening == r"\lfloor":
      return sympy.floor(value)
    return sympy.ceiling(value) if opening == r"\lceil" else value

  def _argument(self) -> Expression:
    """Reads what TeX takes as an argument: a group, a digit, a letter."""
    token = self.here
    if token == "{":
      return self._bracketed()
    if token.isdigit() and len(token) > 1:
      self._tokens[self._at : self._at + 1] = list(token)
    if token[:1].isdigit():
      return sympy.Rational(self._take())
    if token in ("(", r"\frac", r"\sqrt") or _is_symbol(token):
      return self._atom()
    raise Unreadable("an argument is missing")

  def _fraction(self) -> Expression:
    above = self._argument()
    return _divide(above, self._argument())

  def _root(self) -> Expression:
    index = self._bracketed() if self.here == "[" else sympy.Integer(2)
    if self.here[:1].isdigit():
      value = sympy.Rational(self._take())
    else:
      value = self._argument()
    power = _divide(sympy.Integer(1), index)
    if index.is_odd and value.is_negative:
      return -_raise(-value, power)  # the real root
    return _raise(value, power)

  def _binomial(self) -> Expression:
    above, below = self._argument(), self._argument()
    return sympy.binomial(above, below)

  def _function(self, name: str) -> Expression:
    r"""Reads \sin^2 x, \log_2 8, f(x), \max(1, 2)."""
    self._take()
    base, exponent, is_inverse = None, None, False
    if name in ("log", "ln") and self._taken("_"):
      base = self._argument()
    if self._taken("^"):
      exponent = self._exponent()
      is_inverse = exponent == -1 and name in _INVERSES
    if is_inverse:
      name, exponent = _INVERSES[name], None
    degrees, self._degrees = self._degrees, name in _TRIGONOMETRIC
    arguments = self._arguments()
    self._degrees = degrees
    if name not in ("max", "min", "gcd", "lcm") and len(arguments) != 1:
      raise Unreadable(f"{name} of several arguments")
    value = _finite(_FUNCTIONS[name](*arguments))
    if base is not None:
      value = _divide(value, sympy.log(base))
    return value if exponent is None else _raise(value, exponent)

  def _arguments(self) -> list[Expression]:
    if self.here not in ("(", "{", "["):
      if self.here in ("+", "-"):
        return [self._sign() * self._juxtaposed(in_argument=True)]
      return [self._juxtaposed(in_argument=True)]
    closing = _CLOSING[self._take()]
    values = [self.sum()]
    while self._taken(","):
      values.append(self.sum())
    self._take(closing)
    return values

  def _symbol(self) -> Expression:
    r"""Reads x, x', x_{12}, \theta, \text{word}, pi, e, i, f(x)."""
    token = self._take()
    if not _is_symbol(token):
      raise Unreadable(token)
    name = token.removeprefix("\\")
    if name.startswith("text{"):
      name = f"text{{{''.join(name[5:-1].split())}}}"
    primes = self._primes()
    if self._taken("_"):
      name += f"_{{{self._subscript()}}}"
    name += primes or self._primes()
    if name[:1] in _APPLIED and self.here == "(":
      start = self._at
      self._arguments()
      return sympy.Symbol(name + "".join(self._tokens[start : self._at]))
    constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
    return constants.get(name) or sympy.Symbol(name)

  def _accented(self) -> Expression:
    accent = self._take()
    if self.here != "{":
      return sympy.Symbol(f"{accent}{{{self._take()}}}")
    self._take()
    content = ""
    while self.here and self.here.isalnum():
      content += self._take()
    self._take("}")
    return sympy.Symbol(f"{accent}{{{content}}}")

  def _primes(self) -> str:
    primes = ""
    while self._taken("'"):
      primes += "'"
    return primes

  def _subscript(self) -> str:
    if self.here != "{":
      return self._take().removeprefix(r"\text{").strip("\\}")
    depth = 0
    parts: list[str] = []
    while True:
      token = self._take()
      depth += (token == "{") - (token == "}")
      if not depth:
        return "".join(parts).removeprefix("{")
      token = re.sub(r"\\text\{([^{}]*)\}", r"\1", token)
      parts.append(token.removeprefix("\\"))


def _with_names(tokens: list[str]) -> list[str]:
  """Returns the tokens, runs of letters split: s, i, n, x is \\sin and x."""
  found: list[str] = []
  for is_letter, run in itertools.groupby(tokens, _is_letter):
    if not is_letter:
      found += run
      continue
    letters, end = "".join(run), 0
    for name in _NAMES.finditer(letters):
      found += [*letters[end : name.start()], f"\\{name[0]}"]
      end = name.end()
    found += letters[end:]
  return found


def _is_letter(token: str) -> bool:
  return len(token) == 1 and token.isalpha()


def _function_of(token: str) -> str | None:
  name = token.removeprefix("\\")
  return name if token != name and name in _FUNCTIONS else None


def _is_symbol(token: str) -> bool:
  if token.startswith(r"\text{"):
    return len(token) > 7
  name = token.removeprefix("\\")
  is_letter = len(token) == 1 and token.isalpha() and token.isascii()
  return is_letter or (name != token and (name in _GREEK or name == "pi"))


# --------------------------------------------------------------------- checking
_POINT = sympy.Rational(1618033, 1414213)


def _divide(above: Expression, below: Expression) -> Expression:
  if _vanishes(below):
    raise Undefined("division by zero")
  return above / below


def _raise(base: Expression, exponent: Expression) -> Expression:
  """Returns the power, not computed where both are numbers and it is large.

  Raises:
    Undefined: zero to a power that is not positive.
    Unreadable: too large.
  """
  if exponent.is_number and not exponent.is_positive and _vanishes(base):
    raise Undefined("a power of zero")
  if base.is_number and exponent.is_number:
    size = abs(sympy.N(exponent))
    if base.is_Rational and exponent.is_Integer:
      size *= (base.p.bit_length() + base.q.bit_length()) / MAX_BITS * MAX_POWER
    if not size <= MAX_POWER:
      raise Unreadable("too large a power")
  return _finite(base**exponent)


def _vanishes(value: Expression) -> bool:
  """Returns whether it is zero at a point: everywhere, for what people write."""
  if value.is_Rational:
    return bool(value == 0)
  point = {symbol: _POINT + i for i, symbol in enumerate(value.free_symbols)}
  number = value.evalf(20, subs=point)
  return bool(number.is_number and abs(number) < 1e-15)


def _finite(value: Expression) -> Expression:
  if value.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
    raise Undefined("it has no finite value")
  return value
