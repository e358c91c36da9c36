"""Files of problems whose answers are environments, and examples of play.

NAME.jsonl          starts to learn from
NAME_heldout.jsonl  other starts, to measure on; a bandit's have other names
NAME_expert.jsonl   answers of the best action, or at times of a random one
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sophia_jax.config import nearest
from sophia_jax.envs import bandit, lake, registry, sokoban
from sophia_jax.envs.contract import Environment
from sophia_jax.envs.episode import FORMS, observed, said
from sophia_jax.files import write_bytes, write_jsonl
from sophia_jax.types import SophiaError

TRIES = 2000
"""Draws for one more start, after which there are too few."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
  """Starts of one environment."""

  env: str = "frozen_lake"
  """Name of the environment: bandit, frozen_lake, sokoban."""
  problems: int = 512
  """Starts to learn from."""
  heldout: int = 256
  """Starts to measure on."""
  examples: int = 0
  """Answers of an expert; 0: none."""
  noise: float = 0.5
  """Probability that an expert's action is a random one."""
  rules: bool = True
  """Whether a first observation begins with the rules."""
  pictures: bool = False
  """Whether boards are shown as pictures in place of words."""
  form: str = "think"
  """Form of an expert's answers: think, answer or plain; thoughts are empty."""
  actions: int = 5
  """Actions of an expert's answer, at most."""
  size: int = 4
  """Side of a board; of Sokoban's, walls included."""
  frozen: float = 0.9
  """Probability that a place of FrozenLake is ice."""
  success_rate: float = 0.8
  """Probability that a move of FrozenLake goes where it is meant to."""
  boxes: int = 1
  """Boxes of Sokoban."""
  longest: int = 10
  """Actions of the shortest solution of Sokoban, at most."""

  def __post_init__(self) -> None:
    if self.env not in registry.ENVIRONMENTS:
      raise ValueError(f"env: {nearest(self.env, registry.ENVIRONMENTS)}")
    if self.form not in FORMS:
      raise ValueError(f"form: {nearest(self.form, FORMS)}")
    if self.env == "sokoban" and self.size < 5:
      raise ValueError(f"size: {self.size} leaves no room to push; use 5 to 8")
    if self.size < 2 or self.actions < 1:
      raise ValueError("size is 2 or more, actions 1 or more")
    if self.pictures and self.env == "bandit":
      raise ValueError("pictures: a bandit has none; use false")


def write(directory: Path, config: WorldConfig, system: str, seed: int) -> None:
  """Writes the files of a world.

  Args:
    system: system prompt of the examples.
  """
  directory.mkdir(parents=True, exist_ok=True)
  rng = lambda part: np.random.default_rng([seed, 23, part])
  name, seen = config.env, set[str]()
  for part, file, count in (
    (0, name, config.problems),
    (1, f"{name}_heldout", config.heldout),
  ):
    starts = _starts(directory, file, config, rng(part), count, seen)
    write_jsonl(directory / f"{file}.jsonl", starts)
  if config.examples:
    rows = _examples(directory, config, rng(2), system)
    write_jsonl(directory / f"{name}_expert.jsonl", rows)


def drawn(
  config: WorldConfig, rng: np.random.Generator, held_out: bool = False
) -> Environment:
  """Returns a random start."""
  if config.env == "bandit":
    return bandit.drawn(rng, held_out)
  if config.env == "sokoban":
    return sokoban.drawn(rng, config.size, config.boxes, config.longest)
  return lake.drawn(rng, config.size, config.frozen, config.success_rate)


def asked(
  directory: Path, name: str, config: WorldConfig, env: Environment, state: Any
) -> dict[str, Any]:
  """Returns question and images of an observation that an episode begins with."""
  picture = env.picture(state) if config.pictures else None
  shown = env.text(state) if picture is None else "The board is in the image."
  question = f"{env.rules()}\n{shown}" if config.rules else shown
  if picture is None:
    return {"question": question}
  path = directory / "images" / f"{name}.png"
  path.parent.mkdir(exist_ok=True)
  write_bytes(path, png(picture))
  return {"question": question, "images": [f"images/{name}.png"]}


def png(pixels: np.ndarray) -> bytes:
  """Returns a picture as the bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "png", compress_level=1)
  return buffer.getvalue()


def _starts(
  directory: Path,
  name: str,
  config: WorldConfig,
  rng: np.random.Generator,
  count: int,
  seen: set[str],
) -> Iterator[dict[str, Any]]:
  """Yields problems with starts that are not in `seen`, which takes them in.

  Raises:
    SophiaError: there are not so many.
  """
  held_out = bool(seen)
  for number in range(count):
    for _ in range(TRIES):
      env = drawn(config, rng, held_out)
      answer = registry.written(env)
      if answer not in seen:
        break
    else:
      raise SophiaError(
        f"{name}: {number} different starts were found, not {count}; ask for "
        "fewer, or for larger boards"
      )
    seen.add(answer)
    row = {"id": f"{name}-{number}", "answer": answer, "source": config.env}
    yield row | asked(directory, row["id"], config, env, env.start())


def _examples(
  directory: Path,
  config: WorldConfig,
  rng: np.random.Generator,
  system: str,
) -> Iterator[dict[str, Any]]:
  """Yields answers of the noisy expert: half at a start, half at the state after
  an answer, as a later turn shows it."""
  for i in range(config.examples):
    env, name = drawn(config, rng), f"expert-{i}"
    state = env.start()
    question = asked(directory, name, config, env, state)
    if rng.random() < 0.5 and not config.pictures:
      actions, later, done = _played(env, state, config, rng)
      if not done:
        state, left = later, 2 * config.actions - len(actions)
        question = {"question": observed(0.0, env.text(state), left)}
    actions, _, _ = _played(env, state, config, rng)
    yield {
      "id": name,
      **question,
      "response": said([env.actions[a] for a in actions], config.form),
      "system": system,
    }


def _played(
  env: Environment,
  state: Any,
  config: WorldConfig,
  rng: np.random.Generator,
) -> tuple[list[int], Any, bool]:
  """Returns an answer's actions, the state after them and whether it is the end."""
  actions, done = [], False
  for _ in range(int(rng.integers(1, config.actions + 1))):
    random = rng.random() < config.noise
    action = (
      int(rng.integers(len(env.actions))) if random else env.advice(state)
    )
    actions.append(action)
    state, _, done = env.step(state, action, rng)
    if done:
      break
  return actions, state, done
