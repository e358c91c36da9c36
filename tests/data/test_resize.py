"""The fast resize: within 2 levels of Pillow, and only where it is asked for."""

import concurrent.futures

import numpy as np
import pytest
from PIL import Image
from test_images import ALL_IMAGES

from sophia_jax.data.images import ImageConfig, open_image, tile
from sophia_jax.data.resize import resizer
from sophia_jax.types import SophiaError
from tests.data.data_samples import FIXTURES

pytest.importorskip("cykooz_resizer")
FAST = ImageConfig(resize="fast")


def noise(width, height, seed=0):
  """The hardest picture: every pixel black or white."""
  rng = np.random.default_rng([width, height, seed])
  return Image.fromarray(
    rng.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)
  )


def levels(image, width, height):
  """The largest difference between the two ways."""
  a, b = (
    resizer(image, how)(width, height).astype(int) for how in ("pil", "fast")
  )
  assert a.shape == b.shape == (height, width, 3)
  return np.abs(a - b).max()


@pytest.mark.parametrize("seed", range(4))
def test_fast_is_within_two_levels_in_every_direction(seed):
  """Growing, shrinking, one of each: Pillow's order of passes is followed."""
  rng = np.random.default_rng(seed)
  for _ in range(40):
    w, h, to_w, to_h = rng.integers(2, 300, 4).tolist()
    assert levels(noise(w, h, seed), to_w, to_h) <= 2, (w, h, to_w, to_h)


@pytest.mark.parametrize(
  "size", [(1, 1), (20000, 1), (1, 20000), (2, 3), (448, 448), (448, 30)]
)
def test_fast_at_the_edges(size):
  image = noise(*size)
  assert levels(image, 448, 448) <= 2
  a, b = (tile(image, c).astype(int) for c in (ImageConfig(), FAST))
  assert np.abs(a - b).max() <= 2


@pytest.mark.skipif(not ALL_IMAGES.is_dir(), reason="needs shared/data")
def test_fast_on_mathvision():
  off = np.zeros(256, int)
  # All of them are in benchmarks/input.py.
  for path in sorted(ALL_IMAGES.glob("*.jpg"))[::16]:
    image = open_image(str(path))
    a, b = (tile(image, c).astype(int) for c in (ImageConfig(), FAST))
    off += np.bincount(np.abs(a - b).ravel(), minlength=256)
  assert not off[3:].any()
  assert off[0] > 0.99 * off.sum()


def test_threads_do_not_meet():
  image = open_image(str(FIXTURES / "mathvision/748.jpg"))
  expected = tile(image, FAST)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for made in pool.map(lambda _: tile(image, FAST), range(12)):
      np.testing.assert_array_equal(made, expected)


def test_pillow_is_the_default():
  assert ImageConfig().resize == "pil"


def test_an_unknown_way_is_refused():
  with pytest.raises(ValueError, match="resize must be one of pil, fast"):
    ImageConfig(resize="bilinear")


def test_fast_without_its_library(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "cykooz_resizer", None)
  with pytest.raises(SophiaError, match="pip install cykooz-resizer"):
    resizer(noise(3, 3), "fast")
