"""The reasoning inside an answer, and what a reader makes of it.

A reader answers from the reasoning alone (Embodied-R, arXiv 2504.12680). Letters
of options are stripped before: "the answer is C" would tell it what to say, and
nothing about whether C follows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from sophia_jax.rewards.choices import which_choice
from sophia_jax.rewards.extract import extract

OPEN, CLOSE = "<think>", "</think>"
ANSWERS = (("<answer>", "</answer>"), ("\\boxed{", "}"))
"""Marks around an answer, of which one pair ends a response."""

_FIRST = re.compile(r"\W{0,4}([A-Z])(?![A-Za-z'])")
"""A letter that begins an answer."""
_NAMES = (
  r"\b(?:answers?|options?|choices?|choose|pick|select)"
  r"(?:\s{1,3}(?:is|are|was|must be|would be|option|choice))?"
  r"\s{0,3}[:=]?\s{0,3}"
)
"""Words before the letter of an option, in any case; blanks are bounded, so that
many of them take no longer."""
_ARTICLE = (
  r"A (?!(?:is|was|fits|matches|holds|follows|because|since|and|or)\b)[a-z]"
)
"""An "A" that is an article; before these verbs it is an option."""


@functools.cache
def _leaks(options: int) -> tuple[re.Pattern[str], ...]:
  """Returns the patterns of what names an option; their group 1 is kept."""
  last = chr(ord("A") + min(max(options, 1), 26) - 1)
  capital, letter = f"[A-{last}]", f"[A-{last}a-{last.lower()}]"
  patterns = (
    r"()(?:\\boxed\s{0,3}\{[^{}]{0,200}\}|<answer>[^<]{0,200}</answer>)",
    rf"((?i:{_NAMES})){letter}(?![A-Za-z0-9'])",
    rf"()[(\[]{letter}[)\]]",
    rf"()(?<![A-Za-z0-9'])(?!{_ARTICLE}|I [a-z]){capital}(?![A-Za-z0-9'])[.):]?",
  )
  return tuple(map(re.compile, patterns))


def reasoning(text: str) -> str:
  """Returns the text between the tags of thought; "" where they are not."""
  _, opened, rest = text.partition(OPEN)
  inside, closed, _ = rest.partition(CLOSE)
  return inside.strip() if opened and closed else ""


def is_formed(text: str) -> bool:
  """Returns whether a response is thoughts in tags and then an answer.

  The answer is in <answer> tags or in a box. Takes time linear in the text.
  """
  text = text.strip()
  if not text.startswith(OPEN):
    return False
  thought, closed, answer = text[len(OPEN) :].partition(CLOSE)
  if not closed or OPEN in thought or CLOSE in answer:
    return False
  for begin, end in ANSWERS:
    _, begun, inside = answer.partition(begin)
    if begun and end in inside:
      return True
  return False


def without_letters(text: str, options: int) -> str:
  """Returns reasoning without the letters of options that it names.

  A box goes with its content; so do "(C)", "C." and a C alone, in "the answer
  is c" in either case. Left are an article A and letters beyond the options.

  Args:
    options: number of options.
  """
  for leak in _leaks(options):
    text = leak.sub(r"\1 ", text)
  return re.sub(r"[ \t]+", " ", text).strip()


def read_choice(text: str, choices: Sequence[str]) -> int | None:
  """Returns the option that a reader names; None where it names none.

  By letter or by text, in a box or not; the letter that begins a longer answer
  counts.
  """
  said = (extract(text, choices) or text).strip()[:200]
  found = which_choice(said, choices)
  first = _FIRST.match(said)
  if found is None and first and ord(first[1]) - ord("A") < len(choices):
    return ord(first[1]) - ord("A")
  return found
