"""Any data set of the Hub, and any Parquet, JSONL, JSON or CSV, by columns.

Source:   yours; a downloaded snapshot, or what `datasets` saved (*.arrow)
Layout:   one file, or a folder of them; of several kinds the first in the
          order of `files` below is read
Command:  python -m sophia_jax.datasets import --from=columns \\
            --columns=question=problem,answer=meta.answer,images=image SRC DST
Gives:    problems, or examples if `response` is mapped

Keys are those of a problem or an example; a column may be a path such as
messages.1.content. Images may be paths, bytes or {"bytes", "path"}, one or a
list. The source is the name of SRC: a folder called `mathvista` gives
evaluation problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.config import nearest
from sophia_jax.datasets.importers.base import Broken, Context, Importer, Record
from sophia_jax.datasets.importers.text import as_list, as_text, place_images
from sophia_jax.types import SophiaError


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if not at.columns:
    raise SophiaError(
      "--from=columns needs --columns; for example --columns=question="
      f"problem,answer=answer. There are: {', '.join(map(str, row))}"
    )
  found = {key: _lookup(row, path) for key, path in at.columns.items()}
  record: Record = {}
  for key, value in found.items():
    if key == "images":
      record[key] = [at.image(item) for item in _several(value)]
    elif key == "choices":
      record[key] = as_list(value)
    elif key == "weight" and isinstance(value, int | float):
      record[key] = value
    else:
      record[key] = as_text(value)
  texts = [record.get("question") or "", *record.get("choices", [])]
  placed = place_images(texts, len(record.get("images", [])))
  return {**record, "question": placed[0], "choices": placed[1:]}


def _lookup(row: Any, path: str) -> Any:
  value = row
  # A column's own name may hold dots.
  for part in [path] if path in row else path.split("."):
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
      value = value[int(part)]
    elif isinstance(value, Mapping) and part in value:
      value = value[part]
    else:
      raise Broken(f"has no column {path!r}; {nearest(path, map(str, row))}")
  return value


def _several(value: Any) -> list[Any]:
  if value is None or value == "":
    return []
  return value if isinstance(value, list) else [value]


IMPORTER = Importer(
  source="",
  files=("**/*.parquet", "**/*.arrow", "**/*.jsonl", "**/*.csv", "**/*.json"),
  convert=convert,
  kinds=("problems", "examples"),
)
