"""MathVerse, testmini, vision only: the image contains the question.

The hint is the benchmark's (`query_cot`). Choices are graded by their letter,
other answers as formulas. The official scripts extract and judge with an LLM, as
the paper does; there is no published rule.
"""

from __future__ import annotations

from sophia_jax.evals.benchmarks.base import Benchmark

BENCHMARK = Benchmark(
  name="mathverse",
  title="MathVerse",
  importer="mathverse",
  needs="AI4Math/MathVerse of the Hub: testmini.json with images/, or Parquet",
  sizes={788: "testmini, vision only"},
  judged=True,
  splits=("subject", "subfield"),
)
