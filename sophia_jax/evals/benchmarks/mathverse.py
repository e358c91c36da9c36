"""MathVerse, testmini, vision only: the question is written in the picture.

The hint is the benchmark's own (`query_cot`). A choice is marked by its letter,
the rest as a formula. The official scripts have an LLM extract and judge, as
the paper has; there is no published rule.
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
