r"""Sets of real numbers: intervals, unions, differences, orders of an unknown.

(0,5], 0 < x \le 5 and \{x | 0 < x \le 5\} are one set; so are \mathbb{R}
\setminus \{2\}, x \ne 2 and (-\infty,2) \cup (2,\infty). Ends are constants;
sets with other ends are compared place by place in `judge`. Only workers load
this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import sympy

from sophia_jax.rewards import symbolic
from sophia_jax.rewards.latex import Expression
from sophia_jax.rewards.notation import bare_words
from sophia_jax.rewards.reading import (
  ORDERS,
  Statement,
  at_top,
  interval,
  is_name,
  plain_name,
  statement,
)


class Piece(NamedTuple):
  """An interval or, with equal closed ends, a point."""

  low: Expression
  high: Expression
  has_low: bool
  has_high: bool


Pieces = tuple[Piece, ...]


class Region(NamedTuple):
  """Example: Region("x", (Piece(-oo, 2, False, True),)) for x <= 2."""

  name: str
  """The unknown, "" where none is named."""
  pieces: Pieces
  """Pieces in order, without overlap."""


_REALS: Pieces = (Piece(-sympy.oo, sympy.oo, False, False),)
_INFINITE = re.compile(r"\s*([+-]?)\s*\\infty\s*")
_BUILDER = re.compile(r"\\\{(.*?)(?:\||:)(.*)\\\}", re.DOTALL)
_ALL_REALS = re.compile(r"(?:all|the set of all|every) real(?: numbers?|s)?")
_EMPTY = re.compile(r"(?:the )?empty set")
_SURE = re.compile(
  r"\\(?:le|ge|ne|cup|cap|setminus|infty|mathbb|emptyset)(?![A-Za-z])|[<>]"
  r"|^(?:all|the|empty|every) "
)


def same_region(gold: str, answer: str) -> bool:
  """Returns whether both are one set, and one of them surely a set."""
  texts = (bare_words(t).strip().lower() for t in (gold, answer))
  if not any(map(_SURE.search, texts)):
    return False
  try:
    one, other = region(gold), region(answer)
  except symbolic.FAILURES:
    return False
  if one is None or other is None:
    return False
  if one.name and other.name and one.name != other.name:
    return False
  return len(one.pieces) == len(other.pieces) and all(
    a.has_low is b.has_low
    and a.has_high is b.has_high
    and _equal(a.low, b.low)
    and _equal(a.high, b.high)
    for a, b in zip(one.pieces, other.pieces, strict=True)
  )


def region(text: str) -> Region | None:
  """Returns the set that spelled `text` describes; None if it is none."""
  text = text.strip()
  for marks, join in (
    ((r"\lor", r"\cup"), _union),
    ((r"\land", r"\cap"), _intersection),
  ):
    parts = at_top(text, marks)
    if len(parts) > 1:
      return _joined([region(part) for part in parts], join)
  whole, *taken = _differences(text)
  if taken:
    regions = [region(part) for part in (whole, *taken)]
    return _joined(regions, _difference)
  said = statement(text)
  if said.has_order:
    return _from_orders(said)
  if said.relations == [r"\in"] and is_name(said.parts[0]):
    inner = region(said.parts[1])
    return inner and Region(plain_name(said.parts[0]), inner.pieces)
  return None if said.relations else _simple(text)


def _differences(text: str) -> list[str]:
  parts = at_top(text, (r"\setminus",))
  if len(parts) == 1 and re.match(r"\\mathbb\{R\}\s*-\s*\\\{", text):
    return text.split("-", 1)
  return parts


def _joined(
  regions: list[Region | None], join: Callable[[Pieces, Pieces], Pieces]
) -> Region | None:
  known = [r for r in regions if r is not None]
  names = {r.name for r in known if r.name}
  if len(known) < len(regions) or len(names) > 1:
    return None
  pieces = known[0].pieces
  for other in known[1:]:
    pieces = join(pieces, other.pieces)
  return Region(names.pop() if names else "", pieces)


def _simple(text: str) -> Region | None:
  r"""Reads an interval, \{1, 2\}, \mathbb{R}, \emptyset, \{x | x > 1\}."""
  words = bare_words(text).strip().lower()
  if text == r"\mathbb{R}" or _ALL_REALS.fullmatch(words):
    return Region("", _REALS)
  if text in (r"\emptyset", r"\{\}", r"\{ \}") or _EMPTY.fullmatch(words):
    return Region("", ())
  builder = _BUILDER.fullmatch(text)
  if builder:
    name = plain_name(builder[1].partition(r"\in")[0])
    inner = region(builder[2].replace(",", r"\land "))
    return inner if inner and inner.name == name else None
  if text.startswith(r"\{") and text.endswith(r"\}"):
    points = [_constant(t) for t in at_top(text[2:-2], (",",))]
    if any(p is None for p in points):
      return None
    return Region("", _ordered([Piece(p, p, True, True) for p in points]))
  ends = interval(text)
  if ends is None or len(ends.places) != 2:
    return None
  low, high = ends.places
  return _piece(low, high, ends.brackets[0] == "[", ends.brackets[1] == "]")


def _from_orders(said: Statement) -> Region | None:
  """Reads x > 1, 0 < x <= 5 and x != 2 of one unknown and constants."""
  names = [i for i, part in enumerate(said.parts) if is_name(part)]
  if len(names) != 1 or not ORDERS.issuperset(said.relations):
    return None
  pieces: Pieces = _REALS
  at = names[0]
  for i, relation in enumerate(said.relations):
    if at not in (i, i + 1):
      return None
    side = said.parts[i + (at == i)]
    is_low = (relation == "<") is not (at == i)
    infinite = _INFINITE.fullmatch(side)
    if infinite and relation in ("<", ">"):
      if (infinite[1] == "-") is not is_low:
        return None
      continue  # -oo < x
    bound = _constant(side)
    if bound is None:
      return None
    part = _half(bound, relation, unknown_first=at == i)
    pieces = _intersection(pieces, part)
  directions = {r[-1] in ">e" and r != r"\le" for r in said.relations}
  if len(directions) > 1 or (
    len(said.relations) > 1 and r"\ne" in said.relations
  ):
    return None  # 1 < x > 0
  return Region(plain_name(said.parts[at]), pieces)


def _half(bound: Expression, relation: str, unknown_first: bool) -> Pieces:
  """Returns the numbers that stand in `relation` to `bound`."""
  if relation == r"\ne":
    return _difference(_REALS, (Piece(bound, bound, True, True),))
  closed = relation in (r"\le", r"\ge")
  below = (relation in ("<", r"\le")) is unknown_first
  if below:
    return (Piece(-sympy.oo, bound, False, closed),)
  return (Piece(bound, sympy.oo, closed, False),)


def _constant(text: str) -> Expression | None:
  tree = symbolic.parse(text)
  is_constant = tree is not None and not tree.free_symbols and tree.is_real
  return tree if is_constant else None


def _piece(low: str, high: str, has_low: bool, has_high: bool) -> Region | None:
  """Returns an interval; None where an end is no constant or ends are swapped."""
  ends: list[Expression] = []
  for text, missing, closed in ((low, "-", has_low), (high, "+", has_high)):
    infinite = _INFINITE.fullmatch(text)
    if infinite and ((infinite[1] or "+") != missing or closed):
      return None
    end = sympy.oo if infinite else _constant(text)
    if end is None:
      return None
    ends.append(-end if infinite and missing == "-" else end)
  if not _less(ends[0], ends[1]):
    return None
  return Region("", (Piece(ends[0], ends[1], has_low, has_high),))


# ------------------------------------------------------------------- operations
def _less(one: Expression, other: Expression) -> bool:
  if one is other or _equal(one, other):
    return False
  return bool(sympy.N(one, 30) < sympy.N(other, 30))


def _equal(one: Expression, other: Expression) -> bool:
  if one.is_infinite or other.is_infinite:
    return bool(one == other)
  return symbolic.equal(one, other)


def _ordered(pieces: list[Piece]) -> Pieces:
  """Returns the pieces in order, those that touch as one."""
  merged: list[Piece] = []
  for piece in sorted(pieces, key=lambda p: sympy.N(p.low, 30)):
    if not merged:
      merged.append(piece)
      continue
    last = merged[-1]
    touches = _equal(last.high, piece.low) and (last.has_high or piece.has_low)
    if not (touches or _less(piece.low, last.high)):
      merged.append(piece)
      continue
    same_low = _equal(last.low, piece.low)
    higher = piece if _less(last.high, piece.high) else last
    same_high = _equal(last.high, piece.high)
    merged[-1] = Piece(
      last.low,
      higher.high,
      last.has_low or (same_low and piece.has_low),
      higher.has_high or (same_high and (piece.has_high or last.has_high)),
    )
  return tuple(merged)


def _union(one: Pieces, other: Pieces) -> Pieces:
  return _ordered([*one, *other])


def _complement(pieces: Pieces) -> Pieces:
  gaps: list[Piece] = []
  low, has_low = -sympy.oo, False
  for piece in pieces:
    if _less(low, piece.low) or (has_low and not piece.has_low):
      gaps.append(Piece(low, piece.low, has_low, not piece.has_low))
    low, has_low = piece.high, not piece.has_high
  if low != sympy.oo:
    gaps.append(Piece(low, sympy.oo, has_low, False))
  return tuple(
    gap._replace(
      has_low=gap.has_low and gap.low != -sympy.oo,
      has_high=gap.has_high and gap.high != sympy.oo,
    )
    for gap in gaps
  )


def _intersection(one: Pieces, other: Pieces) -> Pieces:
  return _complement(_union(_complement(one), _complement(other)))


def _difference(one: Pieces, other: Pieces) -> Pieces:
  return _intersection(one, _complement(other))
