"""MV-MATH: school problems that show several images.

Source:   github.com/eternal8080/MV-MATH, or PeijieWang/MV-MATH on the Hub
Licence:  MIT
Layout:   data/MV-MATH.json with images/ (the images are on the Hub)
Command:  python -m sophia_jax.datasets import --from=mv_math SRC DST
Gives:    problems, evaluation only: 2,009 (1,109 with choices, 800 free-form,
          100 in several steps)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record
from sophia_jax.datasets.importers.text import (
  as_list,
  as_tags,
  as_text,
  place_images,
)


def convert(row: Mapping[str, Any], at: Context) -> Record:
  answer = (as_text(row.get("answer")) or "").strip()
  letter = re.fullmatch("[A-Z]", answer) is not None
  folders = ("images", "../images", "MV-MATH/images", ".")
  images = [
    at.image(image, *folders) for image in as_list(row.get("input_image"))
  ]
  question = as_text(row.get("question")) or ""
  return {
    "id": as_text(row.get("problem_id")),
    "question": place_images([question], len(images))[0],
    "answer": answer,
    "answer_type": "choice" if letter else "auto",
    "images": images,
    "tags": as_tags(
      type=row.get("answer_type"),
      subject=row.get("subject"),
      difficulty=row.get("difficulty"),
      grade=row.get("grade"),
    ),
  }


IMPORTER = Importer(
  source="mv_math",
  files=("MV-MATH.json", "data/MV-MATH.json", "*.json", "**/*.parquet"),
  convert=convert,
)
