"""SOPHIA: rewards flow from trajectories to captions, the best are learnt.

arXiv 2507.16814, Algorithm 1. The captions are on-policy, the reasoning is
off-policy, and what is learnt is the reasoning without the caption: the policy
must find in the pixels what the reasoner found in the words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sophia_jax.algorithms import (
  credit,
  losses,
  reductions,
  sampling,
  selection,
)
from sophia_jax.algorithms.contract import (
  Algorithm,
  Credit,
  Moment,
  Select,
  Term,
  Words,
)
from sophia_jax.algorithms.diagnostics import POLICY
from sophia_jax.types import FinishReason, Group, Rollout, TokenSequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """SOPHIA.

  `random`, `no_caption_reward` and `no_shortest` are the ablations of Table 5,
  `describe` and `caption_first` the variants of Table A2.
  """

  captions: int = 8
  """Captions K of a problem."""
  trajectories: int = 8
  """Trajectories N on each caption."""
  alpha: float = 0.75
  """Threshold of a good caption: R(c) > alpha (strict)."""
  keep_n: int = 1
  """Learnt trajectories of a problem (Table A4)."""
  random: bool = False
  """Selection of any trajectory, right or wrong."""
  no_caption_reward: bool = False
  """Selection without the condition R(c) > alpha."""
  no_shortest: bool = False
  """Selection of a random eligible trajectory instead of the shortest."""
  describe: bool = False
  """Learning of perfect captions as well: variant DI."""
  caption_first: bool = False
  """Learning of the caption before its trajectory: variant H."""
  reduction: str = "token"
  """Key of reductions.REDUCTIONS; "sum" is Eq. 7 to the letter."""
  seed: int = 0
  """Seed of the random choices."""

  def __post_init__(self) -> None:
    for name in ("captions", "trajectories", "keep_n"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 1 or more")


def select(c: Config) -> Select:
  """Returns the rule of Eq. 6: the `keep_n` shortest right trajectories on
  captions with R(c) > alpha. Captions stay, for the variants."""
  if c.random:
    return selection.drawn(c.keep_n, c.seed, depth=2)
  good = () if c.no_caption_reward else (selection.above(c.alpha),)
  last = (
    selection.drawn(c.keep_n, c.seed, depth=2)
    if c.no_shortest
    else selection.shortest(c.keep_n, depth=2)
  )
  return selection.then(*good, selection.correct(depth=2), last)


def learnt(c: Config) -> Credit:
  """Returns the credit 1 of every selected trajectory.

  It is learnt under the problem and its pixels, without the caption.
  """
  reduction = reductions.named(c.reduction, "sophia")

  def of_group(group: Group, words: Words) -> list[TokenSequence]:
    bare = [_trajectory(t, group, words, c) for t in group.depth(2)]
    if c.describe:
      bare += [
        sequence
        for caption in group.depth(1)
        if _perfect(caption) and group.problem.images
        for sequence in credit.sequences(caption, group.problem, words)
      ]
    return bare

  def every(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    return [
      made
      for group in groups
      for bare in of_group(group, words)
      for made in credit.credited([bare], reduction, advantages=1.0)
    ]

  return every


def _trajectory(
  t: Rollout, group: Group, words: Words, c: Config
) -> TokenSequence:
  """Renders the trajectory; the system prompt depends on it alone."""
  text, problem = t.completion.text, group.problem
  system = credit.system_prompt(text, words.slow_thinking)
  prompt = words.prompt(problem.text, problem.images, system)
  if c.caption_first:
    (caption,) = (r for r in group.depth(1) if r.path == t.path[:-1])
    text = f"{caption.completion.text.rstrip()}\n\n{text}"
  return words.sequence(prompt, text, id=t.id)


def _perfect(caption: Rollout) -> bool:
  """Returns whether R(c) = 1 and the caption has an end to learn."""
  ended = caption.completion.finish_reason is FinishReason.STOP
  return ended and caption.rewards["accuracy"] == 1


def sophia(c: Config) -> Algorithm:
  """Builds Eq. 7 on the trajectories that Eq. 5 and 6 select."""
  return Algorithm(
    sample=sampling.described(c.captions, c.trajectories),
    roles=("caption", "reasoner"),
    select=select(c),
    credit=learnt(c),
    streams=("advantages", "weights", "count"),
    reduction=reductions.named(c.reduction, "sophia"),
    terms=(Term(POLICY, losses.reinforce),),
  )
