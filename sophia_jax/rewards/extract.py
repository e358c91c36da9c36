"""Finds the answer at the end of a response, by rule.

Model output is hostile: every scan is linear in the part of the text that is
looked at, and that part is bounded. Nothing here interprets the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sophia_jax.rewards.text import half_width
from sophia_jax.types import Problem

TAIL_CHARS = 20_000
"""Only this much of the end of a response is looked at."""

ANSWER_CHARS = 1000
"""A longer answer is no answer; most verifiers take less."""

# Tokenisers, not grammars: each alternative has a bounded length, so a scan
# cannot backtrack.
_BRACES = re.compile(r"\\(?:boxed|fbox)[ \t]{0,4}\{|\\.|[{}]", re.DOTALL)
_HEADING = re.compile(
  r"\*\*final answer:?\*\*|final answer[ \t]{0,4}[:：]|\banswer(?:\*\*)?[:：]"
  r"|^#{1,6} (?:final )?answer$|^#### "
  r"|\b(?:the|my) (?:final |correct |right |best )?"
  r"(?:answer|option|choice) (?:is|would be|must be)\b|\bfinal answer is\b"
  r"|答案[ \t]{0,4}(?:是|为|[:：])|^答[:：]|正确(?:选项|答案)(?:是|为)"
  r"|(?:故|应|所以|因此|本题|我)选(?:择)?",
  re.IGNORECASE | re.MULTILINE,
)
_AFTER_HEADING = " \t\r\n:：*#为是"
_MARKUP = " \t*_`#>"
_AND = re.compile(
  r"[\s$]{0,4}(?:[,，、;；]|and|or|和|或|\\text\{ ?(?:and|or) ?\})?[\s$]{0,4}",
  re.IGNORECASE,
)
_CHOSEN = re.compile(
  r"[(（\[]?([A-Za-zＡ-Ｚ])[)）\]]?[,，;；。、](?!\w)|"
  r"[(（\[]?([A-ZＡ-Ｚ])[)）\]]? (?:because|since|as|which)\b"
)
_OTHER_LETTER = re.compile(r"(?<![A-Za-z])[A-ZＡ-Ｚ](?![A-Za-z'’])")
_OPTION = re.compile(
  r"(?:option|choice|选项)[ \t]{0,2}[(（]?([A-ZＡ-Ｚ])[)）]?(?![A-Za-z])"
  r" {0,2}(?:is|是|为)? {0,2}(?:the )?(?:correct|right|best|answer|正确)",
  re.IGNORECASE,
)
_NEGATION = re.compile(
  r"\b(?:not|incorrect|wrong|neither|never)\b|n't|不|错", re.IGNORECASE
)


def extract(response: str, choices: Sequence[str] = ()) -> str | None:
  r"""The answer that ends `response`, or None if there is none to be found.

  In this order: nothing if a `<think>` is left open; only the inside of the
  last `<answer>...</answer>` where there is one; the last balanced
  `\boxed{...}`, with those beside it; the text after the last final-answer
  heading; where the problem has `choices`, a letter alone on the last line or
  the only option that it calls correct. Nothing is ever guessed.
  """
  text = after_thinking(response)
  if text is None:
    return None
  tail, tagged = _inside_answer(text[-TAIL_CHARS:])
  answer = last_boxed(tail)
  if answer is None:
    answer = after_heading(tail)
    if answer is not None and choices:
      answer = chosen_letter(answer) or answer
  if answer is None and tagged and "\n" not in tail.strip():
    answer = tail
  if answer is None and choices:
    answer = lone_letter(tail, len(choices)) or option_called_right(tail)
  if answer is None:
    return None
  answer = answer.strip()
  return answer if 0 < len(answer) <= ANSWER_CHARS else None


def extract_answer(response: str, problem: Problem) -> str | None:
  """`extract` with the choices of the problem."""
  return extract(response, problem.choices)


def after_thinking(response: str) -> str | None:
  """What follows the last `</think>`; None if thinking did not end."""
  text = response.rpartition("</think>")[2]
  return None if "<think>" in text else text


def _inside_answer(text: str) -> tuple[str, bool]:
  """The inside of the last `<answer>` that is closed, or all of the text."""
  before, closed, _ = text.rpartition("</answer>")
  _, opened, inside = before.rpartition("<answer>")
  return (inside, True) if closed and opened else (text, False)


def last_boxed(text: str) -> str | None:
  r"""The content of the `\boxed{...}` that closes last, braces balanced.

  A box inside a box loses its command and keeps its braces. Boxes with nothing
  but a comma, "and" or "or" between them are one answer of several parts.
  """
  opened: list[int] = []  # where a box's content starts, -1 for a plain brace
  boxes: list[tuple[int, int, int]] = []  # command, content, end of content
  for token in _BRACES.finditer(text):
    symbol = token.group()
    if symbol == "{":
      opened.append(-1)
    elif symbol == "}":
      start = opened.pop() if opened else -1
      if start >= 0:
        command = text.rindex("\\", 0, start)
        boxes.append((command, start, token.start()))
    elif symbol.startswith(("\\boxed", "\\fbox")):
      opened.append(token.end())
  if not boxes:
    return None
  parts = [boxes.pop()]
  while boxes:
    command, start, end = boxes.pop()
    if end > parts[-1][0]:
      continue  # inside the one that is taken
    if not _AND.fullmatch(text, end + 1, parts[-1][0]):
      break
    parts.append((command, start, end))
  return ", ".join(
    text[start:end].replace("\\boxed", "").replace("\\fbox", "")
    for _, start, end in reversed(parts)
  )


def after_heading(text: str) -> str | None:
  """The first line with text after the last final-answer heading."""
  end = -1
  for heading in _HEADING.finditer(text):
    end = heading.end()
  if end < 0:
    return None
  line = text[end:].lstrip(_AFTER_HEADING).partition("\n")[0]
  return _first_sentence(line).strip(_MARKUP) or None


def chosen_letter(answer: str) -> str | None:
  """The letter of "B, because it is red", which names no other option."""
  chosen = _CHOSEN.match(answer)
  if chosen is None or _NEGATION.search(answer):
    return None
  if _OTHER_LETTER.search(answer, chosen.end()):
    return None
  return half_width(chosen[1] or chosen[2])


def lone_letter(text: str, count: int) -> str | None:
  """The option letter (one of the first `count`) alone on the last line."""
  line = _last_line(text)
  letter = half_width(line.strip(_MARKUP + "().:：。$[]（）"))
  if len(letter) != 1 or not letter.isascii() or not letter.isalpha():
    return None
  return letter.upper() if ord(letter.upper()) - ord("A") < count else None


def option_called_right(text: str) -> str | None:
  """The one option that the last line, which has no "not", calls correct."""
  line = _last_line(text)
  named = {half_width(letter).upper() for letter in _OPTION.findall(line)}
  return named.pop() if len(named) == 1 and not _NEGATION.search(line) else None


def _last_line(text: str) -> str:
  return text.rstrip().rpartition("\n")[2]


def _first_sentence(line: str) -> str:
  """Cuts at the first full stop that ends a sentence.

  "5. This follows" is cut; "B. Paris" and "St. Louis" are not: a short word
  before the stop is a label or an abbreviation.
  """
  start = 0
  while (stop := line.find(". ", start)) >= 0:
    word = line[max(0, stop - 8) : stop].rpartition(" ")[2]
    if len(word) > 3 or any(c.isdigit() for c in word):
      return line[:stop]
    start = stop + 2
  chinese = line.find("。")
  return line[:chinese] if chinese >= 0 else line
