"""Benchmarks: the hint of a problem, the rule of a grade, the metrics.

An importer reads the problems from the official files. The prompt around them
(slow-thinking system prompt, hint before the question) and the image path are
those of training. A benchmark defines the wording of its hint, the rule that
compares answers, and its metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.data.problems import load_problems
from sophia_jax.datasets.importers.files import find_files
from sophia_jax.datasets.importers.run import import_dataset, read_answers
from sophia_jax.evals.rates import Rate, grouped
from sophia_jax.rewards.extract import (
  TAIL_CHARS,
  after_thinking,
  extract_answer,
  lone_letter,
)
from sophia_jax.rewards.pool import COMPARER, Verifier
from sophia_jax.types import Problem, Status, Verdict, host

Item = tuple[str, Problem]
"""An answer extracted from a response, "" if there is none, and the problem that
it is compared with."""


@host
class Grade:
  """The grade of one response.

  Example: Grade(status=Status.WRONG, extracted="3; 7",
    steps=(Status.RIGHT, Status.WRONG))
  """

  status: Status
  extracted: str = ""
  """The answer that was extracted."""
  steps: tuple[Status, ...] = ()
  """Statuses of the steps, where a problem is graded by steps."""

  @property
  def right(self) -> bool:
    """Whether the response is right."""
    return self.status is Status.RIGHT


@host
class Scored:
  """A problem with the grades of all its samples."""

  problem: Problem
  grades: tuple[Grade, ...]

  @property
  def score(self) -> float:
    """Share of right samples: pass@1."""
    return math.fsum(grade.right for grade in self.grades) / len(self.grades)


# --------------------------------------------------------------------- grading
BARE_CHARS = 40
"""Longest line that counts as a bare answer, characters."""


def answer_in(problem: Problem, response: str) -> str:
  """Returns the answer that a response ends with, "" if there is none.

  Extracts as training does, and also takes a letter alone on the last line and a
  response that is only a short answer: unlike in training, an evaluated model
  may not have been asked for a box.
  """
  answer = extract_answer(response, problem)
  text = (after_thinking(response) or "")[-TAIL_CHARS:].strip()
  if answer is None and problem.answer_type == "choice":
    answer = lone_letter(text, len(problem.choices) or 26)
  if answer is None and len(text) <= BARE_CHARS and "\n" not in text:
    answer = text
  return answer or ""


def answer_items(problem: Problem, response: str) -> Sequence[Item]:
  """Compares by answer type."""
  return ((answer_in(problem, response), problem),)


def option(problem: Problem) -> str:
  """Returns the text of the right option, given as text or by letter."""
  letters = [chr(ord("A") + i) for i in range(len(problem.choices))]
  if problem.answer in letters:
    return problem.choices[letters.index(problem.answer)]
  return problem.answer


def decided(problem: Problem, answer: str, right: bool) -> Item:
  """Returns an item whose comparison gives the outcome of a published rule."""
  gold = answer if right else f"not {answer}"
  return answer, dataclasses.replace(
    problem, answer=gold, answer_type="string", choices=()
  )


def number_items(problem: Problem, response: str) -> Sequence[Item]:
  """Compares as a number with its unit and as a formula, within the tolerance."""
  answer = answer_in(problem, response)
  kinds = ("number", "olympiad")
  return [
    (answer, dataclasses.replace(problem, answer_type=kind)) for kind in kinds
  ]


def extracted_already(answer: str, _: Problem) -> str | None:
  """Passes an item's answer to the verifier in place of its extractor."""
  return answer or None


def all_right(verdicts: Sequence[Verdict]) -> Grade:
  """Combines to right if all verdicts are; keeps the status of the worst."""
  worst = next((v for v in verdicts if v.status is not Status.RIGHT), None)
  return Grade(
    status=(worst or verdicts[0]).status,
    extracted="; ".join(v.extracted for v in verdicts),
    steps=tuple(v.status for v in verdicts) if len(verdicts) > 1 else (),
  )


def any_right(verdicts: Sequence[Verdict]) -> Grade:
  """Combines to right if one verdict is, else to the first one's status."""
  best = next((v for v in verdicts if v.status is Status.RIGHT), verdicts[0])
  return Grade(status=best.status, extracted=best.extracted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """A rule that turns a response into a grade."""

  items: Callable[[Problem, str], Sequence[Item]] = answer_items
  """Function that returns what the verifier compares, at least one item."""
  combine: Callable[[Sequence[Verdict]], Grade] = any_right
  """Function that combines the items' verdicts."""
  comparer: str = COMPARER
  """Comparison of formulas in the verifier's workers, as "module:function"."""
  upstream_compatible: bool = False
  """Whether OlympiadBench's judge keeps its published quirks."""

  @contextlib.contextmanager
  def verifier(self, **limits: Any) -> Iterator[Verifier]:
    """Yields a verifier of this rule's items; `limits` as for `Verifier`."""
    with Verifier(
      **limits,
      comparer=self.comparer,
      extractor=extracted_already,
      upstream_compatible=self.upstream_compatible,
    ) as verifier:
      yield verifier


# ------------------------------------------------------------------- benchmarks
def unchanged(problem: Problem) -> Problem:
  """Returns the problem."""
  return problem


def own_id(problem: Problem) -> str:
  """Returns the problem's id: every problem is a separate question."""
  return problem.id


def no_metrics(_: Sequence[Scored]) -> dict[str, Rate]:
  """Returns no metrics."""
  return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """A benchmark as values and functions; `BENCHMARKS` lists all."""

  name: str
  """Name in flags and files."""
  title: str
  """Name in the paper's table."""
  importer: str
  """Importer of the official files (datasets.importers)."""
  needs: str
  """Description of the official files, for --help."""
  sizes: Mapping[int, str]
  """Names of the parts, by their number of problems."""
  files: tuple[str, ...] = ()
  """Patterns of official files; empty: the importer's."""
  pose: Callable[[Problem], Problem] = unchanged
  """Function that sets a problem's hint, answer type and tolerance."""
  rule: Rule = Rule()
  """Rule of the grades."""
  upstream: Rule | None = None
  """Rule of the benchmark's published scripts, where it differs."""
  judged: bool = False
  """Whether the paper grades it with a language model."""
  unit: Callable[[Problem], str] = own_id
  """Function to the question that a problem is a variant of, the unit of
  intervals and limits."""
  splits: tuple[str, ...] = ("subject",)
  """Tags by which scores are split."""
  metrics: Callable[[Sequence[Scored]], dict[str, Rate]] = no_metrics
  """Function to further scores besides pass@1."""

  def source(self, folder: Path) -> Path:
    """Returns the official files: `folder`, or the file that `files` selects.

    Raises:
      SophiaError: the folder or the file does not exist.
    """
    if not self.files or folder.is_file():
      return folder
    return find_files(folder, self.files)[0]

  def load(
    self, folder: Path, into: Path, say: Callable[[str], None] = print
  ) -> list[Problem]:
    """Imports the problems and poses them.

    Images inside the files are written beside `into`.

    Args:
      folder: folder of the official files, or one of them.
      into: the JSONL to write, replaced each time.
      say: receives lines about rows that cannot be used.

    Raises:
      SophiaError: the files are unreadable, or no problem can be used.
    """
    import_dataset(self.importer, self.source(folder), into, say=say)
    return [self.pose(problem) for problem in load_problems(into)]

  def answers(
    self, folder: Path, say: Callable[[str], None] = print
  ) -> list[Problem]:
    """Reads the problems without images: enough to grade responses."""
    problems = read_answers(self.importer, self.source(folder), say)
    return [self.pose(problem) for problem in problems]

  def first(self, problems: Sequence[Problem], limit: int) -> list[Problem]:
    """Returns all problems of the first `limit` questions; 0: of all."""
    groups = [*grouped(problems, self.unit).values()]
    chosen = {p.id for group in groups[: limit or None] for p in group}
    return [problem for problem in problems if problem.id in chosen]

  def part(self, problems: Iterable[Problem]) -> str:
    """Names the part of the benchmark: "test", "17 of 3,040"."""
    count = len([*problems])
    if count in self.sizes or not self.sizes:
      return self.sizes.get(count, "")
    return f"{count:,} of {max(self.sizes):,}"
