"""SGLang's InternVL and Qwen2.5-VL, for uint8 tiles and changing weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sglang.srt.layers.sampler import register_sampler_backend
from sglang.srt.managers import mm_schedule
from sglang.srt.models import internvl, qwen2_5_vl
from sglang.srt.runtime_context import get_model
from sglang.srt.utils.hf_transformers_utils import get_rope_config

from sophia_jax.checkpoints import read_config
from sophia_jax.models.qwen_vision import CLIP_MEAN, CLIP_STD
from sophia_jax.models.vision import IMAGE_MEAN, IMAGE_STD
from sophia_jax.serving.sglang.sampler import ModelSampler

# This module is imported before any sampler is made.
register_sampler_backend("pytorch", ModelSampler)


class InternVLChatModel(internvl.InternVLChatModel):
  """SGLang finds it under the name of the class it replaces."""

  def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
    _undo_dynamic_rope(config.llm_config)
    super().__init__(config, *args, **kwargs)
    self.served = read_config(get_model().model_path)

  def get_image_feature(self, items: list[Any]) -> Any:
    """Returns embeddings [tiles, P, D] of the items' tiles, uint8 [n, S, S, 3] each."""
    weight = self.vision_model.embeddings.patch_embedding.weight
    tiles = np.concatenate([item.feature for item in items])
    return self.extract_feature(_pixels(weight, tiles, IMAGE_MEAN, IMAGE_STD))

  def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
    super().load_weights(self._without_wqkv(weights))
    _forget_embeddings()

  def _without_wqkv(
    self, weights: Iterable[tuple[str, Any]]
  ) -> Iterator[tuple[str, Any]]:
    """Loads InternLM2's fused projections and passes on the rest.

    SGLang looks for the numbers of heads where InternVL's config has none.
    """
    config = self.config.llm_config
    group = config.num_attention_heads // config.num_key_value_heads
    width = config.hidden_size // config.num_attention_heads
    params = dict(self.named_parameters())
    for name, weight in weights:
      if "wqkv" not in name:
        yield name, weight
        continue
      # Grouped by kv head: its query heads, its key, its value.
      rows = weight.unflatten(0, (-1, group + 2, width))
      parts = rows[:, :-2], rows[:, -2], rows[:, -1]
      for part, letter in zip(parts, "qkv", strict=True):
        loaded = part.reshape(-1, weight.shape[-1])
        params[name].weight_loader(params[name], loaded, letter)


class Qwen2_5_VLForConditionalGeneration(
  qwen2_5_vl.Qwen2_5_VLForConditionalGeneration
):
  """SGLang finds it under the name of the class it replaces."""

  def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
    super().__init__(config, *args, **kwargs)
    self.served = read_config(get_model().model_path)

  def get_image_feature(self, items: list[Any]) -> Any:
    """Returns embeddings [tiles, D] of the items' tiles, uint8 [rows, columns, S, S, 3]
    each."""
    weight = self.visual.patch_embed.proj.weight
    tiles = [
      item.feature.reshape(-1, *item.feature.shape[2:]) for item in items
    ]
    pixels = _pixels(weight, np.concatenate(tiles), CLIP_MEAN, CLIP_STD)
    # Patches of a tile row by row, each twice: an image is a film of two frames.
    *_, frames, side, _ = weight.shape
    patches = pixels.unflatten(2, (-1, side)).unflatten(4, (-1, side))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).unsqueeze(2)
    patches = patches.expand(-1, -1, frames, -1, -1).flatten(1)
    grids = [item.image_grid_thw for item in items]
    rows = [row for grid in grids for row in grid.tolist()]
    return self.visual(patches, grid_thw=grids[0].new_tensor(rows))

  def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
    # SGLang leaves out names that it does not know, without a word.
    super().load_weights((_published(name), weight) for name, weight in weights)
    _forget_embeddings()


def _published(name: str) -> str:
  """Returns the published name of a tensor that a state dict names."""
  for inner, outer in (("language_model.", "model."), ("visual.", "visual.")):
    name = name.replace(f"model.{inner}", outer, 1)
  return name


def _pixels(
  weight: Any, tiles: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> Any:
  """Returns normalised pixels [n, 3, S, S] of uint8 tiles [n, S, S, 3], of the
  dtype and on the device of a weight."""
  # Integers up to 255 are exact in every dtype of a weight.
  pixels = weight.new_tensor(tiles).permute(0, 3, 1, 2).float() / 255
  shift, scale = (pixels.new_tensor(v)[:, None, None] for v in (mean, std))
  return ((pixels - shift) / scale).to(weight.dtype)


def _forget_embeddings() -> None:
  """Empties the cache: SGLang would answer with embeddings of the weights before."""
  if mm_schedule.embedding_cache is not None:
    mm_schedule.embedding_cache.clear()


def _undo_dynamic_rope(text: Any) -> None:
  """Makes dynamic NTK scaling what it is up to max_position_embeddings: nothing.

  SGLang rotates every text as if it were `factor` times as long as that; the
  model was not trained so, and transformers and `models` do not do so.
  """
  theta, rope = get_rope_config(text)
  if rope and rope.get("rope_type", rope.get("type")) == "dynamic":
    text.rope_parameters = {"rope_type": "default", "rope_theta": theta}


EntryClass = [InternVLChatModel, Qwen2_5_VLForConditionalGeneration]
