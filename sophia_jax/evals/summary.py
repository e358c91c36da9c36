"""The summary of an evaluation: W/evals/NAME.json."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.evals.benchmarks.base import Benchmark, Grade, Scored
from sophia_jax.evals.rates import Rate, grouped, rate
from sophia_jax.evals.responses import Responses
from sophia_jax.evals.stats import pass_at_k
from sophia_jax.files import replacing
from sophia_jax.types import Problem, Status

PLAIN = Benchmark(
  name="",
  title="",
  importer="",
  needs="",
  sizes={},
  splits=(),
)
"""The benchmark of a plain problems file."""


def summarise(scored: Sequence[Scored], benchmark: Benchmark) -> dict[str, Any]:
  """Computes pass@1 with its interval, whole and split, pass@k, and statuses."""
  samples = len(scored[0].grades) if scored else 0
  statuses = collections.Counter(m.status for s in scored for m in s.grades)
  ks = [1 << i for i in range(samples.bit_length())]
  return {
    "pass_at_1": _score(scored, benchmark, _mean),
    "by_source": _split(scored, benchmark, lambda p: p.source),
    "status": {status.value: statuses[status] for status in Status},
    "samples": samples,
    "pass_at_k": {
      str(k): _score(scored, benchmark, functools.partial(_at_k, k)) for k in ks
    },
    "splits": {
      tag: _split(scored, benchmark, functools.partial(_tag, tag))
      for tag in benchmark.splits or _tags(scored, benchmark)
    },
    "metrics": benchmark.metrics(scored),
  }


def _tags(scored: Iterable[Scored], benchmark: Benchmark) -> list[str]:
  """Returns the tags of a plain problems file, by which it is split."""
  if benchmark.name:
    return []
  return sorted({tag for s in scored for tag in s.problem.tags})


def _tag(name: str, problem: Problem) -> str:
  return problem.tags.get(name, "")


def _mean(scored: Scored) -> float:
  return scored.score


def _at_k(k: int, scored: Scored) -> float:
  return pass_at_k(len(scored.grades), sum(m.right for m in scored.grades), k)


def _score(
  scored: Iterable[Scored],
  benchmark: Benchmark,
  value: Callable[[Scored], float],
) -> Rate:
  units = grouped(scored, lambda s: benchmark.unit(s.problem)).values()
  return rate([[value(s) for s in unit] for unit in units])


def _split(
  scored: Iterable[Scored],
  benchmark: Benchmark,
  tag: Callable[[Problem], str],
) -> dict[str, Rate]:
  groups = grouped(scored, lambda s: tag(s.problem))
  return {
    name: _score(group, benchmark, _mean)
    for name, group in sorted(groups.items())
  }


# ----------------------------------------------------------------------- writing
def row(problem: Problem, sample: int, grade: Grade) -> dict[str, Any]:
  """Returns a verdict as it is written, without the response."""
  steps = {"steps": [s.value for s in grade.steps]} if grade.steps else {}
  return {
    "id": problem.id,
    "sample": sample,
    "source": problem.source,
    "answer": problem.answer,
    "extracted": grade.extracted,
    "status": grade.status.value,
    **steps,
  }


def rows(
  scored: Iterable[Scored], responses: Responses
) -> Iterable[dict[str, Any]]:
  """Yields every response with its verdict, read from the disk one at a time."""
  for item in scored:
    for sample, grade in enumerate(item.grades):
      response = responses.read(item.problem.id, sample)
      yield {
        **row(item.problem, sample, grade),
        "response": response.text,
        "tokens": response.tokens,
        "finish": response.finish.value,
      }


def write(
  path: Path, summary: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> None:
  """Writes a summary with every response, whole or not at all.

  One response a line, one in memory at a time.
  """
  head = json.dumps(summary, indent=1).removesuffix("\n}")
  with replacing(path) as file:
    file.write(f'{head},\n "responses": [')
    for number, values in enumerate(rows):
      file.write(",\n  " if number else "\n  ")
      file.write(json.dumps(values))
    file.write("\n ]\n}\n")
