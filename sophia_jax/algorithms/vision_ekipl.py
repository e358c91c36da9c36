"""Vision-EKIPL: external models' answers join the policy's, the best are learnt.

arXiv 2506.06856, a reconstruction: its body says less than a method needs. The
pool holds n answers of the policy and one of each external model; the `keep` of
the highest reward are one group of GRPO.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sophia_jax.algorithms import grpo, sampling, selection
from sophia_jax.algorithms.contract import Algorithm, Moment, Reward
from sophia_jax.config import check_choices
from sophia_jax.rewards import reason_rft
from sophia_jax.types import Problem, Rollout, SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
  """GRPO on the best of a pool of own and external answers."""

  n: int = 8
  """Rollouts of the policy in the pool."""
  teachers: tuple[str, ...] = ("teacher",)
  """Names of config.teachers, each with one answer in the pool; a name that
  stands twice answers twice."""
  keep: int = 8
  """Rollouts of the pool that are learnt, those of the highest reward."""
  worst: bool = True
  """Whether the worst of the pool stays where all that are kept are equal."""
  task: str = "verified"
  """Key of rewards.reason_rft.TASKS."""
  format: float = 1.0
  """Reward of <think>...</think><answer>...</answer>."""

  def __post_init__(self) -> None:
    check_choices(self, "vision_ekipl", task=reason_rft.TASKS)
    if not 2 <= self.keep <= self.n + len(self.teachers):
      raise SophiaError(
        f"vision_ekipl.keep: {self.keep} of a pool of {self.n} own and "
        f"{len(self.teachers)} external answers; keep 2 up to all of them"
      )


def parts(task: str) -> sampling.Parts:
  """Returns the maker of the reward parts "task" and "format"."""

  def made(problem: Problem, rollout: Rollout) -> Mapping[str, float]:
    text = rollout.completion.text
    verified = selection.part(rollout, "accuracy") >= 1
    earned = reason_rft.TASKS[task](text, problem.answer, verified)
    form = float(reason_rft.well_formed(text))
    return {"task": earned, "format": form}

  return made


def rewarded(weight: float) -> Reward:
  """Returns the task's reward plus `weight` for the form."""

  def reward(rollout: Rollout, moment: Moment) -> float:
    form = selection.part(rollout, "format")
    return selection.part(rollout, "task") + weight * form

  return reward


def vision_ekipl(c: Config) -> Algorithm:
  """Builds GRPO on the best of the pool.

  The ratio of an external token is that of an own one, pi / pi_old: nothing
  corrects for the model that wrote it.
  """
  pool = sampling.with_teachers(c.n, c.teachers, refill=False)
  return dataclasses.replace(
    grpo.grpo(c, "vision_ekipl"),
    sample=sampling.with_parts(pool, parts(c.task)),
    roles=("policy", *dict.fromkeys(c.teachers)),
    reward=rewarded(c.format),
    select=selection.best(c.keep, worst=c.worst),
  )
