r"""Is an answer the gold answer? Pure comparers, one for each answer type.

Nothing is ever evaluated as code and every size is bounded before anything is
parsed. Only `compare_slow` needs sympy, imports it late and may still hang on
an input nobody thought of: `rewards.workers` runs it in a process it can kill.

This module imports neither jax nor `types`: it is all a worker loads. The
outcomes are values of `types.Status`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sophia_jax.rewards import olympiad_text
from sophia_jax.rewards.formulas import compare_math
from sophia_jax.rewards.number import (
  equal_numbers,
  parse_number,
  slack_of_each,
)
from sophia_jax.rewards.text import (
  LONGEST_GOLD,
  MAX_CHARS,
  Outcome,
  half_width,
  is_bounded,
  normalise,
  split_list,
  unwrap,
)

ANSWER_TYPES = (
  "auto",
  "number",
  "math",
  "olympiad",
  "choice",
  "list",
  "string",
)

_LETTER = re.compile(r"\(?([A-Za-z])(?:[)\].:：、]{1,2}(?:\s.*)?)?", re.DOTALL)
_LETTERS = re.compile(
  r"\(?[A-Z][).]?(?:\s*(?:,|、|and\b|or\b|&|和|或)\s*\(?[A-Z]\b[).]?)+"
)
_CHOICE_WORDS = ("option ", "choice ", "answer ", "选项", "选")
_MATH = re.compile(r"[\\^*/+=<>≤≥√π±∞∪{}]|\d[a-zA-Z]|[a-zA-Z]\d|\d-|-\d")


class Comparison(NamedTuple):
  """What two answers are compared by.

  Example: Comparison("number", "6", "six")
  """

  answer_type: str
  gold: str
  answer: str
  choices: tuple[str, ...] = ()
  tolerance: tuple[float, ...] = ()
  """As `types.Problem.tolerance`."""
  upstream_compatible: bool = False
  """`olympiad` repeats the quirks of OpenBMB's judge."""

  @property
  def kind(self) -> str:
    """The answer type once `auto` is decided."""
    if self.answer_type != "auto":
      return self.answer_type
    kind = auto_type(self.gold, self.choices)
    # math-verify knows no tolerance.
    in_reach = self.tolerance and kind in ("number", "math")
    return "olympiad" if in_reach else kind

  @property
  def task(self) -> tuple[str, str, str, tuple[float, ...]]:
    """The arguments of `compare_slow`."""
    if self.kind != "olympiad":
      return "math", self.gold, self.answer, ()
    kind = "olympiad_upstream" if self.upstream_compatible else "olympiad"
    return kind, self.gold, self.answer, self.tolerance


def compare(
  answer_type: str,
  gold: str,
  answer: str,
  choices: tuple[str, ...] = (),
  tolerance: tuple[float, ...] = (),
  upstream_compatible: bool = False,
) -> Outcome:
  """Compares in this process; a formula may hang, see `rewards.pool`."""
  question = Comparison(
    answer_type, gold, answer, choices, tolerance, upstream_compatible
  )
  outcome = compare_cheap(question)
  return compare_slow(*question.task) if outcome is None else outcome


def compare_cheap(question: Comparison) -> Outcome | None:
  """The outcome, in linear time; None where only `compare_slow` can tell.

  Raises:
    ValueError: the answer type is unknown.
  """
  gold, answer, kind = question.gold, question.answer, question.kind
  longest = olympiad_text.MAX_CHARS if kind == "olympiad" else MAX_CHARS
  if len(answer) > longest or not answer.strip():
    return "unparseable"
  if kind == "choice":
    return compare_choice(gold, answer, question.choices)
  if kind == "list":
    return compare_list(gold, answer, question.tolerance)
  if kind == "string":
    return compare_string(gold, answer)
  if kind == "number":
    outcome = compare_number(gold, answer, sum(question.tolerance[:1]))
    if outcome == "unparseable" and question.answer_type == "auto":
      return _before_math(gold, answer)
    return outcome
  if kind == "math":
    return _before_math(gold, answer)
  if kind == "olympiad":
    if question.upstream_compatible:
      return olympiad_text.before_sympy_upstream(gold, answer)
    return olympiad_text.before_sympy(gold, answer, sum(question.tolerance[:1]))
  raise ValueError(f"answer_type {kind!r}: not one of {ANSWER_TYPES}")


def compare_slow(
  kind: str, gold: str, answer: str, tolerance: Sequence[float] = ()
) -> Outcome:
  """What a worker is asked: `Comparison.task`. May hang or fill the memory."""
  if kind == "math":
    return compare_math(gold, answer)
  from sophia_jax.rewards import olympiad

  return olympiad.judge(gold, answer, tolerance, kind == "olympiad_upstream")


def auto_type(gold: str, choices: Sequence[str] = ()) -> str:
  """The answer type that the form of the gold answer asks for.

  A problem with choices is a choice; a number a number; what has LaTeX,
  operators or a number next to a letter is math; words with commas are a list;
  the rest is a string. Numbers with commas ("1, -2") are math: a set of roots
  has no order.
  """
  text = unwrap(gold)
  if choices:
    return "choice"
  if parse_number(text) is not None:
    return "number"
  items = split_list(text)
  if _MATH.search(text) or (len(items) > 1 and all(map(parse_number, items))):
    return "math"
  return "list" if len(items) > 1 else "string"


# ------------------------------------------------------------------- comparers
def compare_number(gold: str, answer: str, tolerance: float = 0.0) -> Outcome:
  """Exact rationals within `number.REL_TOL`, or `tolerance` if it is wider.

  nan and inf equal nothing.
  """
  wanted, found = parse_number(unwrap(gold)), parse_number(unwrap(answer))
  if found is None:
    return "unparseable"
  right = wanted is not None and equal_numbers(wanted, found, tolerance)
  return "right" if right else "wrong"


def compare_string(gold: str, answer: str) -> Outcome:
  """Equality but for case, width, spaces and enclosing punctuation."""
  found = normalise(answer)
  if not found:
    return "unparseable"
  return "right" if found == normalise(gold) else "wrong"


def compare_list(
  gold: str, answer: str, tolerance: Sequence[float] = ()
) -> Outcome:
  """Item by item in order; items are numbers, else strings.

  tolerance: one for all items, or one for each.
  """
  wanted, found = split_list(unwrap(gold)), split_list(unwrap(answer))
  if not any(found):
    return "unparseable"
  if len(wanted) != len(found):
    return "wrong"
  slacks = slack_of_each(tolerance, len(wanted))
  right = all(
    compare_number(g, a, slack) == "right" or compare_string(g, a) == "right"
    for g, a, slack in zip(wanted, found, slacks, strict=True)
  )
  return "right" if right else "wrong"


def compare_choice(gold: str, answer: str, choices: Sequence[str]) -> Outcome:
  """Options A, B, ... named by letter, "(B)", "B. text", or by their text.

  A letter alone always names the option of that letter, also where another
  option's text is that letter.
  """
  wanted, found = which_choice(gold, choices), which_choice(answer, choices)
  if found is None:
    return "unparseable"
  return "right" if found == wanted else "wrong"


def which_choice(text: str, choices: Sequence[str]) -> int | None:
  """The index of the option that `text` names; None if it names none, or two.

  What begins with a letter names that option: "(A) and so on", but not
  "(A) and (B)".
  """
  text = unwrap(half_width(text))
  for word in _CHOICE_WORDS:
    if text.lower().startswith(word):
      text = text[len(word) :].strip(" :：")
  text = text.removesuffix("选项").removesuffix("项")
  letter = _LETTER.fullmatch(text)
  if letter and len(text.strip("()[].:：、 ")) == 1:
    return _letter_index(letter[1], choices)
  texts = [normalise(c) for c in choices]
  if normalise(text) in texts:
    return texts.index(normalise(text))
  if letter is None or _LETTERS.fullmatch(text):
    return None
  return _letter_index(letter[1], choices)


def _letter_index(letter: str, choices: Sequence[str]) -> int | None:
  index = ord(letter.upper()) - ord("A")
  return index if not choices or index < len(choices) else None


def _before_math(gold: str, answer: str) -> Outcome | None:
  """What can be said of two formulas without sympy; None: ask it."""
  wanted, found = unwrap(gold), unwrap(answer)
  if "".join(wanted.split()) == "".join(found.split()):
    return "right"
  if not is_bounded(found):
    return "unparseable"
  # A gold answer that cannot be computed is equal to itself alone.
  return None if is_bounded(wanted, LONGEST_GOLD) else "wrong"
