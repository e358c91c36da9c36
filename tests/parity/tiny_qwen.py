"""A tiny random Qwen2.5-VL written by transformers, and inputs for it."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from sophia_jax.data.native import NOWHERE
from sophia_jax.data.vocabulary import QWEN_IMAGE_MARKS
from tests.checkpoints.toy import byte_tokenizer
from tests.parity.tiny import randomise

SIDE = 28
START, END, IMAGE, VIDEO = 60, 61, 62, 63
MROPE = [2, 3, 3]
VISION = {
  "depth": 4,
  "hidden_size": 32,
  "intermediate_size": 40,
  "num_heads": 2,
  "out_hidden_size": 48,
  "window_size": 112,
  "fullatt_block_indexes": [1, 3],
}
TEXT = {
  "vocab_size": 64,
  "hidden_size": 48,
  "intermediate_size": 80,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-6,
  "max_position_embeddings": 512,
  "rope_parameters": {
    "rope_type": "default",
    "rope_theta": 1e6,
    "mrope_section": MROPE,
  },
  "bos_token_id": None,
  "eos_token_id": None,
}


def config(text=TEXT, vision=VISION, **settings) -> Qwen2_5_VLConfig:
  ids = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
  }
  return Qwen2_5_VLConfig(
    text_config=dict(text), vision_config=dict(vision), **ids | settings
  )


def words(directory: pathlib.Path) -> dict[str, int]:
  """Writes a tokenizer with Qwen's marks; returns the ids of a config."""
  tokenizer = byte_tokenizer()
  tokenizer.add_tokens(
    [*QWEN_IMAGE_MARKS, "<|video_pad|>"], special_tokens=True
  )
  tokenizer.save_pretrained(directory)
  ids = tokenizer.get_vocab()
  start, image, end = QWEN_IMAGE_MARKS
  return {
    "image_token_id": ids[image],
    "video_token_id": ids["<|video_pad|>"],
    "vision_start_token_id": ids[start],
    "vision_end_token_id": ids[end],
    "text": {**TEXT, "vocab_size": len(tokenizer) + 3},
  }


def build(
  directory: pathlib.Path, **settings
) -> Qwen2_5_VLForConditionalGeneration:
  """A model of random weights, saved in `directory`."""
  model = Qwen2_5_VLForConditionalGeneration(config(**settings)).eval()
  model.set_attn_implementation("eager")
  randomise(model, seed=5)
  model.save_pretrained(directory)
  return model


# ----------------------------------------------------------------------- inputs
@dataclasses.dataclass(frozen=True)
class Sequence:
  ids: np.ndarray
  images: tuple[np.ndarray, ...]
  """uint8 [rows, columns, S, S, 3] each."""

  @property
  def grids(self) -> torch.Tensor:
    """As transformers counts: frames, and rows and columns of patches."""
    return torch.tensor(
      [[1, 2 * x.shape[0], 2 * x.shape[1]] for x in self.images]
    )

  def inputs(self, image_token: int = IMAGE) -> dict:
    """What transformers' model is called with."""
    out = {"input_ids": torch.from_numpy(self.ids)[None]}
    if self.images:
      kinds = (self.ids == image_token).astype(np.int32)
      out |= {
        "pixel_values": torch.cat([pixels(x) for x in self.images]),
        "image_grid_thw": self.grids,
        "mm_token_type_ids": torch.from_numpy(kinds)[None],
      }
    return out


def pixels(image: np.ndarray) -> torch.Tensor:
  """Patches of 14 pixels in two frames, as the processor orders them."""
  x = torch.from_numpy(image.copy()).float() / 255
  mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
  std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
  return as_patches((x - mean) / std)


def as_patches(x: torch.Tensor) -> torch.Tensor:
  """[rows, columns, S, S, 3] as the processor lays an image out."""
  x = x.flatten(0, 1).unflatten(1, (2, 14)).unflatten(3, (2, 14))
  x = x.permute(0, 1, 3, 5, 2, 4).flatten(0, 2)  # tile, row, column; c, h, w
  return x.unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1)


def sequence(seed: int, length: int, grids: tuple[tuple[int, int], ...]):
  """Random text with images of these rows and columns of tiles in it."""
  rng = np.random.RandomState(seed)
  ids = rng.randint(0, 60, length)
  start, images = 1, []
  for rows, columns in grids:
    stop = start + 1 + rows * columns
    ids[start], ids[stop] = START, END
    ids[start + 1 : stop] = IMAGE
    start = stop + 1
    shape = (rows, columns, SIDE, SIDE, 3)
    images.append(rng.randint(0, 256, shape).astype(np.uint8))
  assert start <= length
  return Sequence(ids, tuple(images))


def places(image: np.ndarray, number: int) -> np.ndarray:
  """Picture, row, column and milliseconds of every tile of an image."""
  at = np.indices(image.shape[:2]).reshape(2, -1).T
  at = np.insert(at, 0, number, axis=1)
  return np.insert(at, 3, 0, axis=1).astype(np.int32)


def pack(rows: list[list[Sequence]], length: int, padding: int = 3) -> dict:
  """Rows of sequences as the model's packed arrays.

  Args:
    padding: tiles that no image fills.
  """
  shape = (len(rows), length)
  out = {k: np.zeros(shape, np.int32) for k in ("tokens", "segments", "places")}
  slots, tiles, at_places, used = np.full(shape, -1, np.int32), [], [], 0
  for b, row in enumerate(rows):
    at = 0
    for n, seq in enumerate(row, 1):
      here = slice(at, at + len(seq.ids))
      out["tokens"][b, here] = seq.ids
      out["segments"][b, here] = n
      out["places"][b, here] = np.arange(len(seq.ids))
      image = seq.ids == IMAGE
      slots[b, here][image] = used + np.arange(image.sum())
      for x in seq.images:
        tiles.append(x.reshape(-1, SIDE, SIDE, 3))
        at_places.append(places(x, used))
        used += len(tiles[-1])
      at = here.stop
  tiles.append(np.zeros((padding, SIDE, SIDE, 3), np.uint8))
  at_places.append(np.full((padding, 4), NOWHERE, np.int32))
  args = (out["tokens"], out["segments"], out["places"], slots)
  return {
    "args": args,
    "tiles": np.concatenate(tiles),
    "tile_places": np.concatenate(at_places),
  }
