"""SEED-Bench-R1: what to do next in a video, at three levels of generalisation.

Source:   TencentARC/SEED-Bench-R1 on the Hub, videos of Epic-Kitchens and Ego4D
Licence:  CC BY-NC 4.0 (Epic-Kitchens), Ego4D's
Layout:   annotations/validation_L1.jsonl to validation_L3.jsonl beside images/
          and videos/, each with a folder for each source
Command:  python -m sophia_jax.datasets import --from=seed_bench_r1 SRC DST
Gives:    problems, evaluation only: 2,432 of L1 (in distribution), 923 of L2
          (other places), 1,321 of L3 (other tasks); tag "level"

A question shows up to 16 frames of the video so far and the current view.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
)
from sophia_jax.datasets.importers.text import as_tags, as_text
from sophia_jax.videos.clips import COUNT

_LETTERS = "ABCD"


def convert(row: Mapping[str, Any], at: Context) -> Record:
  choices = [
    as_text(row.get(f"choice_{letter}")) or "" for letter in _LETTERS.lower()
  ]
  answer = (as_text(row.get("golden_choice_idx")) or "").strip()
  if not re.fullmatch(f"[{_LETTERS}]", answer):
    raise Broken("golden_choice_idx is no letter from A to D; fix the row")
  level = re.search("L[1-3]", at.row.file)
  name = as_text(row.get("sample_id")) or str(at.row.number)
  return {
    **asked(row, at),
    "id": f"{level[0]}-{name}" if level else name,
    "choices": choices,
    "answer": answer,
    "answer_type": "choice",
    "tags": as_tags(
      level=level and level[0],
      domain=row.get("domain"),
      video_source=row.get("video_source"),
    ),
  }


def asked(row: Mapping[str, Any], at: Context) -> Record:
  """Returns the question with its frames and the current view as images."""
  source = as_text(row.get("video_source")) or ""
  images = []
  # Where nothing has been done yet there is no video.
  if row.get("task_progress_metadata"):
    video = f"{source}/{as_text(row.get('video_basename'))}"
    images = at.frames(video, COUNT, "videos", "../videos")
  view = f"{source}/{as_text(row.get('current_observation_basename'))}"
  images.append(at.image(view, "images", "../images"))
  frames = (f"Frame-{i + 1}: <image>\n" for i in range(len(images) - 1))
  question = as_text(row.get("question")) or ""
  return {
    "images": images,
    "question": "".join((*frames, "Current view: <image>\n", question)),
  }


IMPORTER = Importer(
  source="seed_bench_r1",
  files=("annotations/validation_L*.jsonl", "validation_L*.jsonl"),
  convert=convert,
)
