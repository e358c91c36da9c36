"""math-verify, with everything off that evaluates or raises signals."""

from __future__ import annotations

from sophia_jax.rewards.text import Outcome, is_bounded, unwrap


def compare_math(gold: str, answer: str) -> Outcome:
  """math-verify's verdict, gold first (it is not symmetric).

  Its own time limits are signals, which fire in a main thread only and do not
  interrupt C code, so they are off: whoever calls this limits it from outside.
  """
  from math_verify import LatexExtractionConfig, parse, verify

  found = unwrap(answer)
  if not is_bounded(found):
    return "unparseable"
  parsed = [
    parse(
      f"${text}$",
      # Not ExprExtractionConfig: sympy's parse_expr calls eval.
      [LatexExtractionConfig()],
      fallback_mode="no_fallback",
      parsing_timeout=None,  # type: ignore[arg-type]
    )
    for text in (unwrap(gold), found)
  ]
  if not parsed[1]:
    return "unparseable"
  return (
    "right" if verify(parsed[0], parsed[1], timeout_seconds=None) else "wrong"
  )
