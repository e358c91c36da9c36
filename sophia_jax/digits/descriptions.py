"""Files for models that describe scenes, and for what finds their errors.

described.jsonl             examples: a question and a description
labelled.jsonl              problems whose descriptions are labelled
descriptions.jsonl          problems to learn from
descriptions_heldout.jsonl  problems to measure on      (held-out scans)

The answer of a problem is its true description. Examples may be wrong at random,
so that a model which imitates them hallucinates what it could see. No two files
share an image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sophia_jax.digits import language, scenes
from sophia_jax.digits.corpus import save_scene
from sophia_jax.files import write_jsonl

QUESTION = "What is on the image?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescriptionConfig:
  """Sizes of the files of descriptions."""

  examples: int = 2000
  """Examples that teach the form of a description."""
  labelled: int = 2000
  """Problems whose descriptions teach reward models."""
  problems: int = 2000
  """Problems to learn from."""
  heldout: int = 400
  """Problems to measure on."""
  noise: float = 0.0
  """Probability that a fact of an example is a random one."""


def write(
  directory: Path,
  config: DescriptionConfig,
  held_out_scans: float,
  system: str,
  seed: int,
) -> None:
  """Writes the files and their images.

  Args:
    held_out_scans: fraction of the scans that only held-out problems show.
    system: system prompt of the examples.
  """
  directory.mkdir(parents=True, exist_ok=True)
  train, held_out = scenes.load_scans(seed, held_out_scans)
  rows = _described(
    directory, "described", train, config.examples, seed, config.noise
  )
  examples = (
    {k: v for k, v in row.items() if k != "answer"}
    | {"response": row["answer"], "system": system}
    for row in rows
  )
  write_jsonl(directory / "described.jsonl", examples)
  for name, scans, count in (
    ("labelled", train, config.labelled),
    ("descriptions", train, config.problems),
    ("descriptions_heldout", held_out, config.heldout),
  ):
    rows = _described(directory, name, scans, count, seed)
    write_jsonl(directory / f"{name}.jsonl", rows)


def _described(
  directory: Path,
  name: str,
  scans: scenes.Scans,
  count: int,
  seed: int,
  noise: float = 0.0,
) -> Iterator[dict[str, Any]]:
  """Yields scenes as problems; each file has other draws."""
  rng, slips = (
    np.random.default_rng([seed, part, *name.encode()]) for part in (29, 31)
  )
  for i in range(count):
    scene = scenes.sample_scene(rng, scans)
    yield {
      "id": f"{name}-{i}",
      "images": [save_scene(directory, f"{name}-{i}", rng, scans, scene)],
      "question": QUESTION,
      "answer": _told(slips, scene, noise),
    }


def _told(rng: np.random.Generator, scene: scenes.Scene, noise: float) -> str:
  """Returns a description in which a share of the facts are random."""
  slip = lambda value, others: (
    others[int(rng.integers(len(others)))] if rng.random() < noise else value
  )
  text = language.description(
    tuple(slip(d, range(10)) for d in scene.digits),
    slip(scene.ink, tuple(scenes.INKS)),
    slip(scene.paper, tuple(scenes.PAPERS)),
  )
  orders = ("larger than", "smaller than", "equal to")
  said = next(order for order in orders if order in text)
  return text.replace(said, slip(said, orders))
