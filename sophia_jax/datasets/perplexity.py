"""Examples that models find hardest to say: the highest mean perplexity.

VLAA-Thinking (arXiv 2504.11468) keeps the chains of thought with the highest mean
perplexity under two models. `python -m launch.score` gives the log-probabilities.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.data.schema import check_records, numbered_lines, parse_line
from sophia_jax.files import write_jsonl
from sophia_jax.types import SophiaError


def hardest(
  examples: Path, scores: Sequence[Path], keep: int, out: Path
) -> tuple[int, int]:
  """Writes the `keep` examples of the highest mean perplexity, in their order.

  Args:
    examples: a JSONL file of examples.
    scores: outputs of `launch.score` for it, one of each model.
    keep: examples that stay; ties go to the first.
    out: the file that is written.

  Returns:
    Examples written, and examples there were.

  Raises:
    SophiaError: a line that is broken, an example without a score; names it.
  """
  tables = [perplexities(path) for path in scores]
  records = list(_records(examples))
  means = [_mean(record["id"], tables, scores) for record in records]
  order = sorted(range(len(records)), key=lambda i: -means[i])
  kept = [records[i] for i in sorted(order[:keep])]
  out.parent.mkdir(parents=True, exist_ok=True)
  rows = ({**r, **_moved(r, out.parent)} for r in kept)
  return write_jsonl(out, rows), len(records)


def perplexities(path: Path) -> dict[str, float]:
  """Returns exp(- mean log-probability) of each response of a file of scores.

  Raises:
    SophiaError: "FILE:LINE: what; remedy" of a line that is no score.
  """
  found = {}
  for number, line in numbered_lines(path):
    row, errors = parse_line(line)
    logps = (row or {}).get("logprobs")
    if not (row and isinstance(row.get("id"), str) and _are_numbers(logps)):
      what = errors[0] if errors else "no id and logprobs"
      raise SophiaError(
        f"{path}:{number}: {what}; write it with python -m launch.score"
      )
    assert logps is not None
    found[row["id"]] = math.exp(min(-sum(logps) / len(logps), 700.0))
  return found


def _are_numbers(values: Any) -> bool:
  return (
    isinstance(values, list)
    and bool(values)
    and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
  )


def _records(examples: Path) -> Iterator[dict[str, Any]]:
  for line, record, errors in check_records(examples, True, False):
    if errors:
      raise SophiaError(f"{examples}:{line}: {errors[0]}")
    yield record


def _mean(
  name: str, tables: Sequence[Mapping[str, float]], paths: Sequence[Path]
) -> float:
  for table, path in zip(tables, paths):
    if name not in table:
      raise SophiaError(
        f"{path}: no score of example {name!r}; score the same file again"
      )
  return sum(table[name] for table in tables) / len(tables)


def _moved(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """Returns the images of a record relative to another folder."""
  images = record.get("images")
  if not images:
    return {}
  return {"images": [os.path.relpath(image, folder) for image in images]}
