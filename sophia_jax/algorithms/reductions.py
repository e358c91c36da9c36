"""How the losses of a sequence's n learnt tokens become one number.

A reduction maps n to (weight, count) of each of the n tokens; the loss of an
update is sum(weight * loss) / sum(count) over all its tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from sophia_jax.types import SophiaError

Reduction = Callable[[int], tuple[float, float]]


def token(n: int) -> tuple[float, float]:
  """Returns the mean over tokens: long sequences count for more (DAPO)."""
  return 1.0, 1.0


def sequence(n: int) -> tuple[float, float]:
  """Returns the mean over sequences of the mean over tokens (GRPO)."""
  return 1.0 / n, 1.0 / n


def total(n: int) -> tuple[float, float]:
  """Returns the mean over sequences of the sum over tokens (RLOO, Eq. 7)."""
  return 1.0, 1.0 / n


def square(n: int) -> tuple[float, float]:
  """Returns the mean over sequences weighted by the root of their length
  (InternVL2.5, arXiv 2412.05271)."""
  return n**-0.5, n**-0.5


def constant(length: int) -> Reduction:
  """Returns the mean over sequences of the sum over tokens / `length`
  (Dr.GRPO)."""
  return lambda n: (1.0 / length, 1.0 / n)


REDUCTIONS: dict[str, Reduction] = {
  "token": token,
  "sequence": sequence,
  "sum": total,
  "square": square,
}


def named(key: str, where: str) -> Reduction:
  """Returns the reduction `key` of the config section `where`.

  Raises:
    SophiaError: there is none of this name.
  """
  if key not in REDUCTIONS:
    raise SophiaError(
      f"{where}.reduction: {key!r} is unknown; use one of "
      f"{', '.join(REDUCTIONS)}"
    )
  return REDUCTIONS[key]
