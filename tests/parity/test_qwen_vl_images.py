"""Images at their own size against transformers' processor."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
  Qwen2VLImageProcessorPil,
  smart_resize,
)

from sophia_jax.data.images import (
  ImageConfig,
  count_tiles,
  load_tiles,
)
from sophia_jax.data.native import native_grid
from sophia_jax.types import SophiaError
from tests.parity import tiny_qwen

FIXTURES = pathlib.Path(__file__).parents[1] / "data/fixtures/mathvision"
ALL_IMAGES = (
  pathlib.Path(__file__).parents[2].parent / "shared/data/mathvision/images"
)
LIMITS = ((4, 1280), (256, 512), (4, 16))


def native(least: int, most: int) -> ImageConfig:
  return ImageConfig(
    method="native", tile_size=28, min_tiles=least, max_tiles=most
  )


def assert_equal(path: pathlib.Path, limits: tuple[int, int]) -> None:
  """Bit for bit, before pixels are normalised."""
  least, most = (784 * n for n in limits)
  processor = Qwen2VLImageProcessorPil(
    min_pixels=least, max_pixels=most, do_normalize=False, do_rescale=False
  )
  want = processor(Image.open(path), return_tensors="np")
  config = native(*limits)
  tiles = load_tiles(str(path), count_tiles(str(path), config), config)
  grid = [1, 2 * tiles.shape[0], 2 * tiles.shape[1]]
  assert want["image_grid_thw"].tolist() == [grid]
  ours = tiny_qwen.as_patches(torch.from_numpy(tiles)).numpy()
  np.testing.assert_array_equal(ours, want["pixel_values"])


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("name", ["41.jpg", "748.jpg", "1680.jpg"])
def test_tiles_are_the_processors_bit_for_bit(name, limits):
  assert_equal(FIXTURES / name, limits)


@pytest.mark.slow
@pytest.mark.skipif(not ALL_IMAGES.is_dir(), reason="needs shared/data")
def test_all_of_mathvision_bit_for_bit():
  paths = sorted(ALL_IMAGES.glob("*.jpg"))
  assert len(paths) == 304
  for path in paths:
    assert_equal(path, LIMITS[0])


def test_normalised_pixels_are_the_processors():
  path = FIXTURES / "41.jpg"
  want = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=784 * 16)(
    Image.open(path), return_tensors="np"
  )["pixel_values"]
  config = native(4, 16)
  tiles = load_tiles(str(path), count_tiles(str(path), config), config)
  ours = tiny_qwen.pixels(tiles).numpy()
  np.testing.assert_allclose(ours, want, atol=1e-6)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(LIMITS))
def test_the_grid_is_the_processors(width, height, limits):
  args = (width, height, *limits, 28)
  if max(width, height) > 200 * min(width, height):
    with pytest.raises(SophiaError, match="200 times"):
      native_grid(*args)
    return
  least, most = (784 * n for n in limits)
  rows, columns = smart_resize(height, width, 28, least, most)
  assert native_grid(*args) == (columns // 28, rows // 28)


def test_an_image_that_is_a_line_is_refused(tmp_path):
  path = str(tmp_path / "line.png")
  Image.new("RGB", (201, 1)).save(path)
  with pytest.raises(SophiaError, match=r"line\.png: 201x1 .* leave it out"):
    count_tiles(path, native(4, 16))
