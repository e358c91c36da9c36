"""MathVista: visual mathematics drawn from 31 data sets.

Source:   github.com/lupantech/MathVista, or AI4Math/MathVista on the Hub
Licence:  CC BY-SA 4.0, for testing only; the images belong to their authors
Layout:   data/testmini.json (an object of problems by number) with images/
          from images.zip, or the Hub's data/testmini-*.parquet, which also
          holds each problem's own hint
Command:  python -m sophia_jax.datasets import --from=mathvista SRC DST
Gives:    problems, evaluation only: 1,000 (testmini); the test set's answers
          are not public, so its rows are left out
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record
from sophia_jax.datasets.importers.text import (
  as_list,
  as_object,
  as_tags,
  as_text,
  place_images,
)

_TYPES = {"integer": "number", "float": "number", "list": "list"}


def convert(row: Mapping[str, Any], at: Context) -> Record:
  question = as_text(row.get("question")) or ""
  if row.get("unit"):
    question += f" (Unit: {row['unit']})"
  hint, *asked = (as_text(row.get("query")) or "").split("\nQuestion:", 1)
  choices = as_list(row.get("choices"))
  image = row.get("decoded_image") or row.get("image")
  question, *choices = place_images([question, *choices], 1)
  details = as_object(row.get("metadata"))
  kind = _TYPES.get(str(row.get("answer_type")), "auto")
  return {
    "id": as_text(row.get("pid")) or at.row.key or at.row.number,
    "question": question,
    "hint": hint.strip() if asked else None,
    "choices": choices,
    "answer": as_text(row.get("answer")),
    "answer_type": "choice" if choices else kind,
    "images": [at.image(image, ".", "data")],
    "tags": as_tags(
      task=details.get("task"),
      context=details.get("context"),
      grade=details.get("grade"),
      category=details.get("category"),
      language=details.get("language"),
      decimals=row.get("precision"),
    ),
  }


IMPORTER = Importer(
  source="mathvista",
  files=(
    "testmini.json",
    "data/testmini.json",
    "**/testmini-*.parquet",
    "**/*.parquet",
  ),
  convert=convert,
)
