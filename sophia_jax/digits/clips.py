"""Clips of handwritten digits, one digit a frame, and questions about them.

Questions ask for order, number and change; two further kinds are only ever asked
of held-out clips.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sophia_jax.digits import language, scenes
from sophia_jax.digits.language import Digits, Question
from sophia_jax.digits.scenes import Scans

LENGTHS = (3, 4)
"""Frames of a clip."""
LEVELS = ("L1", "L2", "L3")
"""Held-out scans; other handwriting, inks and papers; those, and other kinds of
questions."""

_Colour = tuple[int, int, int]
_INKS: tuple[_Colour, ...] = ((120, 40, 140), (110, 70, 20), (0, 110, 120))
_PAPERS: tuple[_Colour, ...] = (
  (190, 225, 250),
  (200, 240, 200),
  (235, 220, 190),
)
"""Inks and papers of the levels above L1."""


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip, frame by frame.

  Example: Clip(digits=(3, 8, 1), scans=(17, 801, 5),
    cells=((0, 2), (1, 0), (1, 1)), ink=(200, 30, 30), paper=(250, 250, 250))
  """

  digits: Digits
  """Different digits, from the first frame to the last."""
  scans: tuple[int, ...]
  """Index of each digit's scan in its `Scans`."""
  cells: tuple[tuple[int, int], ...]
  """Column and row of each digit."""
  ink: _Colour
  paper: _Colour


def sample_clip(
  rng: np.random.Generator, scans: Scans, familiar: bool = True
) -> Clip:
  """Draws a clip.

  Args:
    familiar: whether inks and papers are those of the training scenes.
  """
  n = int(rng.choice(LENGTHS))
  digits = rng.permutation(10)[:n].tolist()
  inks = tuple(scenes.INKS.values()) if familiar else _INKS
  papers = tuple(scenes.PAPERS.values()) if familiar else _PAPERS
  return Clip(
    digits=tuple(digits),
    scans=tuple(
      int(rng.choice(np.flatnonzero(scans.labels == d))) for d in digits
    ),
    cells=tuple(map(tuple, rng.integers(0, scenes.GRID, (n, 2)).tolist())),
    ink=inks[int(rng.integers(len(inks)))],
    paper=papers[int(rng.integers(len(papers)))],
  )


def draw(
  rng: np.random.Generator, scans: Scans, clip: Clip
) -> list[UInt8[np.ndarray, "SIDE SIDE 3"]]:
  """Draws the frames of a clip."""
  colours = clip.ink, clip.paper
  return [
    scenes.paint(rng, scans, {cell: scan}, colours)
    for scan, cell in zip(clip.scans, clip.cells)
  ]


def other_hands(scans: Scans) -> Scans:
  """Returns the scans as other writers might have made them: slanted, bolder."""

  def slanted(scan: np.ndarray) -> np.ndarray:
    image = Image.fromarray((scan * 255).astype(np.uint8))
    # x of the source: 0.35 of a pixel further left for each row from the middle.
    shear = (1, 0.35, -0.35 * 3.5, 0, 1, 0)
    bilinear = Image.Resampling.BILINEAR
    turned = image.transform(
      image.size, Image.Transform.AFFINE, shear, bilinear
    )
    return np.clip(np.asarray(turned) / 255 * 1.3, 0, 1)

  pixels = np.stack([slanted(scan) for scan in scans.pixels])
  return Scans(pixels, scans.labels)


# ------------------------------------------------------------------ questions
def _after(digits: Digits, number: int) -> Question | None:
  if number not in digits[:-1]:
    return None
  found = digits[digits.index(number) + 1]
  return Question(
    f"Which digit comes right after {number}?",
    str(found),
    "choice",
    (f"After {number} comes {found}.",),
    (f"Before {found} comes {number}.",),
  )


def _before(digits: Digits, number: int) -> Question | None:
  if number not in digits[1:]:
    return None
  found = digits[digits.index(number) - 1]
  return Question(
    f"Which digit comes right before {number}?",
    str(found),
    "choice",
    (f"Before {number} comes {found}.",),
    (f"After {found} comes {number}.",),
  )


def _count(digits: Digits, number: int) -> Question | None:
  question = language.KINDS["counting"](digits, number)
  return dataclasses.replace(question, answer_type="choice")


def _ends(digits: Digits) -> tuple[str, str]:
  return f"The first is {digits[0]}.", f"The last is {digits[-1]}."


def _change(digits: Digits, number: int) -> Question | None:
  low, high = sorted((digits[0], digits[-1]))
  return Question(
    "By how much do the first digit and the last digit differ?",
    str(high - low),
    "choice",
    (*_ends(digits), f"{high} - {low} = {high - low}."),
    (f"{low} + {high - low} = {high}.",),
  )


def _sum(digits: Digits, number: int) -> Question | None:
  first, last = digits[0], digits[-1]
  return Question(
    "What is the first digit plus the last digit?",
    str(first + last),
    "choice",
    (*_ends(digits), f"{first} + {last} = {first + last}."),
    (f"{last} + {first} = {first + last}.",),
  )


TRAINED: dict[str, Callable[[Digits, int], Question | None]] = {
  "clip-order": _after,
  "clip-count": _count,
  "clip-change": _change,
}
"""Kinds that are trained on; the number is what a question names."""
UNSEEN: dict[str, Callable[[Digits, int], Question | None]] = {
  "clip-before": _before,
  "clip-sum": _sum,
}
"""Kinds of level L3 alone."""
KINDS = {**TRAINED, **UNSEEN}


def ask(rng: np.random.Generator, kind: str, digits: Digits) -> Question:
  """Asks a question of a kind about a clip, with four options."""
  number = {
    "clip-order": lambda: int(rng.choice(digits[:-1])),
    "clip-before": lambda: int(rng.choice(digits[1:])),
    "clip-count": lambda: int(rng.integers(2, 8)),
  }.get(kind, lambda: 0)()
  question = KINDS[kind](digits, number)
  assert question is not None
  return _with_options(rng, kind, question, digits)


def ask_again(kind: str, text: str, digits: Digits) -> Question | None:
  """Asks the question of a text about other digits; None: it makes no sense."""
  number = re.search(r"(\d+)\?", text)
  return (
    KINDS[kind](digits, int(number[1]) if number else 0) if digits else None
  )


def _with_options(
  rng: np.random.Generator, kind: str, question: Question, digits: Digits
) -> Question:
  """Gives a question four numbers that might all be its answer."""
  answer = int(question.answer)
  likely, rest = {
    "clip-count": (range(len(digits) + 1), range(0)),
    "clip-change": (range(1, 10), range(0)),
    "clip-sum": (range(max(1, answer - 3), answer + 4), range(0)),
  }.get(kind, (digits, range(10)))
  order = [*rng.permutation(likely).tolist(), *rng.permutation(rest).tolist()]
  wrong = [n for n in dict.fromkeys(order) if n != answer][:3]
  options = [question.answer, *map(str, wrong)]
  choices = tuple(options[i] for i in rng.permutation(4))
  return dataclasses.replace(question, choices=choices)
