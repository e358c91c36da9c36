"""SEED-Bench-R1's training questions: what to do next in a video.

Source:   TencentARC/SEED-Bench-R1 on the Hub, videos of Epic-Kitchens
Licence:  CC BY-NC 4.0
Layout:   annotations/training_6k.jsonl, or another file that is named, beside
          images/ and videos/, each with a folder for each source
Command:  python -m sophia_jax.datasets import --from=seed_bench_r1_train SRC DST
Gives:    problems: 6,000, with the answer among three of its wrong answers

Which three, and the place of the answer, are drawn from the row's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
)
from sophia_jax.datasets.importers.seed_bench_r1 import asked
from sophia_jax.datasets.importers.text import as_list, as_tags, as_text

WRONG = 3


def convert(row: Mapping[str, Any], at: Context) -> Record:
  answer = as_text(row.get("answer")) or ""
  others = dict.fromkeys(as_list(row.get("negative_answers")))
  wrong = [text for text in others if text.strip() != answer.strip()]
  if len(wrong) < WRONG:
    raise Broken(f"{len(wrong)} wrong answers; give {WRONG} or more")
  rng = np.random.default_rng([1, at.row.number])
  drawn = rng.permutation(len(wrong))[:WRONG].tolist()
  place = int(rng.integers(WRONG + 1))
  choices = [wrong[i] for i in drawn]
  choices.insert(place, answer)
  return {
    **asked(row, at),
    "id": as_text(row.get("sample_id")),
    "choices": choices,
    "answer": chr(ord("A") + place),
    "answer_type": "choice",
    "tags": as_tags(video_source=row.get("video_source")),
  }


IMPORTER = Importer(
  source="seed_bench_r1_train",
  files=(
    "annotations/training_6k.jsonl",
    "annotations/training*.jsonl",
    "training*.jsonl",
  ),
  convert=convert,
)
