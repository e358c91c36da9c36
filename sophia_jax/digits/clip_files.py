"""The files of questions about clips.

clips_warmup.jsonl     what clips show, and some worked solutions (training scans)
clips.jsonl            problems for rounds                        (training scans)
clips_solutions.jsonl  worked solutions of those
clips_heldout.jsonl    problems of three levels, by tag           (held-out scans)
clips_scenes.jsonl     the digits of every problem                (for exact measures)

Frames are images; a question names each: "Frame-1: <image>".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sophia_jax.digits import clips, language
from sophia_jax.digits.scenes import Scans
from sophia_jax.files import write_jsonl

SHOWN = "Which digits are shown?"
_WORKED_EVERY = 3
"""Clips of the warm-up for each that has a worked solution."""


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Sizes of the files about clips."""

  warmup: int = 3000
  """Clips that the policy learns to read."""
  problems: int = 960
  """Problems to learn from in rounds, or by their worked solutions."""
  heldout: int = 100
  """Held-out problems of each level."""


class Scanned(NamedTuple):
  """Scans to learn from, and others."""

  train: Scans
  held_out: Scans


class _Posed(NamedTuple):
  row: dict[str, Any]
  question: language.Question
  digits: language.Digits


def write(
  directory: Path, config: ClipConfig, scans: Scanned, thinking: str, seed: int
) -> None:
  """Writes all files and their images under `directory`.

  Args:
    thinking: system prompt of worked solutions.
  """
  make = lambda number: np.random.default_rng([seed, 20, number])
  write_jsonl(
    directory / "clips_warmup.jsonl",
    _warmup(directory, make(0), scans.train, config.warmup, thinking),
  )
  kinds = tuple(clips.TRAINED)
  training = list(
    _problems(directory, "clip", make(1), scans.train, kinds, config.problems)
  )
  write_jsonl(directory / "clips.jsonl", (p.row for p in training))
  write_jsonl(
    directory / "clips_solutions.jsonl", _solutions(make(2), training, thinking)
  )
  held_out = list(_levels(directory, make(3), scans.held_out, config.heldout))
  write_jsonl(directory / "clips_heldout.jsonl", (p.row for p in held_out))
  write_jsonl(
    directory / "clips_scenes.jsonl",
    (
      {"id": p.row["id"], "digits": list(p.digits)} for p in training + held_out
    ),
  )


def framed(text: str, frames: int) -> str:
  """Returns a question that names each of its frames, as InternVL does."""
  names = (f"Frame-{i + 1}: <image>\n" for i in range(frames))
  return "".join((*names, text))


def _save(
  directory: Path,
  name: str,
  rng: np.random.Generator,
  scans: Scans,
  clip: clips.Clip,
) -> list[str]:
  """Writes the frames of a clip; returns their paths."""
  folder = directory / "clips"
  folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for k, pixels in enumerate(clips.draw(rng, scans, clip)):
    paths.append(f"clips/{name}-{k}.png")
    Image.fromarray(pixels).save(directory / paths[-1], compress_level=1)
  return paths


def _problems(
  directory: Path,
  name: str,
  rng: np.random.Generator,
  scans: Scans,
  kinds: Sequence[str],
  n: int,
  level: str = "",
) -> Iterator[_Posed]:
  """Yields problems about new clips.

  Args:
    level: name of the level; "": of training.
  """
  for i in range(n):
    clip = clips.sample_clip(rng, scans, familiar=level in ("", "L1"))
    kind = kinds[i % len(kinds)]
    question = clips.ask(rng, kind, clip.digits)
    row: dict[str, Any] = {
      "id": f"{name}-{i}",
      "images": _save(directory, f"{name}-{i}", rng, scans, clip),
      "question": framed(question.text, len(clip.digits)),
      "answer": chr(65 + question.choices.index(question.answer)),
      "answer_type": "choice",
      "choices": list(question.choices),
      "source": kind,
    }
    if level:
      row["tags"] = {"level": level}
    yield _Posed(row, question, clip.digits)


def _levels(
  directory: Path, rng: np.random.Generator, scans: Scans, n: int
) -> Iterator[_Posed]:
  other = clips.other_hands(scans)
  for level, hand, kinds in zip(
    clips.LEVELS,
    (scans, other, other),
    (clips.TRAINED, clips.TRAINED, clips.UNSEEN),
  ):
    yield from _problems(directory, level, rng, hand, tuple(kinds), n, level)


def _solutions(
  rng: np.random.Generator, problems: Sequence[_Posed], thinking: str
) -> Iterator[dict[str, Any]]:
  """Yields worked solutions; they name the option's text, not its letter."""
  for row, question, digits in problems:
    options = (f"{chr(65 + j)}. {c}" for j, c in enumerate(question.choices))
    yield {
      "id": row["id"],
      "images": row["images"],
      "question": "\n".join((row["question"], *options)),
      "response": language.worked(rng, question, digits, picture="clip"),
      "system": thinking,
    }


def _warmup(
  directory: Path, rng: np.random.Generator, scans: Scans, n: int, thinking: str
) -> Iterator[dict[str, Any]]:
  posed = _problems(directory, "warm", rng, scans, tuple(clips.TRAINED), n)
  for i, one in enumerate(posed):
    shown = ", ".join(map(str, one.digits))
    yield {
      "id": f"shown-{i}",
      "images": one.row["images"],
      "question": framed(SHOWN, len(one.digits)),
      "response": f"The clip shows {shown}.",
    }
    if i % _WORKED_EVERY == 0:
      yield from _solutions(rng, [one], thinking)
