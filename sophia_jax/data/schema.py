"""The schema of problems and examples: one table of fields, with their checks.

A check gives "what; remedy" or None. The same checks hold for files that are
loaded, files that are checked and records that an importer has made. Editors
get the table as a JSON Schema.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sophia_jax.boxes import read_box
from sophia_jax.config import nearest
from sophia_jax.data import clips
from sophia_jax.data.images import image_size, open_image
from sophia_jax.types import ANSWER_TYPES, SophiaError, quoted

_MOST = sys.float_info.max
_TOLERANT = ("auto", "number", "list", "olympiad")
"""Answer types that know a tolerance."""
_IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
# C0 and C1 controls except tab and line ends, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


# ---------------------------------------------------------------------- checks
Check = Callable[[Any], str | None]
"""Value -> "what; remedy", or None if it is right."""


def _text(value: Any) -> str | None:
  if not isinstance(value, str):
    return f"must be a string, not {_kind(value)}; put it in quotes"
  if bad := _UNPRINTABLE.search(value):
    return f"has the character U+{ord(bad[0]):04X}; remove it"
  for token in _IMAGE_TOKENS:
    if token in value:
      return (
        f"has the image token {token}; write <image> where an image belongs"
      )
  return None


def _words(value: Any) -> str | None:
  problem = _text(value)
  if problem is None and not value.strip():
    return "is empty; fill it in or remove the line"
  return problem


def _name(value: Any) -> str | None:
  problem = _words(value)
  if problem is None and ("\n" in value or "\r" in value):
    return "has a line end; remove it"
  return problem


def _label(value: Any) -> str | None:
  if isinstance(value, int) and not isinstance(value, bool):
    return None
  return _name(value)


def _list_of(item_check: Check) -> Check:
  def check_list(value: Any) -> str | None:
    if not isinstance(value, list):
      return f"must be a list of strings, not {_kind(value)}; use [...]"
    problems = map(item_check, value)
    return next((f"item {i} {p}" for i, p in enumerate(problems) if p), None)

  return check_list


def _nullable_text(value: Any) -> str | None:
  return None if value is None else _text(value)


def _weight(value: Any) -> str | None:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return f"must be a number, not {_kind(value)}; for example 1.0"
  if not 0 <= value <= _MOST:  # nan fails, too
    return f"is {quoted(value)}; use a finite number from 0"
  return None


def _tolerance(value: Any) -> str | None:
  if not isinstance(value, list):
    return f"must be a list of numbers, not {_kind(value)}; for example [0.01]"
  for item in value:
    if isinstance(item, bool) or not isinstance(item, int | float):
      return f"must hold numbers, not {_kind(item)}; for example [0.01]"
    if not 0 <= item <= _MOST:
      return f"has {quoted(item)}; use finite numbers from 0"
  return None


def _tags(value: Any) -> str | None:
  if not isinstance(value, dict):
    return (
      f'must be an object, not {_kind(value)}; for example {{"level": "3"}}'
    )
  problems = ((key, _text(key) or _text(item)) for key, item in value.items())
  return next((f"{quoted(key)} {what}" for key, what in problems if what), None)


def _answer_type(value: Any) -> str | None:
  if value not in ANSWER_TYPES:
    hint = nearest(str(value)[:80], dict.fromkeys(ANSWER_TYPES))
    return f"is {quoted(value)}, which no verifier knows; {hint}"
  return None


def _kind(value: Any) -> str:
  return {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
  }.get(type(value), f"a {type(value).__name__}")


# ---------------------------------------------------------------------- fields
class Field(NamedTuple):
  """A key of a problem or an example."""

  check: Check
  json: Mapping[str, Any]
  """JSON Schema of its values; looser than `check` at most."""
  doc: str


_TEXT: Mapping[str, Any] = {
  "type": "string",
  "not": {"pattern": "<img>|</img>|<IMG_CONTEXT>"},
}
_WORDS = {**_TEXT, "pattern": r"\S"}
_NAME = {**_TEXT, "pattern": r"^[^\r\n]*\S[^\r\n]*$"}
_AMOUNT = {"type": "number", "minimum": 0}
_ID = Field(_name, _NAME, "Unique name, one line.")
_IMAGES = Field(
  _list_of(_name),
  {"type": "array", "items": _NAME},
  "Paths of the images, relative to the file, in the order of the question.",
)
_QUESTION = Field(
  _words,
  _WORDS,
  "Text of the question. <image> marks where an image belongs, once for each "
  "image or not at all; <video> where those belong that no <image> marks, as a "
  "video (config.images.video_rate).",
)
_PROBLEM: dict[str, Field] = {
  "id": _ID,
  "images": _IMAGES,
  "question": _QUESTION,
  "answer": Field(
    _words,
    _WORDS,
    "Gold answer; for a choice its letter or the text of the option.",
  ),
  "answer_type": Field(
    _answer_type,
    {"enum": [*ANSWER_TYPES], "default": "auto"},
    "How answers are compared; auto: by the form of the gold answer.",
  ),
  "choices": Field(
    _list_of(_words),
    {"type": "array", "items": _WORDS, "maxItems": 26},
    "Texts of the options A, B, C, ...",
  ),
  "tolerance": Field(
    _tolerance,
    {"type": "array", "items": _AMOUNT},
    "How far a number may be off: one number for all answers, or one for each.",
  ),
  "accepted": Field(
    _list_of(_words),
    {"type": "array", "items": _WORDS},
    "Further answers that are right, each of them alone.",
  ),
  "hint": Field(_text, _TEXT, "Text that stands before the question."),
  "difficulty": Field(
    _label,
    {"anyOf": [_NAME, {"type": "integer"}], "default": "easy"},
    "Name of the reasoner in config.reasoners, or a number that is its name; a "
    "sole reasoner takes every problem.",
  ),
  "source": Field(
    _text,
    _TEXT,
    "Data set that the problem is from; evaluation sets are never trained on.",
  ),
  "tags": Field(
    _tags,
    {"type": "object", "additionalProperties": _TEXT},
    "Labels that scores are split by.",
  ),
}
_EXAMPLE: dict[str, Field] = {
  "id": _ID,
  "images": _IMAGES,
  "question": _QUESTION,
  "response": Field(_words, _WORDS, "Text to learn."),
  "system": Field(
    _nullable_text,
    _TEXT,
    'System prompt; null: the default one, "": none at all.',
  ),
  "weight": Field(_weight, {**_AMOUNT, "default": 1.0}, "Factor of the loss."),
}
_REQUIRED = {"id", "question", "answer", "response"}
_OPTIONAL = {*_PROBLEM, *_EXAMPLE} - _REQUIRED


def schema_of(examples: bool) -> Mapping[str, Field]:
  """Returns the fields of an Example or of a Problem by their keys."""
  return _EXAMPLE if examples else _PROBLEM


def json_schema(examples: bool = False) -> dict[str, Any]:
  """Returns the JSON Schema of a line, for editors.

  It holds for every line that the check takes; the check also compares fields
  with each other and opens the images.
  """
  properties: dict[str, Any] = {}
  for key, field in schema_of(examples).items():
    value = field.json
    if key in _OPTIONAL:  # null is absence
      value = {"anyOf": [{"type": "null"}, value]}
    properties[key] = {"description": field.doc, **value}
  return {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Example" if examples else "Problem",
    "description": "A question with the response to learn."
    if examples
    else "A verifiable question about zero or more images.",
    "type": "object",
    "properties": properties,
    "required": [key for key in properties if key in _REQUIRED],
    "additionalProperties": False,
  }


def record_errors(
  record: Mapping[str, Any], examples: bool = False
) -> list[str]:
  """Returns the errors of one record, images excepted, as the check does."""
  errors = [*_field_errors(record, schema_of(examples))]
  return errors or [*_cross_errors(record)]


# --------------------------------------------------------------------- records
def check_records(
  path: Path, examples: bool = False, decode: bool = True
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
  """Yields number, record with absolute image paths and errors of each line.

  Raises:
    SophiaError: the file cannot be opened.
  """
  schema = schema_of(examples)
  first_line: dict[str, int] = {}
  number = 0
  for number, line in numbered_lines(path):
    record, errors = parse_record(line)
    if record is not None:
      errors = [*_field_errors(record, schema)]
      name = record.get("id")
      if isinstance(name, str):
        before = first_line.setdefault(name, number)
        if before != number:
          errors.append(
            f"id {quoted(name)} is taken by line {before}; give each its own"
          )
      if not errors:
        errors = [*_cross_errors(record)]
      errors += _resolve_images(record, path.parent, decode)
    elif path.suffix in _OTHERS:
      errors = [f"{errors[0]}; {_IMPORT} makes it of a {path.suffix} file"]
    yield number, record or {}, errors
  if not number:
    yield 1, {}, ["the file holds no line; write one JSON object a line"]


_OTHERS = (".csv", ".tsv", ".json", ".parquet", ".arrow")
"""Kinds of file that an importer reads."""
_IMPORT = "python -m sophia_jax.datasets import --from=columns SRC DST.jsonl"


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
  """Yields the lines that are not blank, numbered from 1.

  Raises:
    SophiaError: the file cannot be opened.
  """
  try:
    with open(path, "rb") as file:
      for number, line in enumerate(file, start=1):
        if line.strip():
          yield number, line
  except OSError as e:
    raise SophiaError(f"{path}: {e.strerror}; check the path") from None


def parse_line(line: bytes) -> tuple[dict[str, Any] | None, list[str]]:
  """Returns the JSON object of a line, or None and its errors."""
  try:
    value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
  except UnicodeDecodeError as e:
    return None, [f"not UTF-8 at byte {e.start}; save the file as UTF-8"]
  except RecursionError:
    return None, ["bad JSON: nested too deeply; write a flat object"]
  except ValueError as e:
    return None, [f"bad JSON: {e}; write one object a line"]
  if not isinstance(value, dict):
    what = _kind(value)
    return None, [f"must be an object, not {what}; write {{...}}"]
  return value, []


def parse_record(line: bytes) -> tuple[dict[str, Any] | None, list[str]]:
  """Parses the line of a problem or an example.

  null is absence where a key may be absent: tables written out as JSONL have
  every key on every line.
  """
  record, errors = parse_line(line)
  if record is not None:
    record = {
      key: value
      for key, value in record.items()
      if value is not None or key not in _OPTIONAL
    }
  return record, errors


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  out = dict(pairs)
  if len(out) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f"the key {quoted(twice)} twice")
  return out


def _field_errors(
  record: Mapping[str, Any], schema: Mapping[str, Field]
) -> Iterator[str]:
  for key in record:
    if key not in schema:
      yield f"unknown key {quoted(key)}; {nearest(key[:80], schema)}"
  for key, field in schema.items():
    if key in record:
      problem = field.check(record[key])
      if problem:
        yield f"{key} {problem}"
    elif key in _REQUIRED:
      yield f"{key} is missing; every line needs one"


def _cross_errors(record: Mapping[str, Any]) -> Iterator[str]:
  """Yields the errors between fields that are right by themselves."""
  images, choices = record.get("images", []), record.get("choices", [])
  asked = [record.get("hint", ""), record["question"], *choices]
  marks = sum(text.count("<image>") for text in asked)
  videos = sum(len(clips.MARK.findall(text)) for text in asked)
  if videos > 1:
    yield f"{videos} <video>; a question shows one, and images beside it"
  # A video shows the images that no <image> does.
  if marks not in (0, len(images)) and not (videos and marks < len(images)):
    yield (
      f"{marks} <image> for {len(images)} images; write one for each, or none"
    )
  if len(choices) > 26:
    yield f"{len(choices)} choices; there are only 26 letters"
  kind = record.get("answer_type", "auto")
  if kind == "box":
    for answer in (record["answer"], *record.get("accepted", [])):
      if read_box(answer) is None:
        yield (
          f"answer {quoted(answer)} is no box; write [left, top, right, "
          "bottom] with left < right and top < bottom"
        )
  if record.get("tolerance") and kind not in _TOLERANT:
    yield (
      f"tolerance with answer_type {kind!r}, which takes none; use 'olympiad', "
      "'number' or 'list'"
    )
  if "answer" not in record or not (
    kind == "choice" or (kind == "auto" and choices)
  ):
    return
  letters = [chr(ord("A") + i) for i in range(len(choices) or 26)]
  named = {*letters, *(choice.strip() for choice in choices)}
  for answer in (record["answer"], *record.get("accepted", [])):
    if answer.strip() not in named:
      known = f"{letters[0]} to {letters[-1]}"
      yield (
        f"answer {quoted(answer.strip())} is none of the choices; give its letter, "
        f"{known}"
      )


def _resolve_images(
  record: dict[str, Any], directory: Path, decode: bool
) -> list[str]:
  """Makes the image paths absolute; opens each, header only or all of it."""
  images = record.get("images")
  if not isinstance(images, list):
    return []
  errors = []
  for i, image in enumerate(images):
    if _name(image):
      continue  # reported with its field
    path = os.path.abspath(directory / image)
    images[i] = path
    try:
      if decode:
        open_image(path)
      else:
        image_size(path)
    except SophiaError as e:
      errors.append(f"image {e}")
  return errors
