"""MMMU-Pro: MMMU made harder to guess; in `vision` the question is a picture.

Source:   MMMU/MMMU_Pro on the Hub
Licence:  Apache-2.0; the images belong to their authors
Layout:   vision/test-*.parquet; "standard (10 options)"/test-*.parquet and
          "standard (4 options)"/... are read where they are SRC
Command:  python -m sophia_jax.datasets import --from=mmmu_pro SRC DST
Gives:    problems, evaluation only: 1,730 a configuration

The picture of `vision` shows the options, so the problem does not repeat them
and the answer is a letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record
from sophia_jax.datasets.importers.mmmu import convert as convert_standard
from sophia_jax.datasets.importers.text import as_tags, as_text

_ASK = "Answer the multiple-choice question in the image."


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if row.get("question"):
    return convert_standard(row, at)
  return {
    "id": as_text(row.get("id")),
    "question": _ASK,
    "answer": as_text(row.get("answer")),
    "answer_type": "choice",
    "images": [at.image(row.get("image"))],
    "tags": as_tags(
      subject=(as_text(row.get("subject")) or "").replace("_", " ")
    ),
  }


IMPORTER = Importer(
  source="mmmu_pro",
  files=("vision/*.parquet", "*.parquet"),
  convert=convert,
)
