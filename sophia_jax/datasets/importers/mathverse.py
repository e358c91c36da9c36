"""MathVerse, vision only: the question is written inside the picture.

Source:   AI4Math/MathVerse on the Hub (github.com/ZrrSkywalker/MathVerse)
Licence:  MIT
Layout:   testmini.json with images.zip unpacked to images/, or
          testmini.parquet
Command:  python -m sophia_jax.datasets import --from=mathverse SRC DST
Gives:    problems, evaluation only: the 788 of version "Vision Only", which
          is what the paper evaluates; --from=mathverse_all gives all 3,940
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record, Skip
from sophia_jax.datasets.importers.text import (
  as_object,
  as_tags,
  as_text,
  place_images,
)

FILES = ("testmini.json", "**/testmini*.parquet", "**/*.parquet")


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if row.get("problem_version") != "Vision Only":
    raise Skip("another problem version")
  return convert_any(row, at)


def convert_any(row: Mapping[str, Any], at: Context) -> Record:
  """Converts a problem of any version; its hint is the benchmark's own."""
  query = as_text(row.get("query_cot")) or ""
  hint, found, question = query.partition("\nQuestion:")
  if not found:
    hint, question = "", query
  question = as_text(row.get("question")) or question.strip()
  choice = row.get("question_type") == "multi-choice"
  image = at.image(row.get("image"), "images", ".")
  details = as_object(row.get("metadata"))
  return {
    "id": as_text(row.get("sample_index")),
    "question": place_images([question], 1)[0],
    "hint": hint.strip() or None,
    "answer": as_text(row.get("answer")),
    "answer_type": "choice" if choice else "math",
    "images": [image],
    "tags": as_tags(
      subject=details.get("subject"), subfield=details.get("subfield")
    ),
  }


IMPORTER = Importer(source="mathverse", files=FILES, convert=convert)
