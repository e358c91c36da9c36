"""What a benchmark is: how a problem is posed, a response marked, marks counted.

Its problems come from its official files by its importer; the prompt around
them (slow-thinking system prompt, hint before the question) and the image path
are the ones of training. What is left to a benchmark is the wording of its
hint, the rule its answers are compared by, and its metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.data.problems import load_problems
from sophia_jax.datasets.importers.files import find_files
from sophia_jax.datasets.importers.run import import_dataset, read_answers
from sophia_jax.evals.rates import Rate, grouped
from sophia_jax.rewards.choices import which_choice
from sophia_jax.rewards.extract import (
  TAIL_CHARS,
  after_thinking,
  extract_answer,
  lone_letter,
)
from sophia_jax.rewards.pool import COMPARER, Verifier
from sophia_jax.types import Problem, Status, Verdict, host

Item = tuple[str, Problem]
"""An answer that was found in a response, "" if none was, and the problem that
it is held against."""


@host
class Mark:
  """What became of one response.

  Example: Mark(status=Status.WRONG, extracted="3; 7",
    steps=(Status.RIGHT, Status.WRONG))
  """

  status: Status
  extracted: str = ""
  steps: tuple[Status, ...] = ()
  """Of a problem that is marked step by step."""

  @property
  def right(self) -> bool:
    return self.status is Status.RIGHT


@host
class Scored:
  """A problem with the marks of all its samples."""

  problem: Problem
  marks: tuple[Mark, ...]

  @property
  def score(self) -> float:
    """The share of right samples: pass@1."""
    return math.fsum(mark.right for mark in self.marks) / len(self.marks)


# --------------------------------------------------------------------- marking
BARE_CHARS = 40
"""A longer line is a sentence, not a bare answer."""
_LABELLED = re.compile(r"\(?([A-Z])\)? ?[(（](.*)[)）][.。]?", re.DOTALL)


def answer_in(problem: Problem, response: str) -> str:
  """The answer that a response ends with, "" if there is none.

  As in training, and besides: a letter alone on the last line, and a response
  that is nothing but a short answer. Models that are evaluated were not all
  asked for a box; training may ask for it.
  """
  answer = extract_answer(response, problem)
  text = (after_thinking(response) or "")[-TAIL_CHARS:].strip()
  if answer is None and problem.answer_type == "choice":
    answer = lone_letter(text, len(problem.choices) or 26)
  if answer is None and len(text) <= BARE_CHARS and "\n" not in text:
    answer = text
  if problem.answer_type == "choice" and answer:
    answer = _letter_of(answer, problem.choices) or answer
  return answer or ""


def _letter_of(answer: str, choices: Sequence[str]) -> str | None:
  """The letter of "C (145°)", unless what follows names another option."""
  match = _LABELLED.fullmatch(answer)
  if match is None:
    return None
  named = which_choice(match[2], choices)
  own = ord(match[1]) - ord("A")
  return match[1] if named in (own, None) else None


def judged(problem: Problem, response: str) -> Sequence[Item]:
  """By the answer type; what names no option also by the right one's value."""
  answer = answer_in(problem, response)
  items = [(answer, problem)]
  if problem.choices and which_choice(answer, problem.choices) is None:
    value = dataclasses.replace(
      problem, answer=option(problem), answer_type="math", choices=()
    )
    items.append((answer, value))
  return items


def option(problem: Problem) -> str:
  """The text of the right option, which the answer gives or names by letter."""
  letters = [chr(ord("A") + i) for i in range(len(problem.choices))]
  if problem.answer in letters:
    return problem.choices[letters.index(problem.answer)]
  return problem.answer


def decided(problem: Problem, answer: str, right: bool) -> Item:
  """An answer that a published rule has judged by itself."""
  gold = answer if right else f"not {answer}"
  return answer, dataclasses.replace(
    problem, answer=gold, answer_type="string", choices=()
  )


def numeric(problem: Problem, response: str) -> Sequence[Item]:
  """As a number with its unit, and as a formula, within the tolerance."""
  answer = answer_in(problem, response)
  kinds = ("number", "olympiad")
  return [
    (answer, dataclasses.replace(problem, answer_type=kind)) for kind in kinds
  ]


def found(answer: str, _: Problem) -> str | None:
  """The verifier's extractor: an item's answer is extracted already."""
  return answer or None


def every(verdicts: Sequence[Verdict]) -> Mark:
  """Right if all are; a single verdict stays what it is."""
  worst = next((v for v in verdicts if v.status is not Status.RIGHT), None)
  return Mark(
    status=(worst or verdicts[0]).status,
    extracted="; ".join(v.extracted for v in verdicts),
    steps=tuple(v.status for v in verdicts) if len(verdicts) > 1 else (),
  )


def either(verdicts: Sequence[Verdict]) -> Mark:
  """Right if one is, else what the first is."""
  best = next((v for v in verdicts if v.status is Status.RIGHT), verdicts[0])
  return Mark(status=best.status, extracted=best.extracted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """How a response becomes a mark."""

  items: Callable[[Problem, str], Sequence[Item]] = judged
  """What the verifier compares; at least one."""
  combine: Callable[[Sequence[Verdict]], Mark] = either
  comparer: str = COMPARER
  """Compares formulas in the verifier's workers; "module:function"."""
  upstream_compatible: bool = False
  """Whether OlympiadBench's judge keeps its quirks."""

  @contextlib.contextmanager
  def verifier(self, **limits: Any) -> Iterator[Verifier]:
    """A verifier of this rule's items; `limits` as for `Verifier`."""
    with Verifier(
      **limits,
      comparer=self.comparer,
      extractor=found,
      upstream_compatible=self.upstream_compatible,
    ) as verifier:
      yield verifier


# ------------------------------------------------------------------- benchmarks
def as_it_is(problem: Problem) -> Problem:
  return problem


def of_itself(problem: Problem) -> str:
  return problem.id


def no_metrics(_: Sequence[Scored]) -> dict[str, Rate]:
  return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """One benchmark, as values and functions; `BENCHMARKS` holds them by name."""

  name: str
  title: str
  """As the paper's table calls it."""
  importer: str
  """Reads its official files (data.importers)."""
  needs: str
  """Which official files, for --help."""
  sizes: Mapping[int, str]
  """How many problems the official files have -> which part that is."""
  files: tuple[str, ...] = ()
  """Patterns that narrow what the importer would read by itself."""
  pose: Callable[[Problem], Problem] = as_it_is
  """The problem as it is asked and judged: hint, answer type, tolerance."""
  rule: Rule = Rule()
  upstream: Rule | None = None
  """The rule of the benchmark's own scripts, where it differs."""
  judged: bool = False
  """Whether the paper has a language model judge it."""
  unit: Callable[[Problem], str] = of_itself
  """The question a problem is a variant of: intervals and limits count these."""
  splits: tuple[str, ...] = ("subject",)
  """Tags that scores are split by."""
  metrics: Callable[[Sequence[Scored]], dict[str, Rate]] = no_metrics
  """Scores of its own besides pass@1."""

  def source(self, folder: Path) -> Path:
    """The official files: `folder` itself, or the one file that is wanted.

    Raises:
      SophiaError: the folder or the file is not there.
    """
    if not self.files or folder.is_file():
      return folder
    return find_files(folder, self.files)[0]

  def load(
    self, folder: Path, into: Path, say: Callable[[str], None] = print
  ) -> list[Problem]:
    """The problems, posed; images inside the files are written beside `into`.

    Args:
      folder: of the official files, or one of them.
      into: the JSONL that is written, anew each time.
      say: takes the lines that list rows which cannot be used.

    Raises:
      SophiaError: unreadable, or no problem can be used.
    """
    import_dataset(self.importer, self.source(folder), into, say=say)
    return [self.pose(problem) for problem in load_problems(into)]

  def answers(
    self, folder: Path, say: Callable[[str], None] = print
  ) -> list[Problem]:
    """The problems without images, which need not be there: enough to mark."""
    found = read_answers(self.importer, self.source(folder), say)
    return [self.pose(problem) for problem in found]

  def first(self, problems: Sequence[Problem], limit: int) -> list[Problem]:
    """All problems of the first `limit` questions; of all, if it is 0."""
    groups = [*grouped(problems, self.unit).values()]
    chosen = {p.id for group in groups[: limit or None] for p in group}
    return [problem for problem in problems if problem.id in chosen]

  def part(self, problems: Iterable[Problem]) -> str:
    """Which part of the benchmark these are: "test", "17 of 3,040"."""
    count = len([*problems])
    if count in self.sizes or not self.sizes:
      return self.sizes.get(count, "")
    return f"{count:,} of {max(self.sizes):,}"
