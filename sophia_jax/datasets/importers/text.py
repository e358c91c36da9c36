"""Takes the texts of data sets apart.

Patterns take time in proportion to any text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sophia_jax.datasets.importers.base import Broken
from sophia_jax.types import quoted

# <image>, <image1>, <image 1>, <image_1>, <img_1>; never the token <img>.
_MARK = re.compile(r"<image[ _]?(\d{0,6})>|<img[ _](\d{1,6})>")
_BOX = re.compile(r"\\f?boxed\s*(?=\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_QUESTION = re.compile(r"(?:^|\n)Question:\s*")
_CHOICES = re.compile(r"\n[ \t]*Choices:[ \t]*\n")
_CHOICE = re.compile(r"(?:^|\n)\(([A-Z])\)[ \t]*")
_LETTER = re.compile(r"\(?([A-Z])[).]")
_ANSWER = re.compile("the answer is:?", re.IGNORECASE)
# ['a', "b"] without escapes.
_ITEM = re.compile(r"""'([^'\\]*)'|"([^"\\]*)\"""")
_QUOTED = re.compile(
  rf"\s*\[\s*(?:{_ITEM.pattern})(?:\s*,\s*(?:{_ITEM.pattern}))*\s*\]\s*"
)
# Python's parser runs out of stack on text that is nested without end.
_MAX_LITERAL = 100_000


def as_text(value: Any) -> str | None:
  """Returns a value as text, 142.0 as "142"; None and NaN stay None.

  Raises:
    Broken: it is a list, an object or bytes.
  """
  if isinstance(value, list | tuple | dict | bytes):
    raise Broken(
      f"has a {type(value).__name__} where text belongs; fix the row"
    )
  if value is None or value != value:
    return None
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return value if isinstance(value, str) else str(value)


def as_list(value: Any) -> list[str]:
  """Returns a list of texts, given as such or written out ("['1', '2']").

  Raises:
    Broken: it is neither.
  """
  if value is None or value == "":
    return []
  if isinstance(value, str) and len(value) < _MAX_LITERAL:
    value = _literal(value)
  if not isinstance(value, list | tuple):
    raise Broken("choices are no list; fix the row")
  return [as_text(item) or "" for item in value]


def as_object(value: Any) -> Mapping[str, Any]:
  """Returns an object, given as such or written out; {} for anything else."""
  if isinstance(value, str) and len(value) < _MAX_LITERAL:
    value = _literal(value)
  return value if isinstance(value, Mapping) else {}


def _literal(text: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    pass
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return None


def as_tags(**values: Any) -> dict[str, str]:
  """Returns the tags that scores are split by, spaces made single."""
  texts = {key: as_text(value) for key, value in values.items()}
  # One row of DynaMath says "analytic     geometry".
  return {key: " ".join(text.split()) for key, text in texts.items() if text}


def accepted_answers(value: Any) -> list[str]:
  """Returns the different answers of a list, each of which is right alone.

  Raises:
    Broken: it is neither a text nor a list of texts.
  """
  if isinstance(value, str):
    value = quoted_list(value) or value
  items = value if isinstance(value, list | tuple) else [value]
  texts = (as_text(item) for item in items)
  return [*dict.fromkeys(text for text in texts if text and text.strip())]


def quoted_list(text: str) -> list[str] | None:
  """Returns the items of a written-out list of strings; None for other text.

  [1, 2] is an answer itself, an interval or a vector; ['1', '2'] is data.
  """
  if _QUOTED.fullmatch(text):  # of any length: it may hold images in base64
    return [one or other for one, other in _ITEM.findall(text)]
  if not text.lstrip().startswith("["):
    return None
  found = _literal(text) if len(text) < _MAX_LITERAL else None
  if not isinstance(found, list) or not found:
    return None
  return found if all(isinstance(item, str) for item in found) else None


def parts_of(content: Any) -> tuple[Any, list[Any]]:
  """Returns the text of a message, `<image>` where images are, and these.

  Content that is no list of parts is returned as it is.
  """
  typed = isinstance(content, list) and all(
    isinstance(part, Mapping) and "type" in part for part in content
  )
  if not typed:
    return content, []
  texts, images = [], []
  for part in content:
    kind = part["type"]
    if kind == "text":
      texts.append(as_text(part.get("text")) or "")
    elif kind in ("image", "image_url"):
      keys = ("image", "image_url", "url", "path")
      image = next((part[key] for key in keys if key in part), None)
      if isinstance(image, Mapping) and "url" in image:
        image = image["url"]
      images.append(image)
      texts.append("<image>")
    else:
      raise Broken(f"has a part of type {quoted(kind)}; leave the row out")
  return "\n".join(texts), images


def place_images(texts: Sequence[str], images: int) -> list[str]:
  """Returns the texts with one `<image>` for each image, or with none.

  Marks that show every image once and in order become `<image>`. Others would
  show an image twice or not at all: the images then come first, as the renderer
  puts them, and the marks become their names there, "Image-2".
  """
  found: list[int] = []
  for text in texts:
    for mark in _MARK.finditer(text):
      number = mark[1] or mark[2]
      found.append(int(number) if number else len(found) + 1)
  if found == [*range(1, images + 1)]:
    return [_MARK.sub("<image>", text) for text in texts]
  name = r"Image-\1\2" if images > 1 else ""
  return [_MARK.sub(name, text).strip() for text in texts]


def boxed(text: str) -> str | None:
  r"""Returns the content of the last \boxed{}, None if there is none."""
  last = None
  for last in _BOX.finditer(text):  # noqa: B007
    pass
  if last is None:
    return None
  depth = 0
  for brace in _BRACE.finditer(text, last.end()):
    depth += {"{": 1, "}": -1}.get(brace[0], 0)
    if not depth and brace[0] == "}":
      return text[last.end() + 1 : brace.start()].strip() or None
  return None


def plain_gold(text: str | None) -> str | None:
  r"""Returns a gold answer without its box, and a choice as its letter.

  \\boxed{B}, (B) and B. are B; any other text stays as it is.
  """
  if text is None:
    return None
  bare = text.strip().strip("$").strip()
  start = _BOX.match(bare)
  if start and bare.endswith("}"):
    inner, whole = boxed(bare), bare[start.end() + 1 : -1].strip()
    text = inner if inner and inner == whole else text
  letter = _LETTER.fullmatch(text.strip())
  return letter[1] if letter else text


def several(value: Any) -> list[Any]:
  """Returns the items of a column: one, a list, or a list written out."""
  if isinstance(value, str):
    value = quoted_list(value) or value
  if value is None or value == "":
    return []
  return value if isinstance(value, list) else [value]


def letters(count: int) -> list[str]:
  """Returns A, B, C, ..."""
  return [chr(ord("A") + i) for i in range(count)]


def split_question(text: str) -> tuple[str, str, list[str]]:
  r"""Returns hint, question and choices of a prompt in MathVista's form.

  "Hint: ...\nQuestion: ...\nChoices:\n(A) ...\n(B) ..."; a missing part is
  empty, and choices that are not lettered A, B, C, ... stay in the question.
  """
  hint, question, choices = "", text.strip(), []
  parts = _QUESTION.split(question, maxsplit=1)
  if len(parts) == 2:
    hint, question = (part.strip() for part in parts)
  parts = _CHOICES.split(question, maxsplit=1)
  if len(parts) == 2:
    _, *found = _CHOICE.split("\n" + parts[1])
    if found and found[::2] == letters(len(found) // 2):
      question = parts[0].strip()
      choices = [choice.strip() for choice in found[1::2]]
  return hint, question, choices


def stated_answer(text: str) -> str:
  """Returns the answer of a response like "The answer is B."."""
  answer = _ANSWER.split(text)[-1].strip()
  return answer[:-1].rstrip() if answer.endswith(".") else answer


def conversation(turns: Any) -> tuple[str | None, str, str, int]:
  """Returns system prompt, first question, its response, turns left over.

  Understands {"from": "human", "value": ...} and {"role": "user",
  "content": ...}. Later turns depend on earlier ones, which an Example cannot
  hold.

  Raises:
    Broken: it does not begin with a question and a response.
  """
  if not isinstance(turns, list):
    raise Broken("conversations are no list; fix the row")
  said = []
  for turn in turns:
    if not isinstance(turn, Mapping):
      raise Broken("a turn is no object; fix the row")
    who = str(turn.get("from", turn.get("role")))
    text, images = parts_of(turn.get("value", turn.get("content")))
    if images:
      raise Broken("a turn holds images; import it with --from=columns")
    said.append((_SPEAKERS.get(who, who), text))
  system = said.pop(0)[1] if said and said[0][0] == "system" else None
  if [who for who, _ in said[:2]] != ["user", "assistant"]:
    raise Broken("turns do not begin human, gpt; fix the row")
  return system, said[0][1], said[1][1], len(said) - 2


_SPEAKERS = {"human": "user", "gpt": "assistant"}
