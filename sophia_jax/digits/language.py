"""Text about a scene: captions, questions, and worked reasoning.

The policy's warm-up uses captions and reading questions only; worked reasoning
is for the text-only reasoner alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np

Digits = tuple[int, ...]
Seen = tuple[int | None, ...]
"""Digits as an image shows them; None: unclear."""

UNCLEAR = "unclear"

PLACES = {2: ("left", "right"), 3: ("left", "middle", "right")}
"""Names of the digits' positions, by the number of digits."""


def name(digit: int | None) -> str:
  return UNCLEAR if digit is None else str(digit)


def caption(seen: Seen, ink: str, paper: str) -> str:
  """Describes all contents of a scene.

  Example: "red ink on white paper: left 3, middle unclear, right 1."
  """
  places = PLACES[len(seen)]
  shown = ", ".join(f"{p} {name(d)}" for p, d in zip(places, seen))
  return f"{ink} ink on {paper} paper: {shown}."


def description(digits: Digits, ink: str, paper: str) -> str:
  """Describes a scene in sentences, with objects, attributes and a relation.

  Example: "The ink is red. The paper is white. The left digit is 3, the right
    digit is 5. The left digit is smaller than the right digit."
  """
  places = PLACES[len(digits)]
  shown = ", the ".join(f"{p} digit is {d}" for p, d in zip(places, digits))
  left, right = digits[0], digits[-1]
  order = "larger than" if left > right else "smaller than"
  relation = "equal to" if left == right else order
  return (
    f"The ink is {ink}. The paper is {paper}. The {shown}. "
    f"The left digit is {relation} the right digit."
  )


def reading(
  rng: np.random.Generator, digits: Seen, ink: str, paper: str
) -> tuple[str, str]:
  """Returns a question that needs no reasoning, and its answer.

  The answer is boxed: after the warm-up the policy knows the form of an answer
  and lacks only reasoning.
  """
  place = PLACES[len(digits)][i := int(rng.integers(len(digits)))]
  return (
    (f"Which digit is on the {place}?", rf"\boxed{{{name(digits[i])}}}"),
    (f"Which digit is on the {place}?", rf"\boxed{{{name(digits[i])}}}"),
    ("How many digits are there?", rf"\boxed{{{len(digits)}}}"),
    ("What colour is the ink?", rf"\boxed{{{ink}}}"),
    ("What colour is the paper?", rf"\boxed{{{paper}}}"),
  )[int(rng.integers(5))]


# ------------------------------------------------------------------ questions
@dataclasses.dataclass(frozen=True)
class Question:
  """A question about digits, with the parts of its worked solution.

  Example: Question(text="What is the sum of all digits?", answer="12",
    answer_type="number", steps=("3 + 8 = 11.", "11 + 1 = 12."),
    check=("8 + 1 = 9.", "9 + 3 = 12."))
  """

  text: str
  answer: str
  answer_type: str
  steps: tuple[str, ...]
  """Sentences that lead to the answer."""
  check: tuple[str, ...]
  """Sentences that verify it."""
  choices: tuple[str, ...] = ()


def _extremes(digits: Digits) -> tuple[str, str]:
  return f"The largest is {max(digits)}.", f"The smallest is {min(digits)}."


def _sum(digits: Digits, bound: int) -> Question:
  high, low = max(digits), min(digits)
  return Question(
    "What is the largest digit plus the smallest digit?",
    str(high + low),
    "number",
    (*_extremes(digits), f"{high} + {low} = {high + low}."),
    (f"{low} + {high} = {high + low}.",),
  )


def _difference(digits: Digits, bound: int) -> Question:
  high, low = max(digits), min(digits)
  return Question(
    "What is the largest digit minus the smallest digit?",
    str(high - low),
    "number",
    (*_extremes(digits), f"{high} - {low} = {high - low}."),
    (f"{low} + {high - low} = {high}.",),
  )


def _comparison(digits: Digits, bound: int) -> Question:
  left, right = digits[0], digits[-1]
  letter = "A" if left > right else "B" if right > left else "C"
  relation = {"A": "larger than", "B": "smaller than", "C": "equal to"}[letter]
  inverse = {"A": "smaller than", "B": "larger than", "C": "equal to"}[letter]
  return Question(
    "Which digit is larger?",
    letter,
    "choice",
    (
      f"The left digit is {left}.",
      f"The right digit is {right}.",
      f"{left} is {relation} {right}.",
    ),
    (f"{right} is {inverse} {left}.",),
    choices=("the left one", "the right one", "none"),
  )


def _ordering(digits: Digits, bound: int) -> Question:
  up = sorted(digits)
  return Question(
    "List the digits from the smallest to the largest.",
    ", ".join(map(str, up)),
    "list",
    (
      f"The smallest is {up[0]}.",
      *(f"Then comes {d}." for d in up[1:]),
    ),
    (
      f"The largest is {up[-1]}.",
      *(f"Before it comes {d}." for d in up[-2::-1]),
    ),
  )


def _counting(digits: Digits, bound: int) -> Question:
  say = lambda d: f"{d} is {'larger' if d > bound else 'not larger'}."
  count = sum(d > bound for d in digits)
  return Question(
    f"How many digits are larger than {bound}?",
    str(count),
    "number",
    (*map(say, digits), f"That makes {count}."),
    (*map(say, digits[::-1]), f"That makes {count}."),
  )


KINDS: dict[str, Callable[[Digits, int], Question]] = {
  "sum": _sum,
  "difference": _difference,
  "comparison": _comparison,
  "ordering": _ordering,
  "counting": _counting,
}
"""Each kind's question about digits; a bound is what "counting" compares with."""


def ask(rng: np.random.Generator, kind: str, digits: Digits) -> Question:
  """Asks a question of a kind about digits."""
  bound = int(rng.integers(2, 8)) if kind == "counting" else 0
  return KINDS[kind](digits, bound)


def ask_again(kind: str, text: str, digits: Digits) -> Question:
  """Asks the question of a text about other digits."""
  bound = re.search(r"larger than (\d+)\?", text)
  return KINDS[kind](digits, int(bound[1]) if bound else 0)


# -------------------------------------------------------------------- options
def with_options(
  rng: np.random.Generator, kind: str, question: Question, digits: Digits
) -> Question:
  """Gives a question four options; the wrong ones are answers for other digits."""
  if question.choices:
    return dataclasses.replace(
      question, choices=(*question.choices, "it cannot be told")
    )
  wrong: dict[str, None] = {}
  n = len(digits) + (kind == "counting")  # two digits have three counts only
  while len(wrong) < 3:
    other = tuple(rng.integers(0, 10, n).tolist())
    answer = ask_again(kind, question.text, other).answer
    if answer != question.answer:
      wrong[answer] = None
  options = [question.answer, *wrong]
  choices = tuple(options[i] for i in rng.permutation(4))
  return solved(rng, kind, question.text, choices, digits)


def solved(
  rng: np.random.Generator,
  kind: str,
  text: str,
  choices: tuple[str, ...],
  digits: Digits,
) -> Question:
  """Answers a question from digits; guesses where none of its options fits.

  The answer is an option's text: to name its letter is more than a reasoner of 1M
  parameters learns from 16,000 examples.
  """
  question = ask_again(kind, text, digits)
  if question.choices or not choices:
    return dataclasses.replace(question, choices=choices)
  options = dataclasses.replace(question, answer_type="choice", choices=choices)
  if question.answer in choices:
    return options
  taken = choices[int(rng.integers(len(choices)))]
  steps = (*question.steps, f"None of them fits, so I take {taken}.")
  return dataclasses.replace(options, answer=taken, steps=steps)


# ----------------------------------------------------------- worked reasoning
def worked(
  rng: np.random.Generator,
  question: Question,
  digits: Digits,
  seen: Seen | None = None,
  picture: str = "image",
) -> str:
  """Returns a slow-thinking solution in one of several manners.

  Some are terse, some doubt and check, some correct a slip, some are longer than
  needed. All end in the boxed answer.

  Args:
    digits: what the solution reckons with.
    seen: what it says is shown, where a digit is unclear and taken for one.
    picture: what shows them.
  """
  seen = seen or digits
  lines = [f"The {picture} shows {', '.join(map(name, seen))}."]
  if None in seen:
    taken = digits[seen.index(None)]
    lines.append(f"I take the unclear digit for {taken}.")
  if rng.random() < 0.3:
    lines.insert(0, f"Let me look at the {picture} carefully.")
  lines += _with_slip(rng, question.steps)
  if rng.random() < 0.4:
    lines += ["Wait, let me check.", *question.check, "It holds."]
  if rng.random() < 0.15:
    lines += ["Once more.", *question.steps]
  thought = " ".join(lines)
  return (
    f"<think>{thought}</think> **Final answer** \\boxed{{{question.answer}}}"
  )


def drill(rng: np.random.Generator) -> str:
  """Returns bare facts, which the reasoner learns before it reasons.

  Example: "8 + 3 = 11. 9 - 4 = 5. 2 is smaller than 7. ..."
  """
  facts = []
  for a, b in rng.integers(0, 10, (12, 2)).tolist():
    relation = "larger" if a > b else "smaller" if a < b else "equal"
    than = "to" if a == b else "than"
    facts.append(
      (
        f"{a} + {b} = {a + b}.",
        f"{max(a, b)} - {min(a, b)} = {abs(a - b)}.",
        f"{a} is {relation} {than} {b}.",
      )[int(rng.integers(3))]
    )
  return " ".join(facts)


def _with_slip(
  rng: np.random.Generator, steps: tuple[str, ...]
) -> tuple[str, ...]:
  """Puts a wrong version and its correction before the last step, at times."""
  *head, last = steps
  stem, _, end = last.rstrip(".").rpartition(" ")
  if not end.isdigit() or rng.random() > 0.06:
    return steps
  wrong = abs(int(end) + int(rng.choice([-2, -1, 1, 2])))
  return (*head, f"{stem} {wrong}.", "No, that is wrong.", last)
