"""Problems that a policy gets right sometimes: a window of pass rates.

The paper's continuation by GRPO learns from questions whose pass rate under the
base model is 0.4 to 0.6 over 16 samples (arXiv 2507.16814, App. B.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from sophia_jax.algorithms import sampling, selection
from sophia_jax.algorithms.contract import Algorithm, Files, Moment, Words
from sophia_jax.types import Example, Group, Problem, SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A window of pass rates."""

  n: int = 16
  """Answers of the policy to each problem."""
  low: float = 0.4
  """Smallest pass rate of a problem that is kept."""
  high: float = 0.6
  """Largest pass rate of a problem that is kept."""

  def __post_init__(self) -> None:
    if not 0 <= self.low <= self.high <= 1:
      raise SophiaError(
        f"screen: low={self.low} and high={self.high} are no window of pass "
        "rates; use 0 <= low <= high <= 1"
      )


def files(c: Config) -> Files:
  """Returns the writer of problems.jsonl, the problems in the window.

  It raises SophiaError if there are none, and says on which side they lie.
  """
  rule = selection.window(c.low, c.high)

  def write(
    groups: Iterable[Group], words: Words
  ) -> Mapping[str, Sequence[Problem | Example]]:
    kept: list[Problem] = []
    rates: list[float] = []
    for group in groups:
      right = [selection.part(r, "accuracy") for r in group.rollouts]
      rates.append(sum(right) / len(right))
      kept += [g.problem for g in rule([group], Moment())]
    if not kept:
      raise SophiaError(
        f"screen: of {len(rates)} problems {sum(r < c.low for r in rates)} have "
        f"a pass rate below {c.low} and {sum(r > c.high for r in rates)} one "
        f"above {c.high}; widen low and high, or bring other problems"
      )
    return {"problems.jsonl": kept}

  return write


def screen(c: Config) -> Algorithm:
  """Builds the stage that answers its problems and keeps those in the window."""
  return Algorithm(sample=sampling.attempts(c.n), files=files(c), terms=())
