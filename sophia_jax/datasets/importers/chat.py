r"""Chat lists: OpenAI's and ms-swift's `messages`, ShareGPT's and LLaVA's
`conversations`, in JSONL, a JSON list, Parquet or Arrow.

Source:   yours
Layout:   rows {"messages": [{"role": "user", "content": ...}, ...]} or
          {"conversations": [{"from": "human", "value": ...}, ...]} with the
          pictures as `images` or `image`: one or a list of paths, bytes, base64
          or {"bytes", "path"}; or as parts of the question. `system`, `id`, and
          `solution`, `answer` or `ground_truth` beside them are read
Command:  python -m sophia_jax.datasets import --from=chat SRC DST
Gives:    examples, the first exchange of each chat (later turns are left out and
          counted); `--as=problems`: problems, with the answer that stands beside
          the chat or in the response's last \boxed{}

`--from=llava` and `--from=ms_swift` are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
  Skip,
)
from sophia_jax.datasets.importers.files import ANY_KIND
from sophia_jax.datasets.importers.text import (
  as_text,
  boxed,
  parts_of,
  place_images,
  plain_gold,
  several,
)

TURNS = ("messages", "conversations", "conversation")
GOLDS = ("solution", "answer", "ground_truth")
SPEAKERS = {"human": "user", "gpt": "assistant"}


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if row.get("video") or row.get("videos"):
    raise Skip("video")
  said, shown = _said(row)
  system = _text(row.get("system"))
  if said and said[0][0] == "system":
    system = said.pop(0)[1] or system
  if not said or said[0][0] != "user":
    raise Broken("the chat does not begin with the user; fix the row")
  response = ""
  if len(said) > 1 and said[1][0] == "assistant":
    response = said[1][1]
  if len(said) > 2:
    at.notes["later turns left out"] += len(said) - 2
  images = next(
    (several(row[k]) for k in ("images", "image") if row.get(k)), shown
  )
  gold = next((_text(row[k]) for k in GOLDS if row.get(k) is not None), None)
  found = [at.image(image) for image in images]
  return {
    "id": row.get("id") or at.row.number,
    "question": place_images([said[0][1]], len(found))[0],
    "images": found,
    "system": system,
    "response": response,
    "answer": plain_gold(gold or boxed(response)),
  }


def _said(row: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Any]]:
  """Returns who said what, and the images of the first question.

  Raises:
    Broken: the row holds no chat, or an image in another turn.
  """
  turns = next((row[key] for key in TURNS if key in row), None)
  if not isinstance(turns, list) or not turns:
    raise Broken(f"holds no chat ({', '.join(TURNS)}); use --from=columns")
  said: list[tuple[str, str]] = []
  shown: list[Any] = []
  for turn in turns:
    if not isinstance(turn, Mapping):
      raise Broken("a turn is no object; fix the row")
    who = str(turn.get("role") or turn.get("from"))
    content, images = parts_of(turn.get("content", turn.get("value")))
    if images and any(speaker != "system" for speaker, _ in said):
      if len(said) < 2:
        raise Broken("an image is not in the question; fix the row")
      break  # of a later turn, which is left out
    shown += images
    said.append((SPEAKERS.get(who, who), as_text(content) or ""))
  return said, shown


def _text(value: Any) -> str | None:
  """Returns a text; a list of one is that one."""
  if isinstance(value, list) and len(value) == 1:
    (value,) = value
  return as_text(value)


IMPORTER = Importer(
  source="",
  files=ANY_KIND,
  convert=convert,
  kinds=("examples", "problems"),
)
