"""SGLang-JAX's hook for images: from a request to what its scheduler takes."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import numpy as np
from sgl_jax.srt.multimodal.common.modality_enum import (
  Modality,
  MultimodalDataItem,
  MultimodalInputs,
)
from sgl_jax.srt.multimodal.processors.base_processor import (
  BaseMultimodalProcessor,
)

from sophia_jax.data.images import ImageConfig
from sophia_jax.serving import images
from sophia_jax.serving.sglang_jax.checkpoint import POLICY, described
from sophia_jax.types import SophiaError


class Processor(BaseMultimodalProcessor):
  """Cuts images into as many tiles as the prompt has room for."""

  models = (POLICY,)

  def __init__(self, hf_config: Any, server_args: Any, processor: Any):
    super().__init__(hf_config, server_args, processor)
    cfg = described(server_args.model_path, "float32")
    assert cfg.vision is not None
    self._tokens_per_tile = cfg.tokens_per_tile
    self._spatial = bool(cfg.decoder.mrope)
    settings = json.loads(os.environ.get(images.IMAGE_VARIABLE, "{}"))
    settings["tile_size"] = cfg.vision.image_size
    self._image = ImageConfig(**settings)

  async def process_mm_data_async(
    self, image_data: Any, input_text: Any, request_obj: Any, **_: Any
  ) -> MultimodalInputs:
    """Makes items with their tiles and places.

    Raises:
      ValueError: images and prompt do not fit; becomes a 400.
    """
    del request_obj
    if not isinstance(input_text, list):
      raise ValueError(
        "images come with input_ids, image tokens expanded; send Renderer."
        "prompt's ids to /generate"
      )
    sources = self.normalize_data(image_data)
    try:
      return await self._inputs(input_text, sources)
    except SophiaError as e:
      raise ValueError(str(e)) from e

  async def _inputs(
    self, ids: list[int], sources: list[Any]
  ) -> MultimodalInputs:
    image_id = self.hf_config.image_token_id
    places = images.spans(ids, image_id)
    counts = images.tile_counts(places, len(sources), self._tokens_per_tile)
    items = await asyncio.gather(
      *(
        self._run_io_async(self._item, number, source, count, place)
        for number, (source, count, place) in enumerate(
          zip(sources, counts, places), 1
        )
      )
    )
    found = MultimodalInputs(
      mm_items=items, input_ids=ids, im_token_id=image_id
    )
    if self._spatial:
      grids = [item.feature.shape[:2] for item in items]
      positions = images.spatial_positions(len(ids), places, grids)
      found.mrope_positions = positions.astype(np.int32)
      after = int(positions.max()) + 1 - len(ids)
      found.mrope_position_delta = np.array([[after]], np.int32)
    return found

  def _item(
    self, number: int, source: Any, count: int, place: images.Span
  ) -> MultimodalDataItem:
    tiles = images.read_tiles(source, count, self._image, f"image {number}")
    item = MultimodalDataItem(
      modality=Modality.IMAGE,
      feature=tiles,
      hash=images.digest(source, count),
      placeholder_ranges=[place],
    )
    item.set_pad_value()
    return item
