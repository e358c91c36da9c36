"""OlympiadBench: olympiad problems in mathematics and physics, two languages.

Source:   Hothan/OlympiadBench on the Hub (github.com/OpenBMB/OlympiadBench)
Licence:  MIT (GitHub), Apache-2.0 (Hub)
Layout:   OlympiadBench/OE_*/OE_*.parquet with the images inside, or the
          original data/OE_*.json with images/
Command:  python -m sophia_jax.datasets import --from=olympiadbench SRC DST
Gives:    problems, evaluation only: the open-ended ones (OE), with images and
          without; proofs (TP) are not read. Ids are
          olympiadbench/OE_MM_maths_en_COMP/2231

A physics problem's context comes before its question. Several final answers
are one, with commas. `error` becomes the tolerance.
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
  Skip,
)
from sophia_jax.datasets.importers.mmmu import numbered_images
from sophia_jax.datasets.importers.text import (
  as_list,
  as_tags,
  as_text,
  place_images,
)
from sophia_jax.types import quoted

_NAMED = re.compile(r"<img_(\d+)>")


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if str(row.get("question_type")).startswith("Theorem"):
    raise Skip("a proof")
  parts = (as_text(row.get("context")), as_text(row.get("question")))
  text = "\n".join(filter(None, parts))
  images = [at.image(image) for image in numbered_images(row)]
  if not images and (names := _NAMED.findall(text)):
    text = _NAMED.sub("<image>", text)
    images = [_named_image(name, at) for name in names]
  answers = as_list(row.get("final_answer"))
  several = row.get("is_multiple_answer") or len(answers) > 1
  return {
    "id": f"{at.row.file}/{as_text(row.get('id')) or at.row.number}",
    "question": place_images([text], len(images))[0],
    "answer": ", ".join(answers) or None,
    "answer_type": "olympiad",
    "tolerance": _tolerance(as_text(row.get("error"))),
    "images": images,
    "tags": _tags(row, at) | as_tags(answers="several" if several else None),
  }


def _tolerance(error: str | None) -> list[float]:
  """Parses "1e-1", or one for each answer: "1e34,,1e-3"; 0 for none."""
  try:
    each = [float(e) if e.strip() else 0.0 for e in (error or "").split(",")]
  except ValueError:
    raise Broken(f"error {quoted(error)} is no number; fix the row") from None
  return each if any(each) else []


def _tags(row: Mapping[str, Any], at: Context) -> dict[str, str]:
  """Reads the tags, most of them from the name: OE_MM_physics_zh_CEE."""
  _, shown, subject, language, contest, *_ = [
    *at.row.file.split("_"),
    *[""] * 5,
  ]
  return as_tags(
    subject=subject,
    language=language,
    images={"MM": "with images", "TO": "text only"}.get(shown),
    contest=contest,
    subfield=row.get("subfield"),
    form=row.get("answer_type"),
    unit=row.get("unit"),
  )


def _named_image(name: str, at: Context) -> str:
  return at.image(f"{name}.jpg", "images", "../images")


IMPORTER = Importer(
  source="olympiadbench",
  files=("**/OE_*.parquet", "**/OE_*.json"),
  convert=convert,
)
