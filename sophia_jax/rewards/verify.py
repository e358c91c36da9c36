r"""Compares an answer with the gold answer: one comparer for each answer type.

Nothing is ever evaluated as code and every size is bounded before anything is
parsed. Only `compare_slow` needs sympy, imports it late and may still hang on
an input nobody thought of: `rewards.workers` runs it in a process it can kill.

This module imports neither jax nor `types`: it is all a worker loads.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sophia_jax.boxes import matches, read_box
from sophia_jax.rewards import openbmb_text, reading
from sophia_jax.rewards.choices import (
  begins_with_label,
  compare_choice,
  letter_set,
  option_text,
)
from sophia_jax.rewards.notation import spell, squeeze
from sophia_jax.rewards.number import (
  Number,
  agree,
  equal_numbers,
  parse_number,
  slack_of_each,
  stands_for,
)
from sophia_jax.rewards.text import (
  LONGEST_GOLD,
  MAX_CHARS,
  half_width,
  is_bounded,
  normalise,
  split_list,
  unwrap,
)
from sophia_jax.status import ANSWER_TYPES, Status

_MATH = re.compile(r"[\\^*/+=<>≤≥≠√π±∞∪∠△{}:]|\d[a-zA-Z]|[a-zA-Z]\d|\d-|-\d")


_LAST_AND = re.compile(r",?\s+(?:and|&)\s+|和")


_ORDERED = re.compile(
  r"\b(?:arrange|order|sort)(?:ed)? (?:them|these|the numbers|from)\b"
  r"|\b(?:(?:in|de)creasing|(?:a|de)scending) order\b|\brespectively\W*$"
  r"|依次|从[大小]到",
  re.IGNORECASE,
)
"""A question whose numbers have an order; the roots of an equation have none."""


class Comparison(NamedTuple):
  """A gold answer, an answer, and what decides between them.

  Example: Comparison("number", "6", "six")
  """

  answer_type: str
  gold: str
  answer: str
  choices: tuple[str, ...] = ()
  tolerance: tuple[float, ...] = ()
  """Tolerances of `types.Problem`."""
  upstream_compatible: bool = False
  """`olympiad` repeats the quirks of OpenBMB's judge."""
  question: str = ""
  """Text of the problem; an answer may repeat the left side that it asks for."""

  @property
  def kind(self) -> str:
    """The answer type once `auto` is decided."""
    if self.answer_type != "auto":
      return self.answer_type
    kind = auto_type(self.gold, self.choices)
    if kind == "math" and _ORDERED.search(self.question):
      items = split_list(unwrap(reading.unboxed(self.gold)))
      if _are_numbers(items) and "{" not in self.gold[:3]:
        return "list"
    # Only `number`, `list` and `olympiad` know a tolerance.
    in_reach = self.tolerance and kind in ("number", "math")
    return "olympiad" if in_reach else kind

  @property
  def task(self) -> tuple[str, str, str, tuple[float, ...]]:
    """The arguments of `compare_slow`."""
    answer = reading.without_question(self.answer, self.question)
    if self.kind == "choice":
      return "choice", option_text(self.gold, self.choices), self.answer, ()
    if self.kind != "olympiad":
      return "math", self.gold, answer, ()
    kind = "olympiad_upstream" if self.upstream_compatible else "olympiad"
    if self.upstream_compatible:
      answer = self.answer
    return kind, self.gold, answer, self.tolerance


def compare(
  answer_type: str,
  gold: str,
  answer: str,
  choices: tuple[str, ...] = (),
  tolerance: tuple[float, ...] = (),
  upstream_compatible: bool = False,
  question: str = "",
) -> Status:
  """Compares in this process; a formula may hang, see `rewards.pool`."""
  asked = Comparison(
    *(answer_type, gold, answer, choices),
    *(tolerance, upstream_compatible, question),
  )
  status = compare_cheap(asked)
  return compare_slow(*asked.task) if status is None else status


def compare_cheap(asked: Comparison) -> Status | None:
  """Returns the status, in linear time; None where `compare_slow` must tell.

  Raises:
    ValueError: the answer type is unknown.
  """
  kind = asked.kind
  if kind not in COMPARERS:
    raise ValueError(f"answer_type {kind!r}: not one of {ANSWER_TYPES}")
  longest = reading.MAX_CHARS if kind == "olympiad" else MAX_CHARS
  if len(asked.answer) > longest or not asked.answer.strip():
    return Status.UNPARSEABLE
  if asked.upstream_compatible and kind == "olympiad":
    return openbmb_text.before_sympy(asked.gold, asked.answer)
  gold, answer = (
    reading.unboxed(half_width(t)) for t in (asked.gold, asked.answer)
  )
  return COMPARERS[kind](asked._replace(gold=gold, answer=answer))


def compare_slow(
  kind: str, gold: str, answer: str, tolerance: Sequence[float] = ()
) -> Status:
  """Returns what a worker is asked for: `Comparison.task`.

  May hang or fill the memory. The verdict is a function of the arguments:
  sympy draws the same random numbers for each comparison.
  """
  from sympy.core.random import seed

  seed(0)
  if kind == "olympiad_upstream":
    from sophia_jax.rewards import openbmb

    return openbmb.judge(gold, answer, tolerance)
  from sophia_jax.rewards import judge

  status = judge.judge(gold, answer, tolerance)
  if kind == "choice" and status is not Status.RIGHT:
    return Status.UNPARSEABLE  # it names no option
  return status


def auto_type(gold: str, choices: Sequence[str] = ()) -> str:
  """Returns the answer type that the form of the gold answer asks for.

  A problem with choices is a choice, and so is one capital letter or several
  (C, ABD): the options are in the question then. A number is a number; what has
  LaTeX, operators or a number next to a letter is math; words with commas are a
  list; the rest is a string. Numbers with commas or "and" between them (1, -2)
  are math: a set of roots has no order.
  """
  text = unwrap(reading.unboxed(gold))
  if choices or re.fullmatch(r"\(?[A-Z]\)?", text) or letter_set(text):
    return "choice"
  if parse_number(text) is not None:
    return "number"
  if reading.interval(spell(text)):
    return "math"
  items = split_list(text)
  spelled = reading.at_top(spell(text), (",", r"\lor", r"\land"))
  is_math = _MATH.search(text if len(text) > 1 else spell(text))
  if is_math or _are_numbers(items) or _are_numbers(spelled):
    return "math"
  return "list" if len(items) > 1 else "string"


def _are_numbers(items: Sequence[str]) -> bool:
  return len(items) > 1 and all(parse_number(item) for item in items)


# ------------------------------------------------------------------- comparers
def compare_number(
  gold: str, answer: str, tolerance: float = 0.0, question: str = ""
) -> Status:
  """Compares exact rationals, and decimals as far as they are written.

  Only a bare name may stand before "=". nan and inf equal nothing.
  """
  name, wanted = _values(gold, "")
  other_name, found = _values(answer, question)
  if not found:
    return Status.UNPARSEABLE
  if name and other_name and name != other_name:
    return Status.WRONG
  right = any(equal_numbers(g, a, tolerance) for g in wanted for a in found)
  return Status.RIGHT if right else Status.WRONG


def _values(text: str, question: str) -> tuple[str, list[Number]]:
  r"""Returns a name and the numbers that agree: 22/7 \approx 3.14 gives both.

  No numbers where the statement says more than that.
  """
  line = spell(unwrap(reading.without_question(unwrap(text), question)))
  said = reading.statement(line)
  parts, relations = said.parts, said.relations
  if said.name:
    parts, relations = parts[1:], relations[1:]
  numbers = [parse_number(part) for part in parts]
  if any(n is None for n in numbers) or reading.ORDERS & set(relations):
    return said.name, []
  known = [n for n in numbers if n is not None]
  for one, other, relation in zip(known, known[1:], relations, strict=False):
    rounded = stands_for(other.value, one.value, other.ulp)
    if not agree(one.value, other.value, (one.ulp, other.ulp)) and not (
      relation == r"\approx" and rounded
    ):
      return said.name, []
  return said.name, known


def compare_string(gold: str, answer: str) -> Status:
  """Compares words without case, width, spaces and enclosing punctuation."""
  found = normalise(answer)
  if not found:
    return Status.UNPARSEABLE
  return Status.RIGHT if found == normalise(gold) else Status.WRONG


def compare_list(
  gold: str, answer: str, tolerance: Sequence[float] = ()
) -> Status:
  """Compares item by item in order; items are numbers, else strings.

  tolerance: one for all items, or one for each.
  """
  wanted, found = split_list(unwrap(gold)), split_list(unwrap(answer))
  if not any(found):
    return Status.UNPARSEABLE
  if len(wanted) != len(found):
    wanted, found = (
      split_list(_LAST_AND.sub(", ", unwrap(text))) for text in (gold, answer)
    )
  if len(wanted) != len(found):
    return Status.WRONG
  slacks = slack_of_each(tolerance, len(wanted))
  right = all(
    compare_number(g, a, slack) is Status.RIGHT
    or compare_string(g, a) is Status.RIGHT
    for g, a, slack in zip(wanted, found, slacks, strict=True)
  )
  return Status.RIGHT if right else Status.WRONG


def _choice(asked: Comparison) -> Status | None:
  """Compares options; a formula that names none may have the right one's value."""
  status = compare_choice(asked.gold, asked.answer, asked.choices)
  if status is not Status.UNPARSEABLE or not _MATH.search(asked.answer):
    return status
  if begins_with_label(asked.answer, asked.choices):
    return status
  text = option_text(asked.gold, asked.choices)
  if not text or not is_bounded(asked.answer):
    return status
  if len(reading.at_top(spell(text), (",",))) > 1:
    return status  # 3,1,2 is not the option 1,2,3
  return None if is_bounded(text) else status


def _list(asked: Comparison) -> Status:
  return compare_list(asked.gold, asked.answer, asked.tolerance)


def compare_box(gold: str, answer: str) -> Status:
  """Compares boxes in an image: right where they overlap by half or more."""
  wanted, found = (read_box(unwrap(text)) for text in (gold, answer))
  if found is None:
    return Status.UNPARSEABLE
  right = wanted is not None and matches(wanted, found)
  return Status.RIGHT if right else Status.WRONG


def _box(asked: Comparison) -> Status:
  return compare_box(asked.gold, asked.answer)


def _string(asked: Comparison) -> Status:
  return compare_string(asked.gold, asked.answer)


def _number(asked: Comparison) -> Status | None:
  """Compares numbers; what is computed needs a worker.

  That is a formula under `auto`, and a chain: S = 2 + 3 = 5.
  """
  slack = sum(asked.tolerance[:1])
  if asked.answer_type == "auto" and _may_be_a_product(asked):
    return Status.WRONG
  status = compare_number(asked.gold, asked.answer, slack, asked.question)
  is_chain = re.search(r"=|≈|\\approx", asked.answer)
  if status is Status.UNPARSEABLE and (asked.answer_type == "auto" or is_chain):
    return _formula(asked)
  if status is not Status.UNPARSEABLE or parse_number(unwrap(asked.gold)):
    return status
  texts = [squeeze(spell(unwrap(t))) for t in (asked.gold, asked.answer)]
  same = texts[0] == texts[1] and re.search(r"\d", texts[0])
  return Status.RIGHT if same else status


def _may_be_a_product(asked: Comparison) -> bool:
  """Returns whether the answer lacks the letter of 2m, which may be a variable.

  Behind a space it is a unit, which may be missing.
  """
  wanted, found = map(parse_number, map(unwrap, (asked.gold, asked.answer)))
  if wanted is None or found is None or wanted.sure_unit or found.unit:
    return False
  return re.search(r"\d[A-Za-z]+$", unwrap(asked.gold)) is not None


_LITERAL = re.compile(
  r"\d+(?: ?- ?\d+)+|(?=\D+\d)(?:[A-Z][a-z]?\d*)+"
  r"|(?:[-+*/=<>,\s]|\\(?:le|ge|ne|approx|times|div|cdot|pm|mp)(?![A-Za-z]))+",
  re.ASCII,
)
"""A gold answer that nothing is computed of: a range 5-6, a field A4, H2O, signs."""

_OPERATOR = re.compile(r"[-+*/^=<>!]|\\(?!text|[{}])")


def _is_copied(asked: Comparison, wanted: str, found: str) -> bool:
  """Returns whether an answer is a formula of the question, not a value.

  It may be equal to the gold answer but says nothing: 12 + 34 to "What is
  12 + 34?", x^2 - 1 to "Factor x^2 - 1", 2x = 4 to "Solve 2x = 4".
  """
  gold, answer = map(_without_braces, (wanted, found))
  said = reading.statement(found)
  value = said.parts[-1] if said.name else found
  is_plain = not _OPERATOR.search(found) or parse_number(value) is not None
  if is_plain or gold == answer or len(answer) < 3:
    return False
  copied = rf"(?<![\d+*/^(-]){re.escape(answer)}(?![\d+*/^)-])"
  return re.search(copied, _plain_question(asked.question)) is not None


@functools.lru_cache(maxsize=1000)  # all answers of a group have one
def _plain_question(question: str) -> str:
  return _without_braces(spell(question))


def _without_braces(text: str) -> str:
  return re.sub(r"[{} ]", "", squeeze(text))


def _formula(asked: Comparison) -> Status | None:
  """Tells what needs no formula to be read: equal texts, too much to compute."""
  wanted = reading.prepare_gold(asked.gold)
  found = reading.prepare(asked.answer)
  longest = reading.MAX_CHARS if asked.kind == "olympiad" else MAX_CHARS
  if not found:
    return Status.UNPARSEABLE
  if wanted is not None and squeeze(wanted) == squeeze(found):
    return Status.RIGHT
  if _LITERAL.fullmatch(wanted or ""):
    same = wanted == re.sub(r"\\text(?=\{)|[\s{}_]", "", found)
    return Status.RIGHT if same else Status.WRONG
  if _is_copied(asked, wanted or "", found):
    return Status.WRONG
  plain = half_width(reading.unboxed(asked.answer))
  if not (is_bounded(plain, longest) and is_bounded(found, 2 * longest)):
    return Status.UNPARSEABLE
  # A gold answer that cannot be computed is equal to itself alone.
  return None if wanted and is_bounded(wanted, LONGEST_GOLD) else Status.WRONG


COMPARERS: dict[str, Callable[[Comparison], Status | None]] = {
  "number": _number,
  "math": _formula,
  "olympiad": _formula,
  "choice": _choice,
  "list": _list,
  "string": _string,
  "box": _box,
  "open": _string,
}
"""Comparer of each answer type once `auto` is decided; None: ask a worker."""
