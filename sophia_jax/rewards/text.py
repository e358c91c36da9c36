"""Unwraps, normalises, splits and bounds an answer before it is compared.

Everything here is linear in the length of the answer.
"""

from __future__ import annotations

import re
import unicodedata

from sophia_jax.rewards.notation import spell

MAX_CHARS = 300
LONGEST_GOLD = 10_000
MAX_DEPTH = 14
"""Deepest nesting of brackets. ANTLR's time doubles with every \\frac inside a
\\frac: 1 s at 14, 43 s at 20."""
MAX_BARS = 12
MAX_RUN_OF_DIGITS = 60
MAX_EXPONENT_DIGITS = 4

_WRAPPERS = re.compile(
  r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm|bf|boldsymbol)\s?\{([^{}]*)\}"
)
_PAIRS = (
  ("$$", "$$"),
  ("$", "$"),
  ("{", "}"),
  (r"\(", r"\)"),
  (r"\[", r"\]"),
  ("**", "**"),
  ("`", "`"),
  ('"', '"'),
  ("'", "'"),
)
_DIGITS = re.compile(rf"\d{{{MAX_RUN_OF_DIGITS + 1}}}")
# A prime follows what it marks; a quote that opens is prose or code.
_QUOTED = re.compile(r"""(?:^|[(\[,=])\s?['"]|\"""")
_POWER = re.compile(r"\^|\*\*")


def unwrap(text: str) -> str:
  r"""Returns `text` without enclosing $..$, {..}, \text{..}, **..**, quotes,
  and without the full stop at its end.
  """
  text = text.strip()
  for _ in range(8):  # a bound on hostile nesting; real answers need three
    before = text
    for left, right in _PAIRS:
      inside = text[len(left) : -len(right)]
      if text == left + inside + right and inside and left not in inside:
        text = inside.strip()
    whole = _WRAPPERS.fullmatch(text)
    if whole:
      text = whole[1].strip()
    if text.endswith((".", "。")) and not text.endswith(".."):
      text = text[:-1].rstrip()
    if text == before:
      break
  return text


_SCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉]")
_MARKS = str.maketrans(
  {
    **dict.fromkeys("‘’‚", "'"),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("‐‑‒–—−", "-"),
  }
)


def normalise(text: str) -> str:
  """Returns words without case, width, markup and enclosing punctuation.

  Quotes and dashes are those of ASCII; an escaped sign is the sign.
  Raised and lowered digits stay what they are: x² is not x2.
  """
  text = re.sub(r"\\+([$%&#_])", r"\1", text.translate(_MARKS))
  text = unwrap(text)
  for _ in range(3):  # one font inside another
    text = _WRAPPERS.sub(r" \1 ", text)
  if _SCRIPTS.search(text):
    text = spell(text)
  text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
  while text:  # each mark that goes may uncover another
    ends_a_word = len(text) > 2 and text[-3:-1].isalpha()
    if text[-1] in " .,;:`$" or (text[-1] in "!\"'*" and ends_a_word):
      text = text[:-1]
    elif text[0] in " :;`$\"'":
      text = text[1:]
    else:
      break
  return text


_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
  0x3000: 0x20
}


def half_width(text: str) -> str:
  """Returns full-width forms, ＡＢＣ１２３（）, as ASCII."""
  return text.translate(_HALF_WIDTH)


_AND_LAST = re.compile(r",\s+(?:and|&)\s+")


def _closes_what_it_opens(text: str) -> bool:
  """Returns whether no bracket closes before it opens."""
  depth = 0
  for c in text:
    depth += (c in "([{") - (c in ")]}")
    if depth < 0:
      return False
  return True


def split_list(text: str) -> list[str]:
  """Returns the items at top-level commas, enclosing brackets removed.

  Where ", " separates the items, a comma between digits groups thousands.
  """
  text = text.strip()
  for left, right in (("[", "]"), ("(", ")"), (r"\{", r"\}"), ("{", "}")):
    if text.startswith(left) and text.endswith(right):
      inside = text[len(left) : -len(right)]
      # Not the brackets of (1, 2), (3, 4).
      text = inside if _closes_what_it_opens(inside) else text
      break
  text = text.replace("，", ", ").replace("、", ", ").replace(";", ", ")
  text = _AND_LAST.sub(", ", text)
  spaced = ", " in text
  items, depth, start = [], 0, 0
  for i, c in enumerate(text):
    depth += (c in "([{") - (c in ")]}")
    grouping = spaced and text[i + 1 : i + 2].isdigit()
    if c == "," and depth == 0 and not grouping:
      items.append(text[start:i].strip())
      start = i + 1
  return [*items, text[start:].strip()]


def is_bounded(text: str, max_chars: int = MAX_CHARS) -> bool:
  """Returns False if computing with `text` could take more than a moment.

  Refused: long digit runs, deep nesting, unbalanced braces, quotes, numeric
  exponents of more than MAX_EXPONENT_DIGITS digits, towers of numbers (9^{9^9})
  and factorials of large numbers or of factorials. A worker's time and memory
  limits hold for everything that passes here.
  """
  if len(text) > max_chars or _DIGITS.search(text):
    return False
  depth = deepest = 0
  for c in text:
    depth += (c in "([{") - (c in ")]}")
    deepest = max(deepest, depth)
  if deepest > MAX_DEPTH or text.count("{") != text.count("}"):
    return False
  if text.count("|") > MAX_BARS or _QUOTED.search(text):
    return False
  return _bounded_powers(text) and _bounded_factorials(text)


def _bounded_powers(text: str) -> bool:
  for power in _POWER.finditer(text):
    exponent = _group(text, power.end())
    numeric = not any(c.isalpha() for c in exponent.replace("cdot", ""))
    digits = sum(c.isdigit() for c in exponent)
    if digits > MAX_EXPONENT_DIGITS and numeric:
      return False
    after = text[power.end() + len(exponent) :].lstrip()
    towering = _POWER.search(exponent) or after.startswith(("^", "**", "!"))
    if towering and digits and numeric:
      return False
  return True


def _bounded_factorials(text: str) -> bool:
  marks = [
    i for i, c in enumerate(text) if c == "!" and text[i + 1 : i + 2] != "="
  ]
  if len(marks) > 4 or "!!" in text:
    return False
  has_letters = any(c.isalpha() for c in text)
  for i in marks:
    before = text[:i].rstrip()
    if before.endswith((")", "}", "]")) and not has_letters:
      return False
    run = len(before) - len(before.rstrip("0123456789"))
    if run > 3:
      return False
  return True


def _group(text: str, start: int) -> str:
  """Returns the exponent at `start`: a bracketed group or one token."""
  while start < len(text) and text[start] == " ":
    start += 1
  if text[start : start + 1] not in ("{", "("):
    token = re.match(r"[+-]?\d+|\\?[a-zA-Z]+|.?", text[start:], re.DOTALL)
    return token[0] if token else ""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] in "({") - (text[i] in ")}")
    if depth == 0:
      return text[start : i + 1]
  return text[start:]
