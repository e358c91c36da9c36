"""MMMU-Pro, vision: the question and up to ten options are one picture.

Marked by the letter alone, since the options' texts are not in the data that is
shown. The official script also takes the text after the last "Answer:" if one
letter stands in it, which extraction does as well, and else guesses: here that
is wrong.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.evals.benchmarks.base import Benchmark
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.types import Problem


def pose(problem: Problem) -> Problem:
  return dataclasses.replace(problem, hint=CHOICE)


BENCHMARK = Benchmark(
  name="mmmu_pro",
  title="MMMU-Pro",
  importer="mmmu_pro",
  needs="MMMU/MMMU_Pro of the Hub: vision/test-*.parquet",
  sizes={1730: "vision"},
  pose=pose,
)
