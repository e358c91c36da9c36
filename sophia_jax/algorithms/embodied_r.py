"""Embodied-R: a policy that only reads, rewarded where its reasoning leads to its
answer (arXiv 2504.12680).

GRPO on three rewards whose weights change over training: the form of a response,
its accuracy, and its consistency, which a frozen reader judges.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses

from sophia_jax.algorithms import grpo, reasoning, selection
from sophia_jax.algorithms.contract import (
  Algorithm,
  Moment,
  Reward,
  Sample,
  World,
)
from sophia_jax.rewards.choices import which_choice
from sophia_jax.types import (
  FinishReason,
  Group,
  Problem,
  Rollout,
  SophiaError,
)

READER = "reader"
"""Role of the model that answers from reasoning alone."""
FORMAT, CONSISTENCY, UNREAD = "format", "consistency", "unread"
"""Names of the reward parts. Only right answers have a consistency; UNREAD is 1
where the reader's answer is absent, 0 where it is there."""
EXAMPLE = Problem(
  id="0", question="", answer="A", answer_type="choice", choices=("", " ")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
  """GRPO on a schedule of form, accuracy and consistency."""

  kl: float = 0.001
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  begins: tuple[int, ...] = (0, 2030, 4060)
  """First rounds of the stages of the weights; the first is 0."""
  format: tuple[float, ...] = (0.7, 0.3, 0.1)
  """Weight of the reward for the form, by stage."""
  accuracy: tuple[float, ...] = (0.3, 0.7, 0.7)
  """Weight of the reward for a right answer, by stage."""
  consistency: tuple[float, ...] = (0.0, 0.0, 0.2)
  """Weight of the reward for a right answer that the reader finds too, by
  stage."""
  reader: bool = True
  """Whether the reader is asked, also where its weight is 0."""

  def __post_init__(self) -> None:
    weights = (self.format, self.accuracy, self.consistency)
    if {len(w) for w in weights} != {len(self.begins)} or not self.begins:
      raise SophiaError(
        "embodied_r: begins, format, accuracy and consistency have "
        f"{len(self.begins)}, {', '.join(str(len(w)) for w in weights)} "
        "numbers; give each as many, at least one"
      )
    ordered = all(a < b for a, b in zip(self.begins, self.begins[1:]))
    if self.begins[0] != 0 or not ordered:
      raise SophiaError(
        f"embodied_r.begins: {self.begins} are no first rounds of stages; begin "
        "with 0 and rise"
      )
    if any(w < 0 for each in weights for w in each):
      raise SophiaError("embodied_r: a weight is negative; use 0 or more")
    if any(self.consistency) and not self.reader:
      raise SophiaError(
        "embodied_r.reader: false, and consistency has a weight; set reader, or "
        "consistency to zeros"
      )


def embodied_r(c: Config) -> Algorithm:
  """Builds GRPO on w_f format + w_a accuracy + w_c consistency."""
  plain = grpo.grpo(c, "embodied_r")
  assert plain.sample is not None
  return dataclasses.replace(
    plain,
    sample=read(plain.sample, c.reader),
    check=check,
    example=EXAMPLE,
    roles=("policy", READER) if c.reader else ("policy",),
    reward=scheduled(c),
  )


def check(problem: Problem) -> None:
  """Raises SophiaError if a problem has no options, which a reader chooses from."""
  if (
    not problem.choices or which_choice(problem.answer, problem.choices) is None
  ):
    raise SophiaError(
      f"problem {problem.id}: no options, or none is its answer; embodied_r "
      "learns from multiple choice alone: give choices"
    )


# --------------------------------------------------------------------- the reader
def read(sample: Sample, ask: bool = True) -> Sample:
  """Returns the recipe with the form of every rollout, and its consistency.

  The reader sees question, options and reasoning, without the letters that the
  reasoning names, and is asked where the answer is right.
  """

  async def parts(world: World, problem: Problem, r: Rollout) -> Rollout:
    text = r.completion.text
    found = {FORMAT: float(reasoning.is_formed(text))}
    if ask and selection.part(r, "accuracy") == 1:
      found |= await _consistency(world, problem, r)
    return dataclasses.replace(r, rewards={**r.rewards, **found})

  async def sampled(world: World, problem: Problem) -> Group:
    group = await sample(world, problem)
    asked = (parts(world, problem, r) for r in group.rollouts)
    return dataclasses.replace(
      group, rollouts=tuple(await asyncio.gather(*asked))
    )

  return sampled


async def _consistency(
  world: World, problem: Problem, rollout: Rollout
) -> dict[str, float]:
  """Asks the reader about a right answer; 0 without being asked for no reasoning."""
  choices = problem.choices
  thought = reasoning.without_letters(
    reasoning.reasoning(rollout.completion.text), len(choices)
  )
  if not thought:
    return {CONSISTENCY: 0.0, UNREAD: 0.0}
  prompt = world.prompt(READER, problem, reasoning=thought)
  said = await world.ask(READER, problem, rollout.path, prompt)
  if said.finish_reason is FinishReason.ABSENT:
    return {UNREAD: 1.0}
  found = reasoning.read_choice(said.text, choices)
  right = which_choice(problem.answer, choices)
  return {CONSISTENCY: float(found == right), UNREAD: 0.0}


# ------------------------------------------------------------------------ rewards
def weights(c: Config, round: int) -> tuple[float, float, float]:
  """Returns the weights of form, accuracy and consistency in a round."""
  stage = bisect.bisect_right(c.begins, round) - 1
  return c.format[stage], c.accuracy[stage], c.consistency[stage]


def scheduled(c: Config) -> Reward:
  """Returns w_f format + w_a accuracy + w_c consistency, as the round weighs
  them."""

  def reward(rollout: Rollout, moment: Moment) -> float:
    parts = (FORMAT, "accuracy", CONSISTENCY)
    earned = (float(rollout.rewards.get(key, 0.0)) for key in parts)  # type: ignore[arg-type]
    return sum(w * r for w, r in zip(weights(c, moment.round), earned))

  return reward
