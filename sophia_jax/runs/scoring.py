"""Scoring: the trainer's own forward pass, read out token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sophia_jax.checkpoints import sidecars
from sophia_jax.checkpoints.config import read_config
from sophia_jax.checkpoints.tiling import read_native_limits
from sophia_jax.data.chat import DEFAULT_SYSTEM, QWEN_SYSTEM
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.problems import load_examples
from sophia_jax.data.rows import pack
from sophia_jax.files import write_jsonl
from sophia_jax.models import Params, QwenVisionConfig
from sophia_jax.progress import Progress
from sophia_jax.runs import policies
from sophia_jax.train import sharding
from sophia_jax.train.outputs import response_logps
from sophia_jax.types import Role, TokenSequence

BLOCK = 1024

_logps = jax.jit(response_logps, static_argnums=(0, 3))


def score(
  directory: Path,
  data: Path,
  out: Path,
  dtype: str,
  max_tiles: int | None,
  system: str | None = None,
) -> int:
  """Writes the log-probabilities of every response token; returns how many.

  Args:
    system: system prompt of examples that have none; None: `default_system`.

  Rows hold one sequence each, padded to a power of two, so that a score does
  not depend on its neighbours and few shapes are compiled.
  """
  image = image_config(directory)
  if max_tiles is not None:
    image = dataclasses.replace(image, max_tiles=max_tiles)
  if system is None:
    system = default_system(directory)
  model = policies.load(
    directory, policies.RuntimeConfig(dtype=dtype), image, system
  )
  examples = load_examples(data)
  params = policies.weights(model, sharding.make_mesh(sharding.MeshConfig()))

  def rows() -> Iterator[dict[str, Any]]:
    with Progress("score", len(examples), "response") as progress:
      for example in examples:
        prompt = model.renderer.prompt(
          example.question, example.images, example.system
        )
        yield scored(
          model,
          params,
          model.renderer.sequence(
            prompt, example.response, id=example.id, streams={}
          ),
        )
        progress.advance()

  return write_jsonl(out, rows())


def image_config(directory: Path) -> ImageConfig:
  """Returns how a checkpoint's own processor cuts images, up to its limits."""
  vision = read_config(directory).vision
  if isinstance(vision, QwenVisionConfig):
    least, most = read_native_limits(directory, vision.image_size)
    return ImageConfig(
      method="native",
      tile_size=vision.image_size,
      min_tiles=least,
      max_tiles=most,
    )
  return ImageConfig(tile_size=vision.image_size if vision else 448)


def default_system(directory: Path) -> str | None:
  """Returns the system prompt of examples that have none.

  An export has the one that it was trained under in its chat template; other
  checkpoints with vision were trained under their family's own sentence.
  """
  found, vision = sidecars.system_of(directory), read_config(directory).vision
  if found is None and vision:
    qwen = isinstance(vision, QwenVisionConfig)
    return QWEN_SYSTEM if qwen else DEFAULT_SYSTEM
  return found


def scored(
  model: policies.Model, params: Params, sequence: TokenSequence
) -> dict[str, Any]:
  """Returns a sequence's id, and its response's tokens and log-probabilities."""
  cfg = model.module.cfg
  length = 1 << (len(sequence) - 1).bit_length()
  tiles = 1 << max(sum(sequence.tiles) - 1, 0).bit_length() if cfg.vision else 0
  batch = pack(
    [[sequence]],
    PackConfig(rows=1, length=length, tile_budget=tiles),
    tokens_per_tile=cfg.tokens_per_tile,
    tile_size=model.image.tile_size,
    streams=(),
    load_tiles=TileCache(model.image),
  )
  logps = np.asarray(_logps(model.module, params, batch, BLOCK))[0]
  where = np.flatnonzero(sequence.roles == Role.RESPONSE)
  return {
    "id": sequence.id,
    "token_ids": sequence.token_ids[where].tolist(),
    "logprobs": logps[where - 1].astype(float).tolist(),
  }
