"""MathVision (MATH-V): 3,040 competition problems with an image.

Source:   github.com/mathllm/MATH-V, or MathLLMs/MathVision on the Hub as
          Parquet
Licence:  MIT
Layout:   data/test.jsonl and images/, or test.jsonl beside images/; testmini,
          a part of it, is read if there is no test
Command:  python -m sophia_jax.datasets import --from=mathvision SRC DST
Gives:    problems, evaluation only: 3,040 (test), 1,532 of them with choices,
          or 304 (testmini)

One answer of the test set has a form feed where \\frac belongs; it is corrected.
Options that are only letters or marks of images stand in the picture: they are
left out, and the answer is a letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record
from sophia_jax.datasets.importers.text import (
  as_list,
  as_tags,
  as_text,
  letters,
  place_images,
)


def convert(row: Mapping[str, Any], at: Context) -> Record:
  options = as_list(row.get("options"))
  image = row.get("decoded_image") or row.get("image")
  texts = [as_text(row.get("question")) or "", *options]
  question, *choices = place_images(texts, 1)
  if choices == letters(len(choices)) or not any(choices):
    choices = []
  return {
    "id": as_text(row.get("id")),
    "question": question,
    "choices": [choice or "(in the image)" for choice in choices],
    "answer": (as_text(row.get("answer")) or "").replace("\x0crac", r"\frac"),
    "answer_type": "choice" if options else "math",
    "images": [at.image(image, ".", "..")],
    "tags": as_tags(subject=row.get("subject"), level=row.get("level")),
  }


IMPORTER = Importer(
  source="mathvision",
  files=(
    "test.jsonl",
    "data/test.jsonl",
    "testmini.jsonl",
    "data/testmini.jsonl",
    "**/test-*.parquet",
    "**/*.parquet",
  ),
  convert=convert,
)
