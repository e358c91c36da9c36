"""Any data set of the Hub, and any Parquet, JSONL, JSON, CSV or TSV, by columns.

Source:   yours; a downloaded snapshot, or what `datasets` saved (*.arrow)
Layout:   one file, or a folder of them; of several kinds the first in the
          order of `files.SUFFIXES` is read, of several splits `train`
          (--split=NAME for another)
Command:  python -m sophia_jax.datasets import --from=columns \\
            --columns=question=problem,answer=meta.answer,images=image SRC DST
Gives:    problems, or examples if `response` is mapped

Keys are those of a problem or an example; a column may be a path: a.0.b is b in
the first item of the list a. A text in single quotes is a constant:
difficulty='hard'. `question` (or `problem`), `images` (or `image`), `answer` and
`choices` need no map where the columns have these names, as EasyR1's have.
Images may be paths, bytes, base64 or {"bytes", "path"}, one or a list. A
question may be a list of parts, text and images. The source is the name of SRC:
a folder called `mathvista` gives evaluation problems.

Beside choices a number may be an option's text or its place: `answer` takes it
only where all readings agree. Three further keys say what a column holds:

  answer_text    an option's text
  answer_index   its place, counted from 0
  answer_number  its place, counted from 1

`accepted` takes a list of answers of which each is right alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sophia_jax.config import nearest
from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
  Skip,
)
from sophia_jax.datasets.importers.files import ANY_KIND, canonical, split_of
from sophia_jax.datasets.importers.text import (
  accepted_answers,
  as_list,
  as_text,
  parts_of,
  place_images,
  plain_gold,
  quoted_list,
  several,
)
from sophia_jax.types import SophiaError, quoted

# The length keeps int() cheap.
_WHOLE = re.compile(r"\d{1,6}")


ANSWERS = ("answer", "answer_text", "answer_index", "answer_number")
"""Keys of a column map that give the answer."""


def convert(row: Mapping[str, Any], at: Context) -> Record:
  columns = _with_same_names(row, at.columns)
  if "question" not in columns:
    raise SophiaError(
      "--from=columns needs --columns; for example --columns=question="
      f"task,answer=gold. There are: {', '.join(map(str, row))}"
    )
  _check_split(row, at)
  found = {key: _lookup(row, path) for key, path in columns.items()}
  record: Record = {}
  question, shown = parts_of(found.pop("question", None))
  images = several(found.pop("images", None)) or shown
  record["images"] = [at.image(item) for item in images]
  choices = as_list(found.pop("choices", None))
  accepted = accepted_answers(found.pop("accepted", None))
  for key in ANSWERS:
    if key in found:
      record["answer"] = _answer(key, found.pop(key), choices)
  if accepted:
    record.setdefault("answer", accepted[0])
    record["accepted"] = [one for one in accepted if one != record["answer"]]
  for key, value in found.items():
    number = key == "weight" and isinstance(value, int | float)
    record[key] = value if number else _plain_text(key, value)
  texts = [as_text(question) or "", *choices]
  placed = place_images(texts, len(record["images"]))
  return {**record, "question": placed[0], "choices": placed[1:]}


def _with_same_names(
  row: Mapping[str, Any], columns: Mapping[str, str]
) -> dict[str, str]:
  """Returns the column map, completed by the columns that have a key's name."""
  given = dict(columns)
  wanted: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem"),
    "images": ("images", "image"),
  }
  if not {*ANSWERS, "accepted", "response"} & given.keys():
    wanted |= {"answer": ("answer",), "choices": ("choices",)}
  if not columns:
    wanted["id"] = ("id",)
  for key, names in wanted.items():
    same = next((name for name in names if name in row), None)
    if same is not None:
      given.setdefault(key, same)
  return given


def _plain_text(key: str, value: Any) -> str | None:
  text, images = parts_of(value)
  if images:
    raise Broken(f"{key} holds an image; only a question may")
  return as_text(text)


def _check_split(row: Mapping[str, Any], at: Context) -> None:
  """Leaves out rows whose column `split` is not the one asked for.

  Without --split rows of all splits are read, and counted by split.

  Raises:
    Skip: the row is of another split.
    SophiaError: neither the file's name nor the row says its split.
  """
  said = row.get("split")
  split = canonical(said) if isinstance(said, str) else ""
  if not split or "split" in at.columns.values():
    file = at.row.folder / at.row.file
    if at.split is not None and not split_of(file.relative_to(at.root)):
      raise SophiaError(f"--split: {at.row.place} has no column split")
    return
  if at.split is None:
    if split != "train":
      at.notes[f"rows of the split {split} read, too (--split=train)"] += 1
  elif split != (canonical(at.split) or at.split):
    raise Skip(f"of the split {split}")


# ---------------------------------------------------------------------- answers
def _answer(key: str, value: Any, choices: Sequence[str]) -> str | None:
  if key in ("answer_index", "answer_number"):
    return _letter(key, value, choices)
  text = plain_gold(_one_text(value))
  if text is None or not choices:
    return text
  if key == "answer_text":
    return _by_text(text, choices)
  return _unambiguous(text, choices)


def _one_text(value: Any) -> str | None:
  """Returns an answer as text; a list of one counts as that one.

  Raises:
    Broken: there are several.
  """
  if isinstance(value, str):
    value = quoted_list(value) or value
  if isinstance(value, list | tuple):
    if len(value) > 1:
      raise Broken(
        f"has {len(value)} answers; map accepted= if each is right alone"
      )
    value = value[0] if value else None
  return as_text(value)


def _letter(key: str, value: Any, choices: Sequence[str]) -> str:
  """Returns the letter of the option at a place.

  Raises:
    Broken: it is no whole number, or there is no such option.
  """
  text, base = _one_text(value), int(key == "answer_number")
  place = int(text) - base if text and _WHOLE.fullmatch(text) else -1
  if not 0 <= place < len(choices):
    what = "nothing" if text is None else quoted(text)
    raise Broken(
      f"{key} is {what}; use {base} to {len(choices) - 1 + base}, one for each "
      "choice"
    )
  return chr(ord("A") + place)


def _by_text(text: str, choices: Sequence[str]) -> str:
  options = [choice.strip() for choice in choices]
  if options.count(text.strip()) != 1:
    raise Broken(
      f"answer_text {quoted(text)} is the text of "
      f"{options.count(text.strip())} choices; give the letter"
    )
  return chr(ord("A") + options.index(text.strip()))


def _unambiguous(text: str, choices: Sequence[str]) -> str:
  """Returns an answer beside choices as it is.

  Raises:
    Broken: it is a number that may name two options, by its text and by its
      place counted from 0 or 1, or an option only by its place.
  """
  if not _WHOLE.fullmatch(text.strip()):
    return text
  place = int(text)
  readings = {
    place - base for base in (0, 1) if 0 <= place - base < len(choices)
  }
  texts = {
    i for i, choice in enumerate(choices) if choice.strip() == text.strip()
  }
  if len(texts) == 1 and readings <= texts:
    return text
  if texts or readings:
    raise Broken(
      f"answer {quoted(text)} beside choices may be a text or a place; map "
      "answer_text=, answer_index= (from 0) or answer_number= (from 1)"
    )
  return text


def _lookup(row: Any, path: str) -> Any:
  """Returns the value at a path such as messages.1.content.

  Raises:
    Broken: the row has no such column.
  """
  if len(path) > 1 and path[0] == path[-1] == "'":
    return path[1:-1]
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


IMPORTER = Importer(
  source="",
  files=ANY_KIND,
  convert=convert,
  kinds=("problems", "examples"),
)
