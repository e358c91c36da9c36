"""Verified chains of thought as files of examples: data for SFT, or for RL.

Chains are written by a reasoner that sees a caption of the policy or of a
teacher, or by the policy, which sees the image. The shortest right ones stay
(OpenVLThinker, arXiv 2503.17352); those without a sign of doubt are for SFT, the
problems of the others for RL (VLAA-Thinking, arXiv 2504.11468).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sophia_jax.algorithms import credit, sampling, selection
from sophia_jax.algorithms.contract import Algorithm, Files, Moment, Words
from sophia_jax.algorithms.reflections import (
  AHA,
  SECOND_HAND,
  mentions,
  truncated,
)
from sophia_jax.types import (
  Chat,
  Example,
  Group,
  Problem,
  Rollout,
  SophiaError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Verified chains of thought."""

  captions: int = 1
  """Captions of a problem, each shown to the reasoner; 0: the policy thinks
  itself, and sees the image."""
  captioner: bool = False
  """Captions of a teacher, config.teachers.captioner, instead of the policy's."""
  trajectories: int = 4
  """Chains on each caption, or of the policy."""
  keep_n: int = 1
  """Right chains kept of a problem, the shortest; 0: all."""
  unverified: bool = False
  """Keeping of wrong chains as well."""
  blind: bool = False
  """Examples without the image: the reasoner's prompt, which has the caption."""
  reflections: int = -1
  """Reflections of a chain before it is cut; -1: never cut."""
  second_hand: tuple[str, ...] = SECOND_HAND
  """Words of a chain that is left out: it was written from a caption."""
  doubts: tuple[str, ...] = AHA
  """Words of a chain that is no SFT example, and whose problem is for RL."""

  def __post_init__(self) -> None:
    for name in ("captioner", "blind"):
      if getattr(self, name) and not self.captions:
        raise ValueError(f"{name} without captions; use captions of 1 or more")


def files(c: Config) -> Files:
  """Returns the writer of chains.jsonl, sft.jsonl and rl.jsonl.

  chains.jsonl has all kept chains, sft.jsonl those without a word of doubt,
  rl.jsonl the problems that have a chain with one. The one chain of a problem
  has the problem's id, as the file of a teacher needs it.
  """
  depth = 2 if c.captions else 1
  short = (selection.shortest(c.keep_n, depth),) if c.keep_n else ()
  right = () if c.unverified else (selection.correct(depth),)
  rule = selection.then(*right, *short)

  def kept(groups: Iterable[Group]) -> Iterator[tuple[Problem, Rollout, str]]:
    for group in groups:
      (chosen,) = rule([group], Moment())
      for rollout in chosen.depth(depth):
        text = truncated(rollout.completion.text, c.reflections)
        if not mentions(text, c.second_hand):
          yield group.problem, rollout, text

  def write(
    groups: Iterable[Group], words: Words
  ) -> Mapping[str, Sequence[Problem | Example]]:
    chains, plain = [], []
    doubted: dict[str, Problem] = {}
    for problem, rollout, text in kept(groups):
      name = problem.id if c.keep_n == 1 else rollout.id
      made = _example(problem, name, text, words)
      chains.append(_blind(made, rollout) if c.blind else made)
      if mentions(text, c.doubts):
        doubted[problem.id] = problem
      else:
        plain.append(chains[-1])
    if not chains:
      raise SophiaError(
        "chains: no chain is right; sample more (trajectories), or from a "
        "better model"
      )
    rl = tuple(doubted.values())
    return {"chains.jsonl": chains, "sft.jsonl": plain, "rl.jsonl": rl}

  return write


def _example(problem: Problem, name: str, text: str, words: Words) -> Example:
  return Example(
    id=name,
    question=problem.text,
    response=text,
    images=problem.images,
    system=credit.system_prompt(text, words.slow_thinking),
  )


def _blind(example: Example, rollout: Rollout) -> Example:
  """Returns the example with what the reasoner was asked, and no image."""
  asked = rollout.turns[-1].prompt
  assert isinstance(asked, Chat)
  return dataclasses.replace(example, question=asked.text, images=())


def chains(c: Config) -> Algorithm:
  """Builds the stage that writes the chains of its problems."""
  captioner = sampling.CAPTIONER if c.captioner else "caption"
  if c.captions:
    recipe = sampling.described(c.captions, c.trajectories, captioner)
  else:
    recipe = sampling.attempts(c.trajectories)
  return Algorithm(
    sample=recipe,
    roles=(captioner, "reasoner") if c.captions else ("policy",),
    files=files(c),
    terms=(),
  )
