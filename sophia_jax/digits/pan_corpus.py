"""The files of a world of pans: problems about videos, and text to learn from.

pans.jsonl           problems whose images are key frames    (training pictures)
pans_heldout.jsonl   such problems                           (held-out pictures)
pans_views.jsonl     descriptions of every key frame, by its place: "pan-3/0"
pans_worked.jsonl    worked answers, and readings of reasoning; text only

Descriptions are those of a describer who errs at times. Worked answers are of a
policy whose reasoning slips at times, though its answer is right: for them
accuracy and consistency differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sophia_jax.digits import pans, scenes, views
from sophia_jax.files import write_jsonl
from sophia_jax.rollout.prompts import Prompts, filled
from sophia_jax.types import Problem
from sophia_jax.videos.keyframes import KeyFrameConfig, key_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class PansConfig:
  """A world of pans over photographs and mosaics of digits."""

  videos: int = 400
  """Videos to learn from; each has up to four questions."""
  heldout: int = 100
  """Videos of held-out pictures."""
  photographs: float = 0.25
  """Share of pans over a photograph; the others are over mosaics."""
  held_out_scans: float = 0.2
  """Fraction of the scans that only held-out mosaics show."""
  most: int = 6
  """Key frames of a video, at most; a pan with more is drawn again."""
  noise: float = 0.03
  """Probability that a description has a wrong move, or a wrong digit."""
  examples: int = 10000
  """Worked answers and readings."""
  readings: float = 0.3
  """Share of examples that answer from given reasoning, as a reader does."""
  slips: float = 0.4
  """Share of worked answers whose reasoning has an error that the answer has
  not."""
  bare: float = 0.1
  """Share of worked answers without reasoning."""


def write(
  directory: Path, config: PansConfig, prompts: Prompts, seed: int
) -> None:
  """Writes all files, and the key frames, under `directory`.

  Raises:
    SophiaError: OpenCV is not installed.
  """
  training, held_out = scenes.load_scans(seed, config.held_out_scans)
  make = lambda part: np.random.default_rng([seed, 31, part])
  described: list[dict[str, Any]] = []
  for part, name, scans, photograph, count in (
    (0, "pans", training, pans.PHOTOGRAPHS[0], config.videos),
    (1, "pans_heldout", held_out, pans.PHOTOGRAPHS[1], config.heldout),
  ):
    rng, rows = make(part), []
    for i in range(count):
      video = f"{name.replace('pans', 'pan')}-{i}"
      seen, images = _video(directory, video, rng, scans, photograph, config)
      for problem in _problems(rng, video, seen, images):
        rows.append(_row(problem))
        described += _described(rng, problem, seen, config.noise)
    write_jsonl(directory / f"{name}.jsonl", rows)
  write_jsonl(directory / "pans_views.jsonl", described)
  write_jsonl(
    directory / "pans_worked.jsonl", _examples(make(2), config, prompts)
  )


# ---------------------------------------------------------------------- videos
def _video(
  directory: Path,
  name: str,
  rng: np.random.Generator,
  scans: scenes.Scans,
  photograph: str,
  config: PansConfig,
) -> tuple[views.Seen, list[str]]:
  """Draws a pan, and writes its key frames; returns what they show."""
  while True:
    if rng.random() < config.photographs:
      pan = pans.over_photograph(rng, photograph)
    else:
      pan = pans.over_mosaic(rng, scans)
    chosen = key_frames(pan.frames, KeyFrameConfig())
    if 2 <= len(chosen) <= config.most:
      break
  images = []
  for place in chosen:
    path = directory / "frames" / f"{name}-{place}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pan.frames[place]).save(path, compress_level=1)
    images.append(f"frames/{path.name}")
  return pan.seen(chosen), images


def _problems(
  rng: np.random.Generator, video: str, seen: views.Seen, images: list[str]
) -> Iterator[Problem]:
  """Yields a problem of every kind that the views allow for."""
  for kind in views.KINDS:
    question = views.ask(rng, kind, seen)
    if question is not None:
      yield dataclasses.replace(
        _problem(f"{video}-{kind}", question), images=tuple(images)
      )


def _problem(name: str, question: views.Question) -> Problem:
  return Problem(
    id=name,
    question=question.text,
    answer=chr(ord("A") + question.choices.index(question.answer)),
    answer_type="choice",
    choices=question.choices,
    source=question.kind,
  )


def _row(problem: Problem) -> dict[str, Any]:
  return {
    "id": problem.id,
    "images": list(problem.images),
    "question": problem.question,
    "answer": problem.answer,
    "answer_type": problem.answer_type,
    "choices": list(problem.choices),
    "source": problem.source,
  }


def _described(
  rng: np.random.Generator, problem: Problem, seen: views.Seen, noise: float
) -> Iterator[dict[str, Any]]:
  """Yields the descriptions of a problem's key frames, by their places."""
  shown = views.misread(rng, seen, noise)
  for i in range(len(problem.images)):
    yield {
      "id": f"{problem.id}/{i}",
      "question": problem.question,
      "response": views.described(shown, i),
    }


# -------------------------------------------------------------------- examples
def _examples(
  rng: np.random.Generator, config: PansConfig, prompts: Prompts
) -> Iterator[dict[str, Any]]:
  """Yields worked answers and readings, on views that no video has."""
  made = 0
  while made < config.examples:
    seen = _imagined(rng, config)
    question = views.ask(rng, views.KINDS[made % len(views.KINDS)], seen)
    if question is None:
      continue
    problem = _problem(f"worked-{made}", question)
    slip = views.slipped(rng, question)
    if rng.random() < config.readings:
      yield _reading(rng, problem, question, slip, prompts)
    else:
      slip = slip if rng.random() < config.slips else None
      bare = rng.random() < config.bare
      response = f"\\boxed{{{question.answer}}}"
      if not bare:
        steps = views.thought(question, slip)
        response = f"<think>{steps}</think> **Final answer** {response}"
      texts = [views.described(seen, i) for i in range(len(seen.moves) + 1)]
      yield {
        "id": problem.id,
        "question": problem.described(texts).text,
        "response": response,
        "system": prompts.slow_thinking,
      }
    made += 1


def _reading(
  rng: np.random.Generator,
  problem: Problem,
  question: views.Question,
  slip: views.Seen | None,
  prompts: Prompts,
) -> dict[str, Any]:
  """Returns an example of a reader: the option that given steps lead to."""
  facts = slip if slip and rng.random() < 0.5 else question.facts
  answer = views.solved(question.kind, question.text, facts)
  return {
    "id": problem.id,
    "question": filled(
      prompts.reading,
      question=problem.bare,
      reasoning=views.thought(question, facts),
    ),
    "response": f"\\boxed{{{answer}}}",
  }


def _imagined(rng: np.random.Generator, config: PansConfig) -> views.Seen:
  """Draws what key frames could show: a place in the middle of a move is one at
  times, as it is where frames match poorly."""
  path = pans.path(rng, *pans.GRID)
  every = range(len(path))
  chosen = [i for i in every if i % pans.STRIDE == 0 or rng.random() < 0.1]
  digits = tuple(rng.permutation(10)[: len(path)].tolist())
  if rng.random() < config.photographs:
    digits = ()
  pan = pans.Pan((), path, digits)
  return pan.seen(chosen[: config.most])
