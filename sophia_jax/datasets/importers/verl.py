"""verl's tables for reinforcement learning.

Source:   yours, as verl's preprocessing scripts write it
Layout:   Parquet or JSONL rows {"prompt": [{"role": "user", "content": ...}],
          "images": [{"bytes": ...}], "reward_model": {"ground_truth": ...},
          "data_source": ..., "extra_info": {"split", "index", ...}}
Command:  python -m sophia_jax.datasets import --from=verl SRC DST
Gives:    problems; a system turn is left out and counted

EasyR1's rows {"problem", "answer", "images"} need no map: --from=columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
)
from sophia_jax.datasets.importers.files import ANY_KIND
from sophia_jax.datasets.importers.text import (
  as_object,
  as_text,
  parts_of,
  place_images,
  plain_gold,
  several,
)


def convert(row: Mapping[str, Any], at: Context) -> Record:
  turns = row.get("prompt")
  if not isinstance(turns, list) or not all(
    isinstance(turn, Mapping) for turn in turns
  ):
    raise Broken("prompt is no list of turns; use --from=columns")
  asked = [turn for turn in turns if turn.get("role") == "user"]
  if len(asked) != 1:
    raise Broken(f"prompt has {len(asked)} turns of the user; give one")
  if len(turns) > 1:
    at.notes["system turns left out"] += 1
  question, shown = parts_of(asked[0].get("content"))
  images = [at.image(one) for one in several(row.get("images")) or shown]
  gold = as_object(row.get("reward_model")).get("ground_truth")
  if isinstance(gold, list) and len(gold) == 1:
    (gold,) = gold
  info = as_object(row.get("extra_info"))
  index = as_text(info.get("index"))
  return {
    "id": f"{as_text(info.get('split')) or 'row'}/{index}" if index else None,
    "question": place_images([as_text(question) or ""], len(images))[0],
    "images": images,
    "answer": plain_gold(as_text(gold)),
    "tags": {"data_source": as_text(row.get("data_source")) or ""},
  }


IMPORTER = Importer(source="", files=ANY_KIND, convert=convert)
