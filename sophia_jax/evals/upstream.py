r"""Published comparisons of formulas, run in the verifier's killable workers.

Like `rewards.verify`, imports neither jax nor `types`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sophia_jax.rewards.text import is_bounded, split_list
from sophia_jax.status import Status


def two_decimals(
  _kind: str, gold: str, answer: str, _tolerance: Sequence[float] = ()
) -> Status:
  """Compares values, or those of tuples, rounded to 2 decimals, as MATH-V does.

  latex2sympy reads LaTeX, as in MATH-V's script; nothing is evaluated as Python.
  """
  if not is_bounded(answer):
    return Status.UNPARSEABLE
  golds, answers = split_list(gold), split_list(answer)
  if gold.strip()[:1] != answer.strip()[:1] and len(answers) > 1:
    return Status.WRONG  # (0, 1) is not [0, 1]
  if len(golds) != len(answers):
    return Status.WRONG
  values = [_rounded(g) == _rounded(a) for g, a in zip(golds, answers)]
  known = all(_rounded(text) is not None for text in golds + answers)
  return Status.RIGHT if known and all(values) else Status.WRONG


def _rounded(text: str) -> float | None:
  """Returns the value of LaTeX without variables; None if it has none."""
  import sympy
  from latex2sympy2_extended import NormalizationConfig
  from math_verify import LatexExtractionConfig, parse

  parsed = parse(
    f"${text}$",
    # Units stay: in MATH-V's script they make a value incomparable.
    [
      LatexExtractionConfig(
        normalization_config=NormalizationConfig(
          basic_latex=True,
          units=False,
          malformed_operators=False,
          nits=False,
          boxed="all",
          equations=False,
        )
      )
    ],
    fallback_mode="no_fallback",
    parsing_timeout=None,  # type: ignore[arg-type]
  )
  value = parsed[0] if parsed else None
  if not isinstance(value, sympy.Expr) or not value.is_number:
    return None
  number = value.evalf()
  return (
    round(float(number), 2) if number.is_finite and number.is_real else None
  )
