r"""Published comparisons of formulas, run in the verifier's killable workers.

Like `rewards.verify` this imports neither jax nor `types`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sophia_jax.rewards.text import is_bounded, split_list
from sophia_jax.status import Status


def two_decimals(
  _kind: str, gold: str, answer: str, _tolerance: Sequence[float] = ()
) -> Status:
  """MATH-V's: values, or those of a tuple, are equal when rounded to 2 places.

  LaTeX is read by latex2sympy, as there; but nothing is evaluated as Python.
  """
  if not is_bounded(answer):
    return Status.UNPARSEABLE
  wanted, found = split_list(gold), split_list(answer)
  if gold.strip()[:1] != answer.strip()[:1] and len(found) > 1:
    return Status.WRONG  # (0, 1) is not [0, 1]
  if len(wanted) != len(found):
    return Status.WRONG
  values = [_rounded(g) == _rounded(a) for g, a in zip(wanted, found)]
  known = all(_rounded(text) is not None for text in wanted + found)
  return Status.RIGHT if known and all(values) else Status.WRONG


def _rounded(text: str) -> float | None:
  """The value of LaTeX without variables; None if it has none."""
  import sympy
  from latex2sympy2_extended import NormalizationConfig
  from math_verify import LatexExtractionConfig, parse

  parsed = parse(
    f"${text}$",
    # Units stay: there they make a value incomparable.
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
