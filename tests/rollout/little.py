"""Two tiny models with random weights, their tokenizers, and pictures."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.data.vocabulary import QWEN_IMAGE_MARKS
from sophia_jax.digits import tokenizer
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
  abstract_params,
)
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig

WORDS = ["What do you see", "red ink on paper", "user assistant system Look."]
SIDE = 28
# Wide images become several tiles, and a tile is 4 tokens.
IMAGES = ImageConfig(tile_size=SIDE, max_tiles=4)
ENGINE = EngineConfig(slots=4, length=96, prefill_rows=2, chunk=3)


@functools.cache
def renderer(directory: str, vision: bool) -> Renderer:
  words = tokenizer.build(WORDS * 9, vision)
  tokenizer.save(words, directory)
  return Renderer(directory, IMAGES, 4, "Look." if vision else None)


def model(words: Renderer) -> InternVL:
  vision = VisionConfig(
    width=16, depth=1, heads=2, mlp=32, image_size=SIDE, patch_size=7
  )
  decoder = DecoderConfig(
    vocab=words.vocab_size + 5,  # as released models have rows of no token
    width=32,
    depth=2,
    heads=4,
    kv_heads=2,
    mlp=48,
    head_dim=8,
  )
  return InternVL(
    InternVLConfig(
      vision=vision if words.has_images else None,
      decoder=decoder,
      image_token_id=words.image_id or -1,
      dtype="float32",
    )
  )


def qwen_vl(
  directory: Path, image: ImageConfig, mlp: int = 24
) -> tuple[InternVL, Renderer]:
  """A Qwen2.5-VL whose tokenizer is saved in `directory`.

  Args:
    mlp: width inside the encoder's MLP.
  """
  tokens = tokenizer.build(WORDS * 9, vision=False)
  tokens.add_tokens(list(QWEN_IMAGE_MARKS), special_tokens=True)
  tokenizer.save(tokens, directory)
  words = Renderer(str(directory), image, 1, "Look.")
  cfg = InternVLConfig(
    vision=QwenVisionConfig(width=16, depth=2, heads=2, mlp=mlp, full=(1,)),
    decoder=DecoderConfig(
      vocab=words.vocab_size + 5,
      width=32,
      depth=2,
      heads=2,
      kv_heads=1,
      mlp=48,
      head_dim=16,
      mrope=(2, 3, 3),
    ),
    image_token_id=words.image_id or -1,
    dtype="float32",
  )
  return InternVL(cfg), words


@functools.cache
def params(module: InternVL, seed: int = 0):
  """Weights of distributions that are neither flat nor certain."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    about = 1.0 if name == "scale" else 0.0
    spread = 0.5 if name == "head" else 0.3
    return rng.normal(about, spread, leaf.shape).astype(leaf.dtype)

  shapes = abstract_params(module.cfg)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def indifferent(module: InternVL, favourites, scale: float = 40.0):
  """Weights of a model that always wants the same tokens, whatever it reads."""
  weights = jax.tree.map(np.copy, params(module))
  language = weights["language"]
  for part, name in (("attn", "o"), ("mlp", "down")):
    language["layers"][part][name]["kernel"][:] = 0
  language["embedding"][:] = 1
  language["norm"]["scale"][:] = 1
  language["head"][:, list(favourites)] = scale / len(language["head"])
  return weights


def engine(module, words, weights=None, config=ENGINE, load_tiles=None):
  return EmbeddedEngine(
    module,
    params(module) if weights is None else weights,
    words,
    config,
    load_tiles or TileCache(IMAGES),
  )


def pictures(directory: Path) -> list[str]:
  """Images of one tile, of one tile, and of two with their thumbnail."""
  rng = np.random.default_rng(3)
  paths = []
  for i, width in enumerate((SIDE, SIDE, 2 * SIDE)):
    pixels = rng.integers(0, 256, (SIDE, width, 3), np.uint8)
    paths.append(str(directory / f"{i}.png"))
    Image.fromarray(pixels).save(paths[-1])
  return paths
