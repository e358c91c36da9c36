"""MathV360K: 360K questions about 40K images from 24 data sets.

Source:   Zhiqiang007/MathV360K on the Hub (Math-LLaVA)
Licence:  none is stated; each of the 24 sets has its own
Layout:   train_samples_all_tuning.json beside data_images/ (from
          data_images.zip), with paths like TabMWP/images/17.png
Command:  python -m sophia_jax.datasets import --from=mathv360k SRC DST
Gives:    about 360K problems to train on: hint, question, choices, answer;
          with --as=examples the short answers as responses

The paper uses a tenth and a half of it as a public stand-in for its own data.
Remove overlaps with the benchmarks (sophia_jax.datasets.decontaminate) first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Broken, Context, Importer, Record
from sophia_jax.datasets.importers.text import (
  conversation,
  place_images,
  split_question,
  stated_answer,
)


def convert(row: Mapping[str, Any], at: Context) -> Record:
  _, asked, response, rest = conversation(row.get("conversations"))
  if not isinstance(asked, str) or not isinstance(response, str):
    raise Broken("a turn has no text; fix the row")
  if rest:
    at.notes["later turns left out"] += rest
  image = at.image(row.get("image"), "data_images", "images_data")
  hint, question, choices = split_question(asked.replace("<image>", ""))
  hint, question, *choices = place_images([hint, question, *choices], 1)
  return {
    "question": question,
    "hint": hint or None,
    "choices": choices,
    "answer": stated_answer(response),
    "answer_type": "choice" if choices else "auto",
    "response": response,
    "images": [image],
  }


IMPORTER = Importer(
  source="mathv360k",
  files=("train_samples_all_tuning.json",),
  convert=convert,
  kinds=("problems", "examples"),
)
