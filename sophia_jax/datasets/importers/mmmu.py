"""MMMU: college questions from thirty subjects.

Source:   MMMU/MMMU on the Hub
Licence:  Apache-2.0; the images belong to their authors
Layout:   SUBJECT/validation-*.parquet, one folder a subject
Command:  python -m sophia_jax.datasets import --from=mmmu SRC DST
Gives:    problems, evaluation only: 900 (validation); the test set's answers
          are not public, so its rows are left out

An open question's accepted answers are all kept: the first is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record, Skip
from sophia_jax.datasets.importers.text import (
  accepted_answers,
  as_list,
  as_tags,
  as_text,
  place_images,
)

_IMAGE = re.compile(r"image_(\d+)")
_NAME = re.compile(r"[a-z]+_(.+)_\d+")


def numbered_images(row: Mapping[str, Any]) -> list[Any]:
  """Returns image_1, image_2, ... as far as they are there."""
  found = {
    int(match[1]): row[key]
    for key in row
    if (match := _IMAGE.fullmatch(key)) and row[key]
  }
  return [found[number] for number in sorted(found)]


def subject_of(name: str | None) -> str | None:
  """Returns "Art Theory" for "validation_Art_Theory_12"."""
  match = _NAME.fullmatch(name or "")
  return match[1].replace("_", " ") if match else None


def convert(row: Mapping[str, Any], at: Context) -> Record:
  answer = as_text(row.get("answer"))
  if answer == "?":
    raise Skip("answer not public")
  choices = as_list(row.get("options"))
  accepted: list[str] = []
  if not choices and answer:
    answer, *accepted = accepted_answers(answer) or [""]
  images = [at.image(image) for image in numbered_images(row)]
  texts = [as_text(row.get("question")) or "", *choices]
  question, *choices = place_images(texts, len(images))
  return {
    "id": as_text(row.get("id")),
    "question": question,
    "choices": choices,
    "answer": answer,
    "accepted": accepted,
    "answer_type": "choice" if choices else "auto",
    "images": images,
    "tags": as_tags(
      subject=row.get("subject") or subject_of(as_text(row.get("id"))),
      difficulty=row.get("topic_difficulty"),
      kind=row.get("question_type"),
    ),
  }


IMPORTER = Importer(
  source="mmmu",
  files=("**/validation-*.parquet", "**/*.parquet"),
  convert=convert,
)
