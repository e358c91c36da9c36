"""WildVision: the answer that the user of the arena voted for.

Source:   WildVision/wildvision-battle on the Hub
Licence:  ODC-BY
Layout:   */test-*.parquet, images inside
Command:  python -m sophia_jax.datasets import --from=wildvision SRC DST
Gives:    examples to train on: first question, best response; ties and votes
          against both are left out, and so are the turns after the first
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record, Skip
from sophia_jax.datasets.importers.text import (
  as_text,
  conversation,
  place_images,
)

_SIDES = {"model_a": "conversation_a", "model_b": "conversation_b"}


def convert(row: Mapping[str, Any], at: Context) -> Record:
  side = _SIDES.get(str(row.get("winner")))
  if side is None:
    raise Skip("no winner")
  system, question, response, rest = conversation(row.get(side))
  if rest:
    at.notes["later turns left out"] += rest
  image = row.get("image")
  images = [at.image(image)] if image else []
  question = as_text(question) or ""
  return {
    "question": place_images([question], len(images))[0],
    "response": as_text(response),
    "system": system,
    "images": images,
  }


IMPORTER = Importer(
  source="wildvision",
  files=("**/*.parquet",),
  convert=convert,
  kinds=("examples",),
)
