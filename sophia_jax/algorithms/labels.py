"""Labels of a description's clauses: object, attribute and relation, each right,
wrong or absent.

A language model lists the atomic facts of the clauses, a vision-language model
says of each whether the image shows it (FaithScore's way, as FGAIF uses it, arXiv
2404.05046). In the world of digits the scene is known, and labels are exact.
Whatever these models write is read line by line, within limits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sophia_jax.algorithms import clauses
from sophia_jax.algorithms.contract import Sample, World
from sophia_jax.rewards import facts
from sophia_jax.rewards.facts import KINDS, RIGHT, UNKNOWN, WRONG
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Group,
  Problem,
  Prompt,
  Rollout,
  Status,
  Turn,
  Verdict,
)

EXTRACTOR, CHECKER = "extractor", "checker"
"""Roles of the models that list facts, and that look at the image for one."""
UNREAD, UNCHECKED = "unread", "unchecked"
"""Reward parts: lines of the extractor that are no facts; facts that the checker
neither confirms nor denies."""
CLAUSES = "clauses"

_READ = 20000
"""Characters that are read of an answer."""
_FACTS = 64
"""Facts that are checked of a response."""
_LINE = re.compile(
  rf"\s*(\d{{1,3}})\s*\|\s*({'|'.join(KINDS)})\s*\|\s*(\S.{{0,399}})",
  re.IGNORECASE,
)
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)

Labels = tuple[int, ...]
"""A label for each of KINDS."""


class Labelled(NamedTuple):
  """The labels of a response."""

  labels: Sequence[Labels]
  """One for each clause."""
  counts: Mapping[str, float] = {}


Labeller = Callable[
  [World, Problem, tuple[int, ...], Sequence[str]], Awaitable[Labelled]
]
"""(world, problem, path, texts of the clauses) -> their labels."""


def described(n: int) -> Sample:
  """Returns the recipe of n descriptions of the policy, which nothing grades."""

  async def sample(world: World, problem: Problem) -> Group:
    prompt = world.prompt("policy", problem)
    asked = (description(world, problem, (i,), prompt) for i in range(n))
    return Group(problem=problem, rollouts=tuple(await asyncio.gather(*asked)))

  return sample


async def description(
  world: World, problem: Problem, path: tuple[int, ...], prompt: Prompt | Chat
) -> Rollout:
  """Asks the policy for a description."""
  said = await world.ask("policy", problem, path, prompt)
  return Rollout(
    problem_id=problem.id,
    path=path,
    turns=(Turn(prompt=prompt, completion=said),),
    rewards={"accuracy": 0.0, CLAUSES: float(len(clauses.finished(said)))},
    verdict=Verdict(status=_status(said)),
    length=len(said.token_ids) or world.length(said),
  )


def _status(said: Completion) -> Status:
  """Returns the status of a description that nobody has looked at."""
  if said.finish_reason is FinishReason.LENGTH:
    return Status.TRUNCATED
  return Status.WRONG if said.text.strip() else Status.UNPARSEABLE


def labelled(n: int, label: Labeller) -> Sample:
  """Returns the recipe of n descriptions with a label for each clause.

  Reward part KIND holds the labels of the clauses, in their order; "accuracy" is
  1 where none is wrong.
  """
  plain = described(n)

  async def one(world: World, problem: Problem, rollout: Rollout) -> Rollout:
    texts = clauses.texts(rollout.completion)
    found = await label(world, problem, rollout.path, texts)
    values = zip(*found.labels) if found.labels else ((),) * len(KINDS)
    parts = {k: tuple(map(float, v)) for k, v in zip(KINDS, values)}
    wrong = any(WRONG in each for each in found.labels)
    right = float(bool(found.labels) and not wrong)
    rewards = {**rollout.rewards, "accuracy": right, **parts, **found.counts}
    return dataclasses.replace(rollout, rewards=rewards)

  async def sample(world: World, problem: Problem) -> Group:
    group = await plain(world, problem)
    made = (one(world, problem, r) for r in group.rollouts)
    rollouts = tuple(await asyncio.gather(*made))
    return dataclasses.replace(group, rollouts=rollouts)

  return sample


# --------------------------------------------------------------- from the scene
def by_reference(noise: float) -> Labeller:
  """Labels by the scene that a problem's answer describes.

  Args:
    noise: probability that right and wrong are swapped, as a judge's errors.
  """

  async def label(
    world: World, problem: Problem, path: tuple[int, ...], texts: Sequence[str]
  ) -> Labelled:
    known = facts.scene(problem)
    exact = [facts.labels(text, known) for text in texts]
    if not noise:
      return Labelled(exact)
    rng = np.random.default_rng(world.chance(problem, path))
    swaps = rng.random((len(texts), len(KINDS))) < noise
    other = {RIGHT: WRONG, WRONG: RIGHT}
    return Labelled(
      [
        tuple(other.get(x, x) if swap else x for x, swap in zip(each, row))
        for each, row in zip(exact, swaps)
      ]
    )

  return label


def counted(sample: Sample) -> Sample:
  """Returns the recipe with the errors of each description, by its scene.

  Parts: wrong_KIND, the clauses with a wrong fact of a kind; "wrong", those with
  any; "missing", the digits that are left out; "silent", the clauses that state
  nothing; "accuracy", 1 where nothing is wrong and nothing missing.
  """

  async def with_counts(world: World, problem: Problem) -> Group:
    group = await sample(world, problem)
    known = facts.scene(problem)
    rollouts = tuple(_counted(r, known) for r in group.rollouts)
    return dataclasses.replace(group, rollouts=rollouts)

  return with_counts


def _counted(rollout: Rollout, known: facts.Scene) -> Rollout:
  texts = clauses.texts(rollout.completion)
  found = [facts.labels(text, known) for text in texts]
  wrong = [WRONG in each for each in found]
  missing = facts.missing(" ".join(texts), known)
  exact = bool(found) and not any(wrong) and not missing
  parts = {
    **{f"wrong_{k}": _count(found, i) for i, k in enumerate(KINDS)},
    "wrong": float(sum(wrong)),
    "missing": float(missing),
    "silent": float(sum(set(each) == {facts.ABSENT} for each in found)),
    "accuracy": float(exact),
  }
  status = Status.RIGHT if exact else _status(rollout.completion)
  return dataclasses.replace(
    rollout,
    rewards={**rollout.rewards, **parts},
    verdict=Verdict(status=status),
  )


def _count(found: Sequence[Labels], kind: int) -> float:
  return float(sum(each[kind] == WRONG for each in found))


# ------------------------------------------------------------------ from models
async def by_models(
  world: World, problem: Problem, path: tuple[int, ...], texts: Sequence[str]
) -> Labelled:
  """Labels by what the extractor lists and the checker sees.

  Where the extractor's answer is absent or holds no fact that can be read, all
  labels are unknown, and so is that of a kind of a clause whose facts the checker
  does not decide.
  """
  if not texts:
    return Labelled((), {UNREAD: 0.0, UNCHECKED: 0.0})
  numbered = "\n".join(f"{i}. {t[:400]}" for i, t in enumerate(texts, 1))
  prompt = world.prompt(EXTRACTOR, problem, text=numbered)
  said = await world.ask(EXTRACTOR, problem, path, prompt)
  listed, unread = read_facts(said, len(texts))
  answers = await asyncio.gather(
    *(
      _checked(world, problem, path, turn, fact)
      for turn, (_, _, fact) in enumerate(listed)
    )
  )
  found: dict[tuple[int, str], list[bool | None]] = {}
  for (clause, kind, _), answer in zip(listed, answers):
    found.setdefault((clause, kind), []).append(answer)
  absent = facts.ABSENT if listed else UNKNOWN
  made = [
    tuple(_label(found.get((i, kind), []), absent) for kind in KINDS)
    for i in range(len(texts))
  ]
  unchecked = sum(answer is None for answer in answers)
  return Labelled(made, {UNREAD: float(unread), UNCHECKED: float(unchecked)})


async def _checked(
  world: World, problem: Problem, path: tuple[int, ...], turn: int, fact: str
) -> bool | None:
  prompt = world.prompt(CHECKER, problem, text=fact)
  return read_verdict(await world.ask(CHECKER, problem, path, prompt, turn))


def _label(answers: Sequence[bool | None], absent: int) -> int:
  """Returns the label of a clause and a kind; one wrong fact makes it wrong."""
  if not answers:
    return absent
  if False in answers:
    return WRONG
  return UNKNOWN if None in answers else RIGHT


def read_facts(
  said: Completion, count: int
) -> tuple[list[tuple[int, str, str]], int]:
  """Reads the extractor's lines "number | kind | fact".

  Args:
    count: number of clauses; numbers beyond it are no facts.

  Returns:
    (index of the clause, kind, fact) of each, at most 64, and the number of other
    lines with text.
  """
  listed: list[tuple[int, str, str]] = []
  unread = 0
  for line in _answer(said).splitlines():
    match = _LINE.fullmatch(line.rstrip())
    clause = int(match[1]) if match else 0
    if match and 1 <= clause <= count and len(listed) < _FACTS:
      listed.append((clause - 1, match[2].lower(), match[3]))
    else:
      unread += bool(line.strip())
  return listed, unread


def read_verdict(said: Completion) -> bool | None:
  """Returns whether the checker says yes; None where it says neither."""
  match = _VERDICT.match(_answer(said))
  return match[1].lower() == "yes" if match else None


def _answer(said: Completion) -> str:
  """Returns the answer after any thoughts; "" where it is absent."""
  if said.finish_reason is FinishReason.ABSENT:
    return ""
  return said.text[-_READ:].rpartition("</think>")[2]
