"""SOPHIA: rewards flow from trajectories to captions, the best are learnt.

arXiv 2507.16814, Algorithm 1. The captions are on-policy, the reasoning is
off-policy, and what is learnt is the reasoning without the caption: the policy
must find in the pixels what the reasoner found in the words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from sophia_jax.algorithms.legacy.losses import Term, policy_gradient
from sophia_jax.types import CaptionTree, Example, FinishReason, Trajectory

TERMS = (Term("policy", policy_gradient),)
STREAMS = ("advantages", "weights", "count")


@dataclasses.dataclass(frozen=True)
class SophiaConfig:
  """Selection, Eq. 6. The first three switches are the ablations of Table 5, the
  other two the variants of Table A2."""

  alpha: float = 0.75
  """A caption is good when R(c) > alpha (strict)."""
  keep_n: int = 1
  """How many trajectories of a problem are learnt (Table A4)."""
  random: bool = False
  """Take any trajectory, right or wrong."""
  no_caption_reward: bool = False
  """Drop the condition R(c) > alpha."""
  no_shortest: bool = False
  """Take a random eligible trajectory instead of the shortest."""
  describe: bool = False
  """Learn perfect captions as well: variant DI."""
  caption_first: bool = False
  """Learn to write the caption, then the trajectory: variant H."""
  reduction: str = "token"
  """A key of algorithms.streams.REDUCTIONS; "sum" is Eq. 7 to the letter."""
  seed: int = 0
  """Of the random choices."""


def caption_reward(trajectories: tuple[Trajectory, ...]) -> float:
  """R(c) = 1/N sum_n R(y_n): the mean outcome of what was built on c (Eq. 5)."""
  return sum(t.reward for t in trajectories) / len(trajectories)


def eligible(group: CaptionTree, config: SophiaConfig) -> Iterator[Trajectory]:
  """Trajectories with R(y) = 1 on a caption with R(c) > alpha (Eq. 6)."""
  for trajectories in group.trajectories:
    good = caption_reward(trajectories) > config.alpha
    for t in trajectories:
      if config.random or (t.reward and (good or config.no_caption_reward)):
        yield t


def select(group: CaptionTree, config: SophiaConfig) -> tuple[Trajectory, ...]:
  """The `keep_n` trajectories of the problem that get reward 1 (Eq. 6).

  The shortest come first; ties go to the lowest (k, n), so the choice does not
  depend on the order in which servers answered.
  """
  candidates = sorted(eligible(group, config), key=lambda t: (t.k, t.n))
  if config.random or config.no_shortest:
    seed = [config.seed, *group.problem.id.encode()]
    np.random.default_rng(seed).shuffle(candidates)  # type: ignore[arg-type]
  else:
    candidates.sort(key=lambda t: t.length)
  return tuple(candidates[: config.keep_n])


def system_prompt(response: str, slow_thinking: str) -> str | None:
  """What a trajectory is learnt under: the slow-thinking system prompt where it
  thinks in tags, otherwise the model's default."""
  return slow_thinking if "<think>" in response else None


def credit(
  group: CaptionTree,
  config: SophiaConfig,
  slow_thinking: str,
  caption_prompt: str = "",
) -> list[Example]:
  """What the policy learns from one problem: (question, pixels, trajectory).

  The caption is not in the context. With `describe` there are examples
  (caption prompt, pixels, caption) after it.
  """
  captions = {caption.k: caption.completion.text for caption in group.captions}
  examples = [
    Example(
      id=t.id,
      question=group.problem.text,
      response=_response(captions[t.k], t, config),
      images=group.problem.images,
      system=system_prompt(t.completion.text, slow_thinking),
      weight=1.0,
    )
    for t in select(group, config)
  ]
  if config.describe:
    examples += _descriptions(group, caption_prompt)
  return examples


def _response(caption: str, t: Trajectory, config: SophiaConfig) -> str:
  if config.caption_first:
    return f"{caption.rstrip()}\n\n{t.completion.text}"
  return t.completion.text


def _descriptions(group: CaptionTree, caption_prompt: str) -> list[Example]:
  """(x_d, v, c) for every c with R(c) = 1; a caption cut off has no end to
  learn, and of a problem without images there is nothing to describe."""
  return [
    Example(
      id=caption.id,
      question=caption_prompt,
      response=caption.completion.text,
      images=group.problem.images,
      weight=1.0,
    )
    for caption, built in zip(group.captions, group.trajectories)
    if caption_reward(built) == 1
    and caption.completion.finish_reason is FinishReason.STOP
    and group.problem.images
  ]
