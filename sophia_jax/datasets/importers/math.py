"""MATH: 7,500 competition problems in text, with solutions.

Source:   hendrycks/math (MATH.tar), or a Parquet copy of it on the Hub such
          as EleutherAI/hendrycks_math
Licence:  MIT
Layout:   train/SUBJECT/17.json, one problem a file, or
          SUBJECT/train-*.parquet; test/ is not read
Command:  python -m sophia_jax.datasets import --from=math SRC DST
Gives:    7,500 text problems to train on; the answer is the last \\boxed{} of
          the solution. With --as=examples the solutions as responses
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record, Skip
from sophia_jax.datasets.importers.text import as_text, boxed


def convert(row: Mapping[str, Any], at: Context) -> Record:
  # MATH-500 is a part of the test set and says so.
  if str(row.get("unique_id")).startswith("test/"):
    raise Skip("of the test set")
  solution = as_text(row.get("solution")) or ""
  return {
    "question": as_text(row.get("problem")) or "",
    "answer": boxed(solution),
    "answer_type": "math",
    "response": solution,
  }


IMPORTER = Importer(
  source="math",
  files=(
    "train/**/*.json",
    "*/train/**/*.json",
    "**/train-*.parquet",
    "train.jsonl",
  ),
  convert=convert,
  kinds=("problems", "examples"),
)
