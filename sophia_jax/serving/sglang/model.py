"""InternVLChatModel as SGLang serves it, for uint8 tiles and changing weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sglang.srt.layers.sampler import register_sampler_backend
from sglang.srt.managers import mm_schedule
from sglang.srt.models import internvl
from sglang.srt.runtime_context import get_model
from sglang.srt.utils.hf_transformers_utils import get_rope_config

from sophia_jax.checkpoints import read_config
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
    # Integers up to 255 are exact in every dtype of a weight.
    pixels = weight.new_tensor(tiles).permute(0, 3, 1, 2).float() / 255
    mean, std = (
      pixels.new_tensor(values)[:, None, None]
      for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return self.extract_feature(((pixels - mean) / std).to(weight.dtype))

  def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
    super().load_weights(self._without_wqkv(weights))
    # SGLang would go on answering with embeddings of the weights before.
    if mm_schedule.embedding_cache is not None:
      mm_schedule.embedding_cache.clear()

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


def _undo_dynamic_rope(text: Any) -> None:
  """Makes dynamic NTK scaling what it is up to max_position_embeddings: nothing.

  SGLang rotates every text as if it were `factor` times as long as that; the
  model was not trained so, and transformers and `models` do not do so.
  """
  theta, rope = get_rope_config(text)
  if rope and rope.get("rope_type", rope.get("type")) == "dynamic":
    text.rope_parameters = {"rope_type": "default", "rope_theta": theta}


EntryClass = InternVLChatModel
