r"""Reads an answer into items, and an item into a name, relations and values.

    x=3, y=5            two items, each with a name
    S = \frac{22}{7} \approx 3.14    one item: a name and two values
    0 < x \le 5         one item: three parts, two orders

Text only: what needs a formula's value is in `judge` and `regions`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sophia_jax.rewards.notation import bare_words, spell, squeeze
from sophia_jax.rewards.number import parse_number
from sophia_jax.rewards.text import half_width

MAX_CHARS = 1000
"""A longer answer is no answer; formulas of physics are long."""

_BOX = re.compile(r"\\boxed\s*\{")


def boxed(text: str) -> list[str] | None:
  r"""Returns the contents of all outermost \boxed{...}; None if one is open."""
  contents = []
  end = 0
  while box := _BOX.search(text, end):
    depth, end = 1, box.end()
    while depth and end < len(text):
      depth += (text[end] == "{") - (text[end] == "}")
      end += 1
    if depth:
      return None
    contents.append(text[box.end() : end - 1])
  return contents


def unboxed(text: str) -> str:
  r"""Returns what stands in the boxes of `text`; all of it without boxes.

  What stands beside the boxes counts unless it is prose: -\boxed{3} is -3.
  """
  boxes = boxed(text)
  if not boxes:
    return text
  beside = text
  for content in boxes:
    beside = beside.replace(content, "", 1)
  beside = re.sub(r"\\boxed|[\s{}$,.]", "", beside)
  if not beside or re.search(r"[^\W\d_]{2,}", beside):
    return ", ".join(boxes)
  return text.replace(r"\boxed", "")


def prepare(text: str) -> str | None:
  """Returns one line in one spelling; None if the braces of a box are open, or a
  comma comes first, which may be the point of ,5."""
  if boxed(text) is None:
    return None
  line = spell(half_width(unboxed(text))).rstrip(" ,.:。").lstrip(" :")
  if line.startswith(","):
    return None
  # A box in a box leaves braces around everything.
  inside = boxed(f"\\boxed{line}") if line.startswith("{") else None
  return inside[0] if inside and len(inside[0]) == len(line) - 2 else line


def prepare_gold(text: str) -> str | None:
  """Returns a gold answer as `prepare` does, without the commas of thousands: 1,234
  is not the list of 1 and 234, nor is x = 1,234.

  Commas without a space may separate items: 1,234,5 and (1,234) keep theirs.
  """
  line = prepare(text)
  if line is None or parse_number(line):
    return line and line.replace(",", "")
  joined = _joined(line)
  return line if re.search(r",(?! )", joined) else joined


# ------------------------------------------------------------------- qualifiers
_SETS = {"R": "real", "Z": "integer", "N": "natural", "Q": "rational",
         "C": "complex"}  # fmt: skip
_CLASSES = re.compile(
  r"(?:non-?|not )?(?:real|integer|natural|rational|irrational|complex"
  r"|positive|negative|zero|even|odd|prime)"
)
_QUALIFYING_WORDS = (
  "for where with here all any every each some is are be an a the real integer"
  " integers reals natural naturals rational complex number numbers value"
  " values constant constants arbitrary positive negative nonzero non-zero"
  " nonnegative non-negative even odd prime in of which holds solution"
  " solutions and"
)
_QUALIFYING = frozenset(_QUALIFYING_WORDS.split())
_QUALIFIER = re.compile(
  r"[,(]?\s*(?<![A-Za-z])(?:for|where|with|here)(?![A-Za-z]).*$"
  r"|[,(]\s*[A-Za-z]\s+(?:is|are)\s.*$|[,(]\s*[A-Za-z]\s*\\in\s*\\mathbb.*$"
)


class Qualifier(NamedTuple):
  """Example: Qualifier({"real"}, {"c"}) for "for any real c"."""

  classes: frozenset[str] = frozenset()
  letters: frozenset[str] = frozenset()

  def contradicts(self, other: Qualifier) -> bool:
    """Returns whether both say something and not the same."""
    return any(
      one and another and one != another
      for one, another in zip(self, other, strict=True)
    )


def cut_qualifier(line: str) -> tuple[str, Qualifier]:
  r"""Returns `line` without "for any real c" at its end, and what that says.

  Words that are not known to qualify stay, so that the line is no formula.
  """
  plain = bare_words(line)
  match = _QUALIFIER.search(plain)
  if match is None or not plain[: match.start()].strip():
    return line, Qualifier()
  said = match[0].strip(" ,.")
  words = re.findall(r"[A-Za-z-]{2,}", re.sub(r"\\mathbb\{.\}|\\in", " ", said))
  if not all(word.lower() in _QUALIFYING for word in words):
    return line, Qualifier()
  if re.search(r"[<>=\d+*/^]|\\(?!in\b|mathbb|land)", said):
    return line, Qualifier()
  classes = {_SETS[s] for s in re.findall(r"\\mathbb\{([RZNQC])\}", said)}
  classes |= set(_CLASSES.findall(said.lower()))
  letters = re.findall(r"(?<![A-Za-z{\\])[b-zB-Z](?![A-Za-z])", said)
  said_of = Qualifier(frozenset(classes), frozenset(letters))
  return plain[: match.start()].strip(" ,("), said_of


# ------------------------------------------------------------------------- items
_SEPARATORS = (",", r"\lor", r"\land")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_RELATIONS = re.compile(r"\\(?:le|ge|ne|approx|in)(?![A-Za-z])|[=<>]")
ORDERS = frozenset({"<", ">", r"\le", r"\ge", r"\ne"})


def at_top(text: str, separators: tuple[str, ...]) -> list[str]:
  """Returns the parts of `text` between separators outside all brackets."""
  items, depth, start, i = [], 0, 0, 0
  while i < len(text):
    c = text[i]
    depth += (c in "([{") - (c in ")]}")
    found = next((s for s in separators if text.startswith(s, i)), "")
    ends_word = not text[i + len(found) : i + len(found) + 1].isalpha()
    if found and depth == 0 and (ends_word or not found[-1].isalpha()):
      items.append(text[start:i].strip())
      start = i = i + len(found)
    else:
      i += 2 if c == "\\" and text[i + 1 : i + 2] not in ("{", "}") else 1
  return [*items, text[start:].strip()]


def split(text: str) -> list[str]:
  r"""Returns items at commas outside brackets; a \pm makes two of one.

  Where every item of a list has \pm, the signs of one item go together.
  """
  text = text.strip()
  is_set = text.startswith(r"\{") and text.endswith(r"\}")
  if is_set and "|" not in text and r"\emptyset" not in text:
    text = text[2:-2]
  items: list[str] = []
  for item in filter(None, at_top(text, _SEPARATORS)):
    if r"\pm" in item or r"\mp" in item:
      items += [
        item.replace(r"\pm", up).replace(r"\mp", down)
        for up, down in (("+", "-"), ("-", "+"))
      ]
    else:
      items.append(item)
  return items


def readings(text: str) -> list[list[str]]:
  """Returns the items of `text` in each way to read it.

  1,000 is two numbers and one; (x,y)=(3,5) is one item and x=3, y=5; a set is
  one item and its elements.
  """
  joined = _joined(text)
  found: list[list[str]] = [[text]] if text.startswith(r"\{") else []
  for line in dict.fromkeys((text, joined)):
    items = _without_domains(split(line))
    places = _named_places(items)
    found += [items] if items == places else [items, places]
  return found


def _joined(text: str) -> str:
  """Returns `text` without the commas of thousands; in brackets they may part
  items."""
  if re.search(r"[\[({]", bare_words(text)):
    return text
  return _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)


def _without_domains(items: list[str]) -> list[str]:
  r"""Drops "k \in \mathbb{Z}" where another item is left."""
  others = [
    item
    for item in items
    if not re.fullmatch(r"[A-Za-z_{},\s\d]{1,12}\\in\s*\\mathbb\{[A-Z]\}", item)
  ]
  return others or items


def _named_places(items: list[str]) -> list[str]:
  """Returns x=3, y=5 for the only item (x,y)=(3,5)."""
  parts = items[0].split("=") if len(items) == 1 else ()
  if len(parts) != 2:
    return items
  names, values = map(interval, parts)
  if names is None or values is None or len(names.places) != len(values.places):
    return items
  if not (names.brackets == values.brackets == "()"):
    return items
  if not all(map(is_name, names.places)):
    return items
  pairs = zip(names.places, values.places, strict=True)
  return [f"{name}={value}" for name, value in pairs]


class Statement(NamedTuple):
  """Example: Statement(["x", "5"], ["="]) for "x=5"."""

  parts: list[str]
  relations: list[str]

  @property
  def name(self) -> str:
    """Name of the first part, in one spelling; "" if it is no name."""
    first = self.parts[0]
    named = len(self.parts) > 1 and self.relations[0] not in ORDERS
    return plain_name(first) if named and is_name(first) else ""

  @property
  def has_order(self) -> bool:
    return not ORDERS.isdisjoint(self.relations)


def statement(text: str) -> Statement:
  """Returns the parts of `text` and the relations between them."""
  parts, relations, depth, start = [], [], 0, 0
  marks = {m.start(): m for m in _RELATIONS.finditer(text)}
  for i, c in enumerate(text):
    depth += (c in "([{") - (c in ")]}")
    if depth == 0 and i in marks:
      parts.append(text[start:i].strip())
      relations.append(marks[i][0])
      start = marks[i].end()
  parts.append(text[start:].strip())
  if not parts[0] and len(parts) > 1 and relations[0] in ("=", r"\approx"):
    return Statement(parts[1:], relations[1:])
  return Statement(parts, relations)


_LETTER = r"(?:\\(?!text|frac|sqrt|in\b)[A-Za-z]+|[A-Za-z])"
_NOT_NAMES = re.compile(
  r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|lg|exp|sqrt|frac|int|sum|prod|lim|max"
  r"|min|pi|infty|cdot|times|pm|mp|binom|arc[a-z]+|mathbb)(?![A-Za-z])"
)
_DENIED = re.compile(r"\b(?:no[tr]?|never|wrong|incorrect)\b", re.IGNORECASE)
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_NAME = re.compile(
  rf"(?:\\Delta ?|\\angle ?|m ?\\angle ?|\\triangle ?)?"
  rf"(?:{_LETTER}|[A-Z]{{2,5}})'*(?:_(?:\w|\\[a-z]+|{_GROUP}))?'*"
  r"(?: ?\([^()=]*\))?"
  r"|\\text\{[^{}]*\}(?:_(?:\w|\{[^{}]*\}))?|[A-Za-z]{4,}(?: [A-Za-z]+){0,3}"
  r"|\|[A-Z]{2}\||\\overline ?\{[A-Z]{2}\}"
  r"|[A-Za-z] ?\^ ?\{? ?-1 ?\}? ?\([^()=]*\)|\\frac ?\{d[a-z]\} ?\{d[a-z]\}"
)


def is_name(text: str) -> bool:
  r"""Returns whether `text` only names what follows: x, S_{max}, f(2), AB.

  A product, 2x or xy, is no name; (x, y) names a tuple.
  """
  text = text.strip()
  if text.startswith("(") and text.endswith(")") and "," in text:
    return all(map(is_name, text[1:-1].split(",")))
  if _DENIED.search(text):
    return False
  is_derivative = text.startswith(r"\frac")
  is_formula = _NOT_NAMES.match(text) and not is_derivative
  return _NAME.fullmatch(text) is not None and not is_formula


def plain_name(text: str) -> str:
  r"""Returns a name in one spelling: S_{max}, S_\max and S_{\text{max}}."""
  return re.sub(r"[\s{}\\]|text(?=\{)", "", text)


def without_question(answer: str, question: str) -> str:
  r"""Returns `answer` without a left side that the question asks for.

  "a+b = 5" is 5 where the question has "a+b", but not where it states
  "a+b = ...".
  """
  left, equals, right = answer.partition("=")
  asked, sought = squeeze(spell(question)), squeeze(spell(left))
  if not equals or len(sought) < 2 or sought[-1:] in "<>!:" or "=" in right:
    return answer
  if sought not in asked or re.search(
    rf"{re.escape(sought)}\$?(?:=|\\le|\\ge|<|>)", asked
  ):
    return answer
  before, _, after = asked.partition(sought)
  # Not a part of a longer formula: "y" in "x+y".
  is_part = before.endswith(tuple("+-*/^_({\\"))
  return answer if is_part or after.startswith(tuple("+-*/^_")) else right


# ---------------------------------------------------------------------- brackets
def bracketed(text: str) -> bool:
  """Returns whether `text` begins and ends as an interval or a tuple does."""
  return text[:1] in ("(", "[") and text[-1:] in (")", "]")


class Interval(NamedTuple):
  """An interval, a point or a tuple: brackets and what is between commas."""

  brackets: str
  places: list[str]


def interval(text: str) -> Interval | None:
  """Returns `text` as an interval or a tuple of at least two places."""
  text = text.strip()
  if len(text) < 2 or not bracketed(text):
    return None
  depth = 0
  for i, c in enumerate(text):
    depth += (c in "([{") - (c in ")]}")
    if depth == 0 and i < len(text) - 1:
      return None  # (a,b)+(c,d)
  places = at_top(text[1:-1], (",",))
  return Interval(text[0] + text[-1], places) if len(places) > 1 else None


_MATRIX = re.compile(
  r"\\begin ?\{([pbB]?)matrix\}(.*)\\end ?\{\1matrix\}", re.DOTALL
)


def matrix(text: str) -> list[list[str]] | None:
  """Returns the rows of a matrix; None for what is none."""
  whole = _MATRIX.fullmatch(text.strip())
  if whole is None or r"\begin" in whole[2]:
    return None
  rows = whole[2].split(r"\\")
  return [[place.strip() for place in row.split("&")] for row in rows]
