"""NuminaMath: 860K problems in text, with solutions.

Source:   AI-MO/NuminaMath-CoT or AI-MO/NuminaMath-1.5 on the Hub
Licence:  Apache-2.0
Layout:   data/train-*.parquet; test-*.parquet is not read
Command:  python -m sophia_jax.datasets import --from=numinamath SRC DST
Gives:    text problems to train on, with the column `answer` (1.5) or the last
          \\boxed{} of the solution (CoT) as the answer; what has none (proofs)
          is left out. With --as=examples the solutions as responses.
          AIME 2024 is recognised by its text and left out
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record, Skip
from sophia_jax.datasets.importers.text import as_text, boxed

_NONE = ("proof", "notfound", "not found")


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if "No" in (row.get("problem_is_valid"), row.get("solution_is_valid")):
    raise Skip("marked as not valid")
  solution = as_text(row.get("solution")) or ""
  answer = as_text(row.get("answer")) or boxed(solution)
  if answer and answer.strip().lower() in _NONE:
    answer = None
  return {
    "question": as_text(row.get("problem")) or "",
    "answer": answer,
    "answer_type": "math",
    "response": solution,
  }


IMPORTER = Importer(
  source="numinamath",
  files=("**/train-*.parquet", "**/train*.jsonl"),
  convert=convert,
  kinds=("problems", "examples"),
)
