"""Descriptions in the place of a video: problems for a policy that only reads.

A frozen describer sees each key frame with the one before it, and the question
(Embodied-R, arXiv 2504.12680, Section 3.2). Its texts are stored like any answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from sophia_jax.algorithms.contract import (
  Algorithm,
  Files,
  Sample,
  Words,
  World,
)
from sophia_jax.types import (
  Example,
  FinishReason,
  Group,
  Problem,
  Rollout,
  SophiaError,
  Turn,
)

DESCRIBER = "describer"
"""Role of the model that writes the descriptions."""
EXAMPLE = Problem(id="0", question="", answer="0", images=("0", "1"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Descriptions of frames."""

  before: int = 1
  """Frames before each one that the describer sees with it."""


def describe(c: Config) -> Algorithm:
  """Builds the stage that writes its problems with descriptions for images."""
  return Algorithm(
    sample=views(c.before),
    check=check,
    example=EXAMPLE,
    roles=(DESCRIBER,),
    files=files(c),
    terms=(),
  )


def check(problem: Problem) -> None:
  """Raises SophiaError if a problem has no frames."""
  if not problem.images:
    raise SophiaError(
      f"problem {problem.id}: no frames to describe; give its key frames as "
      "images"
    )


def views(before: int) -> Sample:
  """Returns the recipe of one description a frame.

  Args:
    before: frames before each one that are shown with it.
  """

  async def view(world: World, problem: Problem, i: int) -> Rollout:
    first = max(i - before, 0)
    shown = {"first": str(first), "last": str(i)}
    prompt = world.prompt(DESCRIBER, problem, **shown)
    completion = await world.ask(DESCRIBER, problem, (i,), prompt)
    return Rollout(
      problem_id=problem.id,
      path=(i,),
      turns=(Turn(prompt=prompt, completion=completion),),
      author=DESCRIBER,
      length=world.length(completion),
    )

  async def sample(world: World, problem: Problem) -> Group:
    asked = (view(world, problem, i) for i in range(len(problem.images)))
    return Group(problem=problem, rollouts=tuple(await asyncio.gather(*asked)))

  return sample


def files(c: Config) -> Files:
  """Returns the writer of described.jsonl and left_out.jsonl.

  A problem of which a description is absent or empty is left out as it is.
  """
  del c

  def write(
    groups: Iterable[Group], words: Words
  ) -> Mapping[str, Sequence[Problem | Example]]:
    found: list[Problem] = []
    left: list[Problem] = []
    for group in groups:
      texts = [_text(rollout) for rollout in group.rollouts]
      if all(texts):
        found.append(group.problem.described(texts))
      else:
        left.append(group.problem)
    if not found:
      raise SophiaError(
        f"describe: of {len(left)} problems none has all its descriptions; "
        "look at config.teachers.describer"
      )
    return {"described.jsonl": found, "left_out.jsonl": left}

  return write


def _text(rollout: Rollout) -> str:
  """Returns a description; "" where there is none."""
  completion = rollout.completion
  absent = completion.finish_reason is FinishReason.ABSENT
  return "" if absent else completion.text.strip()
