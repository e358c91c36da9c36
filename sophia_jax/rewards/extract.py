"""Finds the answer at the end of a response, by rule.

Model output is hostile: every scan is linear in the part of the text that is
looked at, and that part is bounded. Nothing here interprets the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sophia_jax.rewards import reading
from sophia_jax.rewards.choices import letter_set, options_named
from sophia_jax.rewards.notation import spell
from sophia_jax.rewards.number import parse_number
from sophia_jax.rewards.text import half_width, unwrap
from sophia_jax.types import Problem

TAIL_CHARS = 20_000
"""Length of the end of a response that is read."""

ANSWER_CHARS = 1000
"""Longest answer; most verifiers take less."""

# Tokenisers, not grammars: each alternative has a bounded length, so a scan
# cannot backtrack.
_BRACES = re.compile(
  r"\\(?:boxed|fbox)[ \t]{0,4}\{"
  r"|\\(?:boxed|fbox)(?P<bare>[ \t]{0,4}-?\d[^\s{}$\\]{0,40}"
  r"|[ \t]{1,4}[^\s{}$\\]{1,40})|\\.|[{}]",
  re.DOTALL,
)
_MINUS = re.compile(r"[\s=$(]?[-−]")
"""A sign in front of a box; behind a number it subtracts: 12-\\boxed{5} = 7."""
_BLANK = re.compile(
  r"(?:\s|\\[ ,;:!]|\\q?quad|~|\.{2,3}|\\[lc]?dots|…|_|\?|\\text ?\{\s*\}"
  r"|(?:\\text ?\{)?\s*(?:your |the |final ){0,3}answer(?: here)?\s*\}?)*",
  re.IGNORECASE,
)
_RETRACTION = re.compile(
  r"\b(?:no|not|wait|actually|instead|correct(?:ion|ed|ing)|sorry|mistake|oops"
  r"|rather|hold on|scrap|wrong|first|previous(?:ly)?)\b|不对|错|更正",
  re.IGNORECASE,
)
_HEADING = re.compile(
  r"\*\*final answer:?\*\*|final answer[ \t]{0,4}[:：]|\banswer(?:\*\*)?[:：]"
  r"|^#{1,6} (?:final )?answer$|^#### "
  r"|\b(?:the|my) (?:final |correct |right |best )?"
  r"(?:answer|option|choice) (?:is|would be|must be)\b|\bfinal answer is\b"
  r"|答案[ \t]{0,4}(?:是|为|选|[:：])|^答[:：]|正确(?:选项|答案)(?:是|为)"
  r"|(?:故|应|所以|因此|本题|我)选(?:择)?",
  re.IGNORECASE | re.MULTILINE,
)
_PROSE = re.compile(
  r"[ \t]{0,4}(?:in(?:dependent|variant|correct)|dependent|the same|un(?:changed"
  r"|ique|known)|not|correct|consistent|reasonable|valid|always|as follows"
  r"|obtained|found|given|therefore|clear|below|above|then|likely|affected"
  r"|based|determined)\b",
  re.IGNORECASE,
)
_SENTENCE = re.compile(r"\b(?:is|be)$", re.IGNORECASE)
_REASON = re.compile(
  r",?\s(?:because|since|due to|as we|which|so that|given that)\b",
  re.IGNORECASE,
)
_AFTER_HEADING = " \t\r\n:：*#为是"
_MARKUP = " \t*_`#>"
_DISPLAY = re.compile(r"\A(?:\$\$|\\\[)\s{0,9}\n\s{0,9}")
_BOLD_STOP = re.compile(r"(?<=[*_`])[.,;!。，．]+$")
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


def extract(
  response: str, choices: Sequence[str] = (), parts: int = 1
) -> str | None:
  r"""Returns the answer that ends `response`, or None if there is none.

  In this order: nothing if a `<think>` is left open; only the inside of the
  last `<answer>...</answer>` where there is one; the last balanced
  `\boxed{...}` that is not blank, with those beside it; the text after the last
  final-answer heading; where the problem has `choices`, a letter alone on the
  last line or the only option that it calls correct. Where there are choices,
  a box without a letter does not hide a letter behind it.
  Nothing is ever guessed.

  Args:
    parts: how many answers are asked for: so many boxes, one for each, are one
      answer.
  """
  return _extract(response, choices, bool(choices), parts)


def extract_answer(response: str, problem: Problem) -> str | None:
  """Returns `extract` with what the problem asks for.

  Its choices; whether it is answered by a letter though its options stand in
  the question; of its gold answer, how many parts it has.
  """
  gold = unwrap(reading.unboxed(problem.answer))
  is_auto = problem.answer_type == "auto"
  letters = re.fullmatch(r"\(?[A-H]\)?", gold) or letter_set(gold)
  asks_option = problem.answer_type == "choice" or (is_auto and bool(letters))
  parts = 1
  if problem.answer_type in ("auto", "math", "olympiad", "list"):
    parts = 1 if problem.choices else len(reading.split(spell(gold)))
  return _extract(
    response, problem.choices, asks_option or bool(problem.choices), parts
  )


def _extract(
  response: str, choices: Sequence[str], asks_option: bool, parts: int
) -> str | None:
  text = after_thinking(response)
  if text is None:
    return None
  tail, tagged = _inside_answer(text[-TAIL_CHARS:])
  boxes = _boxes(tail)
  answer = _joined(tail, boxes, parts)
  if answer is None:
    answer = after_heading(tail)
    if answer is not None and asks_option:
      answer = chosen_letter(answer) or answer
  elif asks_option and not _LETTER.fullmatch(answer):
    answer = _option_behind(tail[boxes[-1].end :], choices) or answer
  if answer is None and tagged and "\n" not in tail.strip():
    answer = tail
  if answer is None and choices:
    answer = lone_letter(tail, len(choices)) or option_called_right(tail)
  if answer is None:
    return None
  answer = answer.strip()
  return answer if 0 < len(answer) <= ANSWER_CHARS else None


def answer_span(response: str, extracted: str = "") -> tuple[int, int] | None:
  r"""Returns the characters of the answer that ends `response`; None: it has none.

  They are the last box that is not blank after the thinking, the inside of the
  last `<answer>...</answer>` where it holds no box, or the last place of
  `extracted` where there is neither.

  Args:
    extracted: the answer that `extract` has found.
  """
  text = after_thinking(response)
  if text is None:
    return None
  tail, tagged = _inside_answer(text[-TAIL_CHARS:])
  start = len(response) - len(text)
  if tagged:
    start = response.rfind("<answer>", start, response.rfind("</answer>"))
    start += len("<answer>")
  else:
    start = len(response) - len(tail)
  if boxes := _boxes(tail):
    return start + boxes[-1].start, start + boxes[-1].end
  inside = tail.strip() if tagged else extracted
  place = tail.rfind(inside) if inside else -1
  return (start + place, start + place + len(inside)) if place >= 0 else None


_LETTER = re.compile(r"\W{0,3}[A-Z]\W{0,3}")


def _names_option(answer: str, choices: Sequence[str]) -> bool:
  if letter_set(answer):
    return True
  is_lower = not choices and answer.strip("() .")[:1].islower()
  return bool(options_named(answer, choices)) and not is_lower


def _option_behind(text: str, choices: Sequence[str]) -> str | None:
  """Returns the option that a heading or the last line names, if one does."""
  headed = after_heading(text)
  found = chosen_letter(headed or "") or headed
  if found and _names_option(found, choices):
    return found
  return lone_letter(text, len(choices) or 8)


def after_thinking(response: str) -> str | None:
  """Returns what follows the last `</think>`; None if thinking did not end."""
  text = response.rpartition("</think>")[2]
  return None if "<think>" in text else text


def _inside_answer(text: str) -> tuple[str, bool]:
  """Returns the inside of the last closed `<answer>`, or all of the text."""
  before, closed, _ = text.rpartition("</answer>")
  _, opened, inside = before.rpartition("<answer>")
  return (inside, True) if closed and opened else (text, False)


class _Box(NamedTuple):
  command: int
  """Start of its command."""
  start: int
  end: int
  """Bounds of its content."""


def last_boxed(text: str) -> str | None:
  r"""Returns the content of the last `\boxed{...}`, with a minus in front of it.

  A box inside a box loses its command and keeps its braces, a blank box does
  not count, and `\boxed 5` is a box. Boxes with nothing but a comma, "and" or
  "or" between them are one answer of several parts.
  """
  return _joined(text, _boxes(text), parts=1)


def _boxes(text: str) -> list[_Box]:
  """Returns the outermost boxes that are not blank, in order."""
  opened: list[int] = []  # where a box's content starts, -1 for a plain brace
  boxes: list[_Box] = []
  for token in _BRACES.finditer(text):
    symbol = token.group()
    box = None
    if symbol == "{":
      opened.append(-1)
    elif symbol == "}":
      start = opened.pop() if opened else -1
      if start >= 0:
        box = _Box(text.rindex("\\", 0, start), start, token.start())
    elif token["bare"]:
      content = token["bare"].rstrip(".,;:!)")
      start = token.start("bare")
      box = _Box(token.start(), start, start + len(content))
    elif symbol.startswith(("\\boxed", "\\fbox")):
      opened.append(token.end())
    if box and not _BLANK.fullmatch(
      text, box.start, min(box.end, box.start + 99)
    ):
      while boxes and boxes[-1].start > box.command:
        boxes.pop()  # inside this one
      boxes.append(box)
  return boxes


def _joined(text: str, boxes: list[_Box], parts: int) -> str | None:
  """Returns the last box with those that belong to it, None without boxes."""
  if not boxes:
    return None
  run = boxes[-1:]
  for box in reversed(boxes[:-1]):
    if not _AND.fullmatch(text, box.end + 1, run[0].command):
      break
    run.insert(0, box)
  if len(boxes) == parts > len(run) and _are_parts(text, boxes):
    run = boxes
  contents = [
    text[box.start : box.end].replace("\\boxed", "").replace("\\fbox", "")
    for box in run
  ]
  start = run[0].command
  if len(run) == 1 and _MINUS.fullmatch(text[max(0, start - 2) : start]):
    return f"-{contents[0]}"
  if len(run) != parts and len(set(contents)) == 1:
    return contents[0]  # one answer, boxed again
  return ", ".join(contents)


def _are_parts(text: str, boxes: list[_Box]) -> bool:
  """Returns whether no box takes back another one and each has one answer."""
  between = text[boxes[0].end : boxes[-1].command]
  contents = [text[box.start : box.end] for box in boxes]
  return not _RETRACTION.search(between) and not any("," in c for c in contents)


def after_heading(text: str) -> str | None:
  """Returns the first line with text after the last final-answer heading.

  "The answer is independent of ..." is prose and no heading. A reason behind a
  number, a yes or a no is cut off.
  """
  end = -1
  for heading in _HEADING.finditer(text):
    is_sentence = _SENTENCE.search(heading[0])
    if not (is_sentence and _PROSE.match(text, heading.end())):
      end = heading.end()
  if end < 0:
    return None
  rest = _DISPLAY.sub("", text[end:].lstrip(_AFTER_HEADING), count=1)
  line = rest.partition("\n")[0]
  line = _BOLD_STOP.sub("", _first_sentence(line)).strip(_MARKUP)
  reason = _REASON.search(line)
  if reason and _is_short(unwrap(line[: reason.start()])):
    line = line[: reason.start()]
  return line or None


def _is_short(answer: str) -> bool:
  """Returns whether it is a number, yes or no."""
  return answer.lower() in ("yes", "no") or parse_number(answer) is not None


def chosen_letter(answer: str) -> str | None:
  """Returns the letter of "B, because it is red", which names no other option."""
  chosen = _CHOSEN.match(answer)
  if chosen is None or _NEGATION.search(answer):
    return None
  if _OTHER_LETTER.search(answer, chosen.end()):
    return None
  return half_width(chosen[1] or chosen[2])


def lone_letter(text: str, count: int) -> str | None:
  """Returns the option letter (one of the first `count`) alone on the last line."""
  line = _last_line(text)
  letter = half_width(line.strip(_MARKUP + "().:：。$[]（）"))
  if len(letter) != 1 or not letter.isascii() or not letter.isalpha():
    return None
  return letter.upper() if ord(letter.upper()) - ord("A") < count else None


def option_called_right(text: str) -> str | None:
  """Returns the one option that the last line calls correct, without "not"."""
  line = _last_line(text)
  named = {half_width(letter).upper() for letter in _OPTION.findall(line)}
  return named.pop() if len(named) == 1 and not _NEGATION.search(line) else None


def _last_line(text: str) -> str:
  return text.rstrip().rpartition("\n")[2]


def _first_sentence(line: str) -> str:
  """Cuts `line` at the first full stop that ends a sentence.

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
