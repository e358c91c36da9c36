"""The work of a round that benchmarks.round times, the same for both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rollout_embedded import QUESTION, SIZES, Both

PARTS = ("sampling", "scoring", "update", "whole")
SYSTEM = "Look."

Round = Callable[[], dict[str, Any]]
"""Function that makes a round and returns its seconds by part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Work of a round, the same for both sides."""

  checkpoint: str
  output: str
  """Folder for what a side writes."""
  pictures: tuple[str, ...]
  """One image for each question."""
  question: str
  questions: int
  n: int
  """Answers of a question."""
  new: int
  """Tokens of an answer."""
  batch: int
  """Sequences of a microbatch."""
  side: int
  """Pixels of a tile's side."""
  tokens_per_tile: int
  banned: tuple[int, ...]
  """Ids that are not sampled: the special ones, end of turn included."""
  rounds: int
  kl: float
  slots: int
  """Requests that our engine decodes together."""
  block: int
  """Tokens of a row whose logits exist at the same time, in ours."""
  together: int = 1
  """Sequences that fit a row, in ours; a pair shares one."""
  multiple: int = 1
  """Unit of a row's length in ours, tokens; kernels of a GPU take 128."""
  system: str = SYSTEM
  clip: float = 0.2
  learning_rate: float = 1e-6
  weight_decay: float = 0.0
  clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scale:
  """Size of a round."""

  size: str
  """Key of rollout_embedded.SIZES."""
  questions: int
  n: int
  new: int
  batch: int
  slots: int
  block: int


FULL = Scale("75m", questions=32, n=8, new=128, batch=8, slots=64, block=128)
TINY = Scale("quickstart", questions=4, n=4, new=8, batch=4, slots=8, block=32)


def task_of(
  both: Both, scale: Scale, directory: Path, rounds: int, kl: float
) -> Task:
  """Returns the task, on a checkpoint in `directory`."""
  vocabulary = both.renderer.vocabulary
  assert both.cfg.vision is not None
  return Task(
    checkpoint=str(directory / "hf"),
    output=str(directory / "out"),
    pictures=tuple(p.images[0] for p in both.prompts),
    question=QUESTION * SIZES[scale.size].words,
    questions=scale.questions,
    n=scale.n,
    new=scale.new,
    batch=scale.batch,
    side=both.cfg.vision.image_size,
    tokens_per_tile=both.cfg.tokens_per_tile,
    banned=tuple(sorted({*vocabulary.marks.values(), both.renderer.end_id})),
    rounds=rounds,
    kl=kl,
    slots=scale.slots,
    block=scale.block,
  )
