"""Images of a request, cut by `data.images` into the places its ids give them."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from sglang.srt.managers.schedule_batch import (
  Modality,
  MultimodalDataItem,
  MultimodalProcessorOutput,
)
from sglang.srt.multimodal.processors.internvl import InternVLProcessor

from sophia_jax.data.images import ImageConfig
from sophia_jax.serving import images
from sophia_jax.serving.sglang.model import InternVLChatModel
from sophia_jax.types import SophiaError


class TileProcessor(InternVLProcessor):
  """Cuts images into as many tiles as the prompt has room for."""

  models = (InternVLChatModel,)

  def __init__(self, hf_config: Any, *args: Any, **kwargs: Any):
    super().__init__(hf_config, *args, **kwargs)
    settings = json.loads(os.environ.get(images.IMAGE_VARIABLE, "{}"))
    settings["tile_size"] = (
      hf_config.force_image_size or hf_config.vision_config.image_size
    )
    self._image = ImageConfig(**settings)

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
