r"""The judge of OlympiadBench: several answers, tuples, intervals, equations
and formulas, with the tolerance that a problem states.

Written from a description of OpenBMB's `AutoScoringJudge` (He et al. 2024,
arXiv 2402.14008). `upstream_compatible=True` decides as it does, so that
published numbers can be compared; `UPSTREAM` and `OURS` say how they differ.

Only workers load this module: it needs sympy and may hang.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sophia_jax.rewards import olympiad_text as reading
from sophia_jax.rewards import symbolic
from sophia_jax.rewards.formulas import compare_math
from sophia_jax.rewards.number import slack_of_each
from sophia_jax.rewards.text import Outcome, normalise

Same = Callable[[str, str, float], bool]
"""(gold item, answer item, tolerance) -> do they say the same?"""


@dataclass(frozen=True)
class Rules:
  """How to judge: all in which OpenBMB's judge and ours differ."""

  prepare: Callable[[str], str | None]
  """Text -> one line of formulas; None if it cannot be read."""
  readings: Callable[[str], list[list[str]]]
  """The line -> its items, in one or more ways."""
  tolerances: Callable[[Sequence[float], int], list[float]]
  """The tolerances stated -> one for each gold item."""
  kinds: tuple[Same, ...]
  """Tried in this order; one that says yes is enough."""


def judge(
  gold: str,
  answer: str,
  tolerance: Sequence[float] = (),
  upstream_compatible: bool = False,
) -> Outcome:
  """Right if every gold item equals an answer item, each another one.

  Args:
    tolerance: absolute, of numbers: one for all items or one for each.
  """
  rules = UPSTREAM if upstream_compatible else OURS
  wanted, found = rules.prepare(gold), rules.prepare(answer)
  if wanted is None or found is None:
    return "wrong"
  if wanted == found:
    return "right"
  for golds in rules.readings(wanted):
    slacks = rules.tolerances(tolerance, len(golds))
    for answers in rules.readings(found):
      if len(answers) == len(golds) == len(slacks) and _paired(
        golds, answers, slacks, rules.kinds
      ):
        return "right"
  return "wrong"


def _paired(
  golds: Sequence[str],
  answers: Sequence[str],
  slacks: Sequence[float],
  kinds: Sequence[Same],
) -> bool:
  """Gives each gold item the first answer that is left and equals it."""
  left = list(answers)
  for gold, slack in zip(golds, slacks):
    for i, answer in enumerate(left):
      if any(same(gold, answer, slack) for same in kinds):
        del left[i]
        break
    else:
      return False
  return True


# ------------------------------------------------------------------ both judges
def _same_text(gold: str, answer: str, slack: float) -> bool:
  return gold == answer


def _right_side(text: str) -> str:
  """What follows the first "="; all of it if there is none."""
  return text.split("=")[1] if "=" in text else text


def _difference(equation: str) -> symbolic.Expression | None:
  """left - right of a text with one "="."""
  sides = [symbolic.parse(side) for side in equation.split("=")]
  if len(sides) != 2 or sides[0] is None or sides[1] is None:
    return None
  return sides[0] - sides[1]


# ----------------------------------------------------------- as OpenBMB's judge
def _readings_upstream(text: str) -> list[list[str]]:
  return [reading.split_upstream(text)]


def _tolerances_upstream(tolerance: Sequence[float], count: int) -> list[float]:
  """1e-8 where none is stated, all 1 % wider; too few are an error there."""
  stated = [t or 1e-8 for t in tolerance] or [1e-8]
  each = stated * count if len(stated) == 1 else stated[:count]
  return [1.01 * t for t in each]


def _interval_upstream(gold: str, answer: str, slack: float) -> bool:
  """Unions in the order they are written; (1,2) is (1,2,3)."""
  if not (reading.bracketed(gold) and reading.bracketed(answer)):
    return False
  golds, answers = gold.split(r"\cup"), answer.split(r"\cup")
  if len(golds) != len(answers):
    return False
  for one, other in zip(golds, answers):
    one, other = one.strip(), other.strip()
    if (one[:1], one[-1:]) != (other[:1], other[-1:]):
      return False
    ends = zip(one[1:-1].split(","), other[1:-1].split(","))
    if not all(_expression_upstream(a, b, slack) for a, b in ends):
      return False
  return True


def _number_upstream(gold: str, answer: str, slack: float) -> bool:
  """A hundred times too little or too much is right, as of a percentage."""
  try:
    wanted, found = float(gold), float(answer)
  except ValueError:
    return False
  scaled = (wanted / 100, wanted, wanted * 100)
  return any(abs(value - found) <= slack for value in scaled)


def _formula_upstream(gold: str, answer: str, slack: float) -> bool:
  if "=" in gold and "=" in answer:
    return False
  return _expression_upstream(gold, answer, slack)


def _expression_upstream(gold: str, answer: str, slack: float) -> bool:
  """Right-hand sides; with symbols, if they differ by less than 1e-3."""
  one, other = (symbolic.parse(_right_side(t)) for t in (gold, answer))
  if one is None or other is None:
    return False
  return symbolic.close_upstream(one, other, slack, vanishing=1e-3)


def _equation_upstream(gold: str, answer: str, slack: float) -> bool:
  """One is an integer times the other: 2x = 2 is x = 1 but not 3x = 3."""
  one, other = _difference(gold), _difference(answer)
  if one is None or other is None:
    return False
  return symbolic.multiples_upstream(one, other)


# ------------------------------------------------------------------------- ours
def _word(gold: str, answer: str, slack: float) -> bool:
  """Words but for case and spaces; a letter alone is a symbol, V is not v."""
  one = normalise(gold)
  return one == normalise(answer) and len(one) > 1 and one.isalpha()


def _number(gold: str, answer: str, slack: float) -> bool:
  return reading.same_number(gold, answer, slack) is True


def _interval(gold: str, answer: str, slack: float) -> bool:
  """The same brackets, as many places; parts of a union in any order."""
  golds, answers = gold.split(r"\cup"), answer.split(r"\cup")
  if len(golds) != len(answers):
    return False
  if len(golds) > 1:
    return _paired(golds, answers, [slack] * len(golds), OURS.kinds)
  one, other = reading.interval(gold), reading.interval(answer)
  if one is None or other is None or len(one.places) != len(other.places):
    return False
  return one.brackets == other.brackets and all(
    any(same(a, b, slack) for same in OURS.kinds)
    for a, b in zip(one.places, other.places)
  )


def _named(gold: str, answer: str, slack: float) -> bool:
  """ "S = " before one of them, or the same before both, says nothing."""
  (name, value), (other_name, other_value) = map(_name_of, (gold, answer))
  if not (name or other_name) or (name and other_name and name != other_name):
    return False
  return any(same(value, other_value, slack) for same in OURS.kinds)


def _formula(gold: str, answer: str, slack: float) -> bool:
  if "=" in gold or "=" in answer:
    return False
  if reading.interval(gold) or reading.interval(answer):
    return False  # sympy would read (0.5,0.25) as one number
  one, other = symbolic.parse(gold), symbolic.parse(answer)
  if one is None or other is None:
    # What sympy's grammar lacks, matrices for one, math-verify may read.
    return compare_math(gold, answer) == "right"
  return symbolic.close(one, other, slack)


def _equation(gold: str, answer: str, slack: float) -> bool:
  """Equations that are multiples of each other."""
  one, other = _difference(gold), _difference(answer)
  return (
    one is not None and other is not None and symbolic.multiples(one, other)
  )


def _name_of(text: str) -> tuple[str, str]:
  """("S", "5") of "S = 5"; ("", text) where nothing is named."""
  name, equals, value = text.partition("=")
  if equals and "=" not in value and reading.is_name(name):
    return name.replace(" ", ""), value.strip()
  return "", text


UPSTREAM = Rules(
  prepare=reading.prepare_upstream,
  readings=_readings_upstream,
  tolerances=_tolerances_upstream,
  kinds=(
    _same_text,
    _interval_upstream,
    _number_upstream,
    _formula_upstream,
    _equation_upstream,
  ),
)
"""OpenBMB's judge. Its quirks, each in the function named:
prepare_upstream: drops % and ! at the end of an answer (5! is 5) and ^\\circ,
  but not \\%, ^{\\circ}, \\text{...} and the comma of 1,000 (two answers).
split_upstream: drops Chinese, so that any two answers in Chinese are equal.
_tolerances_upstream: 1 % wider; a list that is too short is no answer right.
_interval_upstream: (1,2) is (1,2,3); unions must be in the same order.
_number_upstream: 50 is 0.5.
_expression_upstream: x + 0.0005 is x; e is a symbol; 3.00000001 is 3.
_equation_upstream: 2x + 2y = 2 is not 3x + 3y = 3.
"""

OURS = Rules(
  prepare=reading.prepare,
  readings=reading.readings,
  tolerances=slack_of_each,
  kinds=(
    _same_text,
    _word,
    _number,
    _interval,
    _named,
    _formula,
    _equation,
  ),
)
"""None of these. Numbers without a stated tolerance agree to a millionth, as
everywhere here (`number.REL_TOL`), and 50 % is 0.5 but 50 is not."""
