"""Text about the views of a moving camera: descriptions, questions, reasoning.

A video is seen as a few views. The first is described alone, each later one by
what has changed since the one before: the move, and what is in the middle now.
Questions have four options, and their answers are known exactly.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

Move = tuple[int, int]
"""Cells to the right and down that the camera has moved between two views."""

WAYS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
"""Unit moves by their names."""
WHERE = (
  *WAYS,
  *(
    f"{across} and {along}"
    for across in ("right", "left")
    for along in ("up", "down")
  ),
  "the same place",
)
"""Answers to the question where something is."""
KINDS = ("motion", "order", "direction", "count")

_MOVES = re.compile(
  r"\b[Ii]t moves ((?:(?:right|left|up|down) \d|, | and )+)\."
)
_PART = re.compile(r"(right|left|up|down) (\d)")
_MIDDLES = re.compile(r"The middles are ((?:\d(?:, )?)+)\.")
_AFTER = re.compile(r"right after (\d)\?")
_COUNTED = re.compile(r"moves go (\w+)\?")


@dataclasses.dataclass(frozen=True)
class Seen:
  """Contents of the views of a video.

  Example: Seen(moves=((2, 0), (0, -2)), middles=(7, 3, 5))
  """

  moves: tuple[Move, ...]
  """Move from each view to the next."""
  middles: tuple[int, ...]
  """Digit in the middle of each view; () in a photograph."""


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about views, with what its reasoning states first.

  Example: Question(kind="motion", text="Which way does the camera move from
    view 1 to view 2?", answer="right", choices=("up", "right", "left", "down"),
    facts=Seen(moves=((2, 0),), middles=()))
  """

  kind: str
  text: str
  answer: str
  choices: tuple[str, ...]
  facts: Seen
  """The part of the views that the answer follows from."""


# ---------------------------------------------------------------- descriptions
def said(move: Move) -> str:
  """Names a move: "right 2", "right 1 and up 1", "nowhere"."""
  parts = [
    f"{name} {abs(step)}"
    for name, step in zip(_names(move), (step for step in move if step))
  ]
  return " and ".join(parts) or "nowhere"


def described(seen: Seen, view: int) -> str:
  """Describes a view: alone if it is the first, else by what has changed.

  Example: "It moves right 2. The middle is 3."
  """
  shown = [f"It moves {said(seen.moves[view - 1])}."] if view else []
  if seen.middles:
    shown.append(f"The middle is {seen.middles[view]}.")
  elif not view:
    shown.append("A photograph.")
  return " ".join(shown)


def misread(rng: np.random.Generator, seen: Seen, noise: float) -> Seen:
  """Returns the views as a describer sees them who errs at times.

  Args:
    noise: probability that a move, or a digit in the middle, is another one.
  """
  wrong = lambda: rng.random() < noise
  return Seen(
    tuple(_other_move(rng, m) if wrong() else m for m in seen.moves),
    tuple(_other_digit(rng, d) if wrong() else d for d in seen.middles),
  )


def _names(move: Move) -> list[str]:
  across = {1: "right", -1: "left"}.get(int(np.sign(move[0])))
  along = {1: "down", -1: "up"}.get(int(np.sign(move[1])))
  return [name for name in (across, along) if name]


def _other_move(rng: np.random.Generator, move: Move) -> Move:
  """Returns a straight move of the same length in another direction."""
  length = max(map(abs, move))
  others = [(x * length, y * length) for x, y in WAYS.values()]
  others = [other for other in others if other != move]
  return others[int(rng.integers(len(others)))]


def _other_digit(rng: np.random.Generator, digit: int) -> int:
  return (digit + int(rng.integers(1, 10))) % 10


# ------------------------------------------------------------------- questions
def where(moves: Sequence[Move]) -> str:
  """Names where a camera is after moves, seen from where it was."""
  across, along = (sum(step) for step in zip(*moves)) if moves else (0, 0)
  return " and ".join(_names((across, along))) or "the same place"


def ask(rng: np.random.Generator, kind: str, seen: Seen) -> Question | None:
  """Asks a question of a kind; None where the views do not allow for one."""
  found = ASKED[kind](rng, seen)
  if found is None:
    return None
  text, facts = found
  answer = solved(kind, text, facts)
  assert answer is not None
  others = [a for a in _answers(kind) if a != answer]
  wrong = [others[i] for i in rng.permutation(len(others))[:3]]
  options = [answer, *wrong]
  choices = tuple(options[i] for i in rng.permutation(4))
  return Question(kind, text, answer, choices, facts)


def solved(kind: str, text: str, facts: Seen) -> str | None:
  """Answers a question from what is stated; None where that says nothing."""
  if kind == "order":
    after = _AFTER.search(text)
    middles = list(facts.middles)
    if not after or int(after[1]) not in middles[:-1]:
      return None
    return str(middles[middles.index(int(after[1])) + 1])
  if not facts.moves:
    return None
  if kind == "count":
    way = _COUNTED.search(text)
    return str(sum(way[1] in _names(m) for m in facts.moves)) if way else None
  return where(facts.moves[:1] if kind == "motion" else facts.moves)


def _motion(rng: np.random.Generator, seen: Seen) -> tuple[str, Seen] | None:
  straight = [i for i, m in enumerate(seen.moves) if len(_names(m)) == 1]
  if not straight:
    return None
  i = straight[int(rng.integers(len(straight)))]
  text = f"Which way does the camera move from view {i + 1} to view {i + 2}?"
  return text, Seen((seen.moves[i],), ())


def _order(rng: np.random.Generator, seen: Seen) -> tuple[str, Seen] | None:
  if len(set(seen.middles)) < max(len(seen.middles), 2):
    return None
  i = int(rng.integers(len(seen.middles) - 1))
  text = f"Which digit is in the middle right after {seen.middles[i]}?"
  return text, Seen((), seen.middles)


def _direction(rng: np.random.Generator, seen: Seen) -> tuple[str, Seen] | None:
  n = len(seen.moves)
  if n < 2:
    return None
  if len(set(seen.middles)) < max(len(seen.middles), 2):
    return "Where is the last view from the first?", Seen(seen.moves, ())
  i = int(rng.integers(n - 1))
  j = int(rng.integers(i + 2, n + 1))
  text = f"Where is {seen.middles[j]} from {seen.middles[i]}?"
  return text, Seen(seen.moves[i:j], ())


def _count(rng: np.random.Generator, seen: Seen) -> tuple[str, Seen] | None:
  if len(seen.moves) < 2:
    return None
  way = list(WAYS)[int(rng.integers(4))]
  return f"How many moves go {way}?", Seen(seen.moves, ())


ASKED: dict[
  str, Callable[[np.random.Generator, Seen], tuple[str, Seen] | None]
] = {
  "motion": _motion,
  "order": _order,
  "direction": _direction,
  "count": _count,
}
"""Maker of each kind's text and facts."""


def _answers(kind: str) -> Sequence[str]:
  """Returns the texts that options of a kind are drawn from."""
  return {
    "motion": tuple(WAYS),
    "order": tuple(map(str, range(10))),
    "direction": WHERE,
    "count": tuple(map(str, range(5))),
  }[kind]


# ------------------------------------------------------------------- reasoning
def thought(question: Question, facts: Seen | None = None) -> str:
  """Returns the steps to an answer, which they do not name themselves.

  Args:
    facts: what they state; None: the question's own facts.
  """
  facts = facts or question.facts
  if question.kind == "order":
    return f"The middles are {', '.join(map(str, facts.middles))}."
  moves = f"It moves {', '.join(map(said, facts.moves))}."
  if question.kind == "motion":
    return moves
  if question.kind == "direction":
    places = np.cumsum(facts.moves, axis=0).tolist()
    return " ".join([moves, *(f"Then {said(tuple(p))}." for p in places)])
  way = _COUNTED.search(question.text)
  assert way is not None
  counts = np.cumsum([way[1] in _names(m) for m in facts.moves]).tolist()
  return f"{moves} Counted: {', '.join(map(str, counts))}."


def slipped(rng: np.random.Generator, question: Question) -> Seen | None:
  """Returns facts with an error from which one of the wrong options follows.

  None where no single error leads to one.
  """
  for _ in range(8):
    moves, middles = list(question.facts.moves), list(question.facts.middles)
    if moves:
      i = int(rng.integers(len(moves)))
      moves[i] = _other_move(rng, moves[i])
    else:
      i = int(rng.integers(len(middles)))
      middles[i] = _other_digit(rng, middles[i])
    facts = Seen(tuple(moves), tuple(middles))
    found = solved(question.kind, question.text, facts)
    if found != question.answer and found in question.choices:
      return facts
  return None


def stated(response: str) -> Seen | None:
  """Returns the facts that a response states first; None: it states none."""
  middles = _MIDDLES.search(response)
  if middles:
    found = middles[1].split(", ")
    return Seen((), tuple(int(d) for d in found if d))
  moved = _MOVES.search(response)
  if not moved:
    return None
  moves = []
  for each in moved[1].split(", "):
    x = y = 0
    for way, length in _PART.findall(each):
      x += WAYS[way][0] * int(length)
      y += WAYS[way][1] * int(length)
    moves.append((x, y))
  return Seen(tuple(moves), ())
