"""Answer types and the outcomes of verification.

`types` exports both. They stand in a module of their own because a worker that
compares formulas needs them and must not load jax, which `types` does.
"""

from __future__ import annotations

import enum

ANSWER_TYPES = (
  "auto",
  "number",
  "math",
  "olympiad",
  "choice",
  "list",
  "string",
  "box",
  "open",
)
"""Ways of comparing an answer with the gold answer."""


class Status(enum.StrEnum):
  """The outcome of verifying one response; only RIGHT is rewarded."""

  RIGHT = "right"
  WRONG = "wrong"
  UNPARSEABLE = "unparseable"
  TIMED_OUT = "timed_out"
  TRUNCATED = "truncated"
