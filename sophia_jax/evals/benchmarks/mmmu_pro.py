"""MMMU-Pro, vision: one image shows the question and up to ten options.

Graded by the letter alone, because the data has no text of the options. The
official script also reads the letter after the last "Answer:", as extraction
does here, and guesses where there is none; here such a response is wrong.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.evals.benchmarks.base import Benchmark
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.types import Problem


def pose(problem: Problem) -> Problem:
  """Sets the hint."""
  return dataclasses.replace(problem, hint=CHOICE)


BENCHMARK = Benchmark(
  name="mmmu_pro",
  title="MMMU-Pro",
  importer="mmmu_pro",
  needs="MMMU/MMMU_Pro of the Hub: vision/test-*.parquet",
  sizes={1730: "vision"},
  pose=pose,
)
