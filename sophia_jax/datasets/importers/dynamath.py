"""DynaMath: 501 questions, each in ten variants made by a program.

Source:   github.com/DynaMath/DynaMath, "samples and result/10trials" (or
          dataset/ for one variant; DynaMath/DynaMath_Sample on the Hub as
          Parquet)
Licence:  MIT by the README's badge; the repository has no licence file
Layout:   trial1/ ... trial10/, each a dataset.json (an object of problems by
          number) with image/; or a folder with one of them
Command:  python -m sophia_jax.datasets import --from=dynamath SRC DST
Gives:    problems, evaluation only: 5,010 with ids dynamath/trial3/17, or 501
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record
from sophia_jax.datasets.importers.text import (
  as_tags,
  as_text,
  place_images,
)

_TYPES = {
  "float": "number",
  "int": "number",
  "multiple choice": "choice",
  "text": "string",
}


def convert(row: Mapping[str, Any], at: Context) -> Record:
  # An object of problems is one trial's; Parquet has a file for each.
  variant = at.row.folder.name if at.row.key else at.row.file
  name = as_text(row.get("id")) or at.row.key
  image = row.get("decoded_image") or row.get("image")
  question = as_text(row.get("question")) or ""
  return {
    "id": f"{variant}/{name}",
    "question": place_images([question], 1)[0],
    "answer": as_text(row.get("answer", row.get("ground_truth"))),
    "answer_type": _TYPES.get(str(row.get("answer_type")), "auto"),
    "images": [at.image(image)],
    "tags": as_tags(subject=row.get("subject"), level=row.get("level")),
  }


IMPORTER = Importer(
  source="dynamath",
  files=("dataset.json", "*/dataset.json", "**/dataset.json", "**/*.parquet"),
  convert=convert,
)
