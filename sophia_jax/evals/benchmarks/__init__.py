"""The eight benchmarks of the paper (App. C), one small module each."""

from __future__ import annotations

from sophia_jax.evals.benchmarks import (
  dynamath,
  mathverse,
  mathvision,
  mathvista,
  mmmu,
  mmmu_pro,
  mv_math,
  olympiadbench,
)
from sophia_jax.evals.benchmarks.base import Benchmark
from sophia_jax.types import SophiaError

BENCHMARKS = {
  benchmark.name: benchmark
  for benchmark in (
    mmmu.BENCHMARK,
    mmmu_pro.BENCHMARK,
    mathvista.BENCHMARK,
    mathverse.BENCHMARK,
    dynamath.BENCHMARK,
    mathvision.BENCHMARK,
    mathvision.TESTMINI,
    mv_math.BENCHMARK,
    olympiadbench.BENCHMARK,
  )
}


def find_benchmark(name: str) -> Benchmark:
  """Returns a benchmark by its name; "MV-MATH" is "mv_math".

  Raises:
    SophiaError: there is no such benchmark; all are listed.
  """
  key = name.strip().lower().replace("-", "_")
  if key not in BENCHMARKS:
    raise SophiaError(
      f"{name!r} is no benchmark; there are {', '.join(BENCHMARKS)}"
    )
  return BENCHMARKS[key]
