"""RLAIF-V: the accepted answers of 83K preference pairs.

Source:   openbmb/RLAIF-V-Dataset on the Hub
Licence:  CC BY-NC 4.0
Layout:   RLAIF-V-Dataset_000.parquet ... _013.parquet, images inside
Command:  python -m sophia_jax.datasets import --from=rlaif_v SRC DST
Gives:    examples to train on (`chosen` as the response), images beside DST
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record
from sophia_jax.datasets.importers.text import as_text, place_images


def convert(row: Mapping[str, Any], at: Context) -> Record:
  question = as_text(row.get("question")) or ""
  return {
    "question": place_images([question], 1)[0],
    "response": as_text(row.get("chosen")),
    "images": [at.image(row.get("image"))],
  }


IMPORTER = Importer(
  source="rlaif_v",
  files=("RLAIF-V-Dataset_*.parquet", "**/*.parquet"),
  convert=convert,
  kinds=("examples",),
)
