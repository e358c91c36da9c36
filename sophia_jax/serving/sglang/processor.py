"""Images of a request, cut by `data.images` into the places its ids give them."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import numpy as np
from sglang.srt.managers.schedule_batch import (
  Modality,
  MultimodalDataItem,
  MultimodalProcessorOutput,
)
from sglang.srt.multimodal.processors.base_processor import (
  BaseMultimodalProcessor,
)
from sglang.srt.multimodal.processors.internvl import InternVLProcessor
from transformers import BatchFeature

from sophia_jax.data.images import ImageConfig
from sophia_jax.serving import images
from sophia_jax.serving.sglang.model import (
  InternVLChatModel,
  Qwen2_5_VLForConditionalGeneration,
)
from sophia_jax.types import SophiaError


class Cutting:
  """Part of both processors: images become items with their tiles."""

  img_start_token_id: int
  img_context_token_id: int
  img_end_token_id: int
  num_image_token: int
  """Image tokens of a tile."""
  io_executor: Any

  def _cut_by(self, tile_size: int) -> None:
    """Takes the settings of images, for tiles of `tile_size` pixels."""
    settings = json.loads(os.environ.get(images.IMAGE_VARIABLE, "{}"))
    self._image = ImageConfig(**{**settings, "tile_size": tile_size})

  async def process_mm_data_async(
    self, image_data: Any, input_text: Any, request_obj: Any, **kwargs: Any
  ) -> MultimodalProcessorOutput:
    """Makes items with their tiles, uint8, and places.

    Raises:
      ValueError: images and prompt do not fit; becomes a 400.
    """
    if not isinstance(input_text, list):
      raise ValueError(
        "images come with input_ids, image tokens expanded; send Renderer."
        "prompt's ids to /generate"
      )
    if kwargs.get("audio_data") or request_obj.video_data:
      raise ValueError("neither sounds nor films are known here; send images")
    try:
      items = await self._items(input_text, image_data or [])
    except SophiaError as e:
      raise ValueError(str(e)) from e
    return MultimodalProcessorOutput(
      input_ids=input_text,
      mm_items=items,
      im_start_id=self.img_start_token_id,
      im_end_id=self.img_end_token_id,
      im_token_id=self.img_context_token_id,
      **self._positions(input_text, items),
    )

  async def _items(
    self, ids: list[int], sources: list[Any]
  ) -> list[MultimodalDataItem]:
    places = images.spans(ids, self.img_context_token_id)
    counts = images.tile_counts(places, len(sources), self.num_image_token)
    loop = asyncio.get_running_loop()
    return await asyncio.gather(
      *(
        loop.run_in_executor(self.io_executor, self._item, number, *image)
        for number, image in enumerate(zip(sources, counts, places), 1)
      )
    )

  def _item(
    self, number: int, source: Any, count: int, place: images.Span
  ) -> MultimodalDataItem:
    tiles = images.read_tiles(source, count, self._image, f"image {number}")
    item = MultimodalDataItem(
      modality=Modality.IMAGE, feature=tiles, offsets=[(place[0], place[1] - 1)]
    )
    # Here, in a thread; the scheduler would hash all pixels between its steps.
    item.set_hash(images.digest(source, count))
    return item

  def _positions(
    self, ids: list[int], items: list[MultimodalDataItem]
  ) -> dict[str, Any]:
    """Returns what else the model is given: nothing, where positions are columns."""
    del ids, items
    return {}


class TileProcessor(Cutting, InternVLProcessor):
  """Cuts images into as many tiles as the prompt has room for."""

  models = (InternVLChatModel,)

  def __init__(self, hf_config: Any, *args: Any, **kwargs: Any):
    super().__init__(hf_config, *args, **kwargs)
    self._cut_by(
      hf_config.force_image_size or hf_config.vision_config.image_size
    )


class NativeProcessor(Cutting, BaseMultimodalProcessor):
  """Cuts images at their own size, each tile of which is a token."""

  models = (Qwen2_5_VLForConditionalGeneration,)
  num_image_token = 1

  def __init__(self, hf_config: Any, *args: Any, **kwargs: Any):
    super().__init__(hf_config, *args, **kwargs)
    self.img_start_token_id = hf_config.vision_start_token_id
    self.img_context_token_id = hf_config.image_token_id
    self.img_end_token_id = hf_config.vision_end_token_id
    vision = hf_config.vision_config
    self._merged = vision.spatial_merge_size
    self._cut_by(vision.patch_size * self._merged)

  def _item(
    self, number: int, source: Any, count: int, place: images.Span
  ) -> MultimodalDataItem:
    item = super()._item(number, source, count, place)
    rows, columns = item.feature.shape[:2]
    grid = [[1, rows * self._merged, columns * self._merged]]
    item.image_grid_thw = _tensors(grid=grid)["grid"]
    return item

  def _positions(
    self, ids: list[int], items: list[MultimodalDataItem]
  ) -> dict[str, Any]:
    """Returns the positions of M-RoPE, and how far later ones are from columns."""
    places = [(start, end + 1) for item in items for start, end in item.offsets]
    grids = [item.feature.shape[:2] for item in items]
    found = images.spatial_positions(len(ids), places, grids)
    return _tensors(
      mrope_positions=found,
      mrope_position_delta=[[int(found.max()) + 1 - len(ids)]],
    )


def _tensors(**values: Any) -> dict[str, Any]:
  """Returns whole numbers as the tensors that SGLang computes with."""
  arrays = {name: np.array(value, np.int64) for name, value in values.items()}
  return {**BatchFeature(arrays, tensor_type="pt")}
