"""The order in which rounds draw problems, which the run's seed alone decides."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from sophia_jax.types import Problem


def wave(
  problems: Sequence[Problem], count: int, seed: int, drawn: int, seen: set[str]
) -> tuple[list[Problem], int]:
  """Draws up to `count` problems that a round has not seen.

  They come from an endless order: each pass over the problems has another one.

  Args:
    seed: the run's.
    drawn: problems drawn so far, in all rounds.
    seen: ids of the round's problems; those of the wave are added.

  Returns:
    The wave, and the number of problems drawn by then.
  """
  found: list[Problem] = []
  while len(found) < count and len(seen) < len(problems):
    lap, place = divmod(drawn, len(problems))
    problem = problems[_order(seed, lap, len(problems))[place]]
    drawn += 1
    if problem.id not in seen:
      seen.add(problem.id)
      found.append(problem)
  return found, drawn


@functools.lru_cache(maxsize=2)
def _order(seed: int, lap: int, count: int) -> Sequence[int]:
  return np.random.default_rng([seed, 7, lap]).permutation(count).tolist()
