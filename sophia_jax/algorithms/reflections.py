"""Rules on the text of a chain of thought: where it reflects, what it says.

Texts are a model's: every pattern is linear in their length.
"""

from __future__ import annotations

import re

_REFLECTION = re.compile(
  r"(?<![^\s.!?:>])(?:But wait|Wait|But the question)\b", re.IGNORECASE
)
AHA = (
  "wait",
  "again",
  "double-check",
  "hmm",
  "mistake",
  "alternatively",
  "check",
  "i should confirm",
)
"""Words of a chain that doubts itself (VLAA-Thinking, arXiv 2504.11468)."""
SECOND_HAND = ("caption", "description", "visual information")
"""Words of a chain that was written from a text instead of an image."""


def truncated(text: str, limit: int) -> str:
  """Cuts a thought where a reflection begins that is one too many.

  Reflections begin with "Wait", "But wait" or "But the question" (OpenVLThinker,
  arXiv 2503.17352). What follows </think> stays; a text that thinks in no tags
  is returned as it is.

  Args:
    limit: reflections that stay; below 0: all of them.
  """
  thought, end, rest = text.rpartition("</think>")
  starts = [match.start() for match in _REFLECTION.finditer(thought)]
  if not end or limit < 0 or len(starts) <= limit:
    return text
  return f"{thought[: starts[limit]].rstrip()}{end}{rest}"


def mentions(text: str, words: tuple[str, ...]) -> bool:
  """Returns whether a text has any of the words, in any case, as whole words."""
  parts = "|".join(map(re.escape, words))
  if not words:
    return False
  return re.search(rf"\b(?:{parts})\b", text, re.IGNORECASE) is not None


def has_empty_summary(text: str) -> bool:
  r"""Returns whether nothing stands between </think> and the answer.

  The answer begins at <answer>, or at \boxed where there is no such tag. A text
  without thought or answer has no summary that could be empty.
  """
  _, end, rest = text.rpartition("</think>")
  before, answer, _ = rest.partition("<answer>")
  if not answer:
    before, answer, _ = rest.partition("\\boxed")
  return bool(end and answer) and not before.strip()
