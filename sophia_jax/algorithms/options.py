"""Options in another order at every visit, with the letter kept in step.

A policy that sees a problem again cannot learn the letter of its answer.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from sophia_jax.algorithms.contract import Sample, World
from sophia_jax.rewards.choices import letter_set, options_named
from sophia_jax.types import Group, Problem

_FIXED = re.compile(
  r"<image>|(?<![A-Za-z'])[B-H](?![A-Za-z'])|^\W*A\W*$|\b(?:above|below)\b"
)
"""Reason for an option to stay in place: an image, which stands in the order of
the text, or a name of other options, "A and B", "none of the above"."""


def shuffled(sample: Sample) -> Sample:
  """Returns the recipe for problems whose options are shuffled.

  The order is that of the run's seed, the problem and the round: a resumed run
  asks the same. The group holds the problem as it was asked.
  """

  async def sampled(world: World, problem: Problem) -> Group:
    return await sample(world, reordered(problem, world.chance(problem, ())))

  return sampled


def reordered(problem: Problem, seed: int) -> Problem:
  """Returns a problem with its options in the order of a seed.

  Answers that name one option become its new letter. A problem that is no
  choice stays as it is, as does one with an option that has to stay in place.
  """
  n = len(problem.choices)
  is_choice = problem.answer_type in ("choice", "auto")
  if n < 2 or not is_choice or any(map(_FIXED.search, problem.choices)):
    return problem
  order = np.random.default_rng(seed).permutation(n).tolist()
  return dataclasses.replace(
    problem,
    choices=tuple(problem.choices[i] for i in order),
    answer=_moved(problem.answer, problem.choices, order),
    accepted=tuple(
      _moved(answer, problem.choices, order) for answer in problem.accepted
    ),
  )


def _moved(answer: str, choices: tuple[str, ...], order: list[int]) -> str:
  """Returns what an answer is called after `choices[order[j]]` became option j."""
  named = options_named(answer, choices)
  if len(named) == 1:
    return _letter(order.index(*named))
  letters = letter_set(answer)
  if named or not letters:
    return answer  # a text, which several options may have
  places = (ord(letter) - ord("A") for letter in letters)
  return ", ".join(sorted(_letter(order.index(i)) for i in places))


def _letter(index: int) -> str:
  return chr(ord("A") + index)
