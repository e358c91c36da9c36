"""Image files to tiles: grids, pixels, modes, damage."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sophia_jax.data import images
from sophia_jax.data.images import (
  ImageConfig,
  TileCache,
  choose_grid,
  count_tiles,
  load_tiles,
  open_image,
  tile,
)
from sophia_jax.types import SophiaError
from tests.data.data_samples import FIXTURES

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
ALL_IMAGES = Path(__file__).parents[2].parent / "shared/data/mathvision/images"


def normalise(pixels):
  return (pixels.astype(np.float32) / np.float32(255) - MEAN) / STD


# ------------------------------------------------------------------ reference
def reference_grid(width, height, least, most, size):
  """InternVL's published procedure, written from its description."""
  ratios = {
    (i, j)
    for n in range(least, most + 1)
    for i in range(1, n + 1)
    for j in range(1, n + 1)
    if least <= i * j <= most
  }
  best, best_difference = (1, 1), float("inf")
  for ratio in sorted(ratios, key=lambda x: x[0] * x[1]):
    difference = abs(width / height - ratio[0] / ratio[1])
    if difference < best_difference:
      best, best_difference = ratio, difference
    elif (
      difference == best_difference
      and width * height > 0.5 * size * size * ratio[0] * ratio[1]
    ):
      best = ratio
  return best


def reference_tiles(path, size=448, least=1, most=12):
  """Crops one box after the other, as the model card does."""
  image = Image.open(path).convert("RGB")
  columns, rows = reference_grid(*image.size, least, most, size)
  resized = image.resize((size * columns, size * rows))
  out = []
  for i in range(columns * rows):
    x, y = (i % columns) * size, (i // columns) * size
    out.append(resized.crop((x, y, x + size, y + size)))
  if len(out) != 1:
    out.append(image.resize((size, size)))
  return np.stack([np.asarray(one) for one in out])


# ---------------------------------------------------------------------- tiling
@pytest.mark.parametrize(
  ("width", "height", "grid"),
  [
    (448, 448, (1, 1)),
    (800, 800, (2, 2)),  # a tie of 1x1, 2x2, 3x3 decided by area
    (1300, 1300, (3, 3)),
    (100, 100, (1, 1)),
    (800, 400, (2, 1)),
    (1600, 800, (4, 2)),
    (400, 800, (1, 2)),
    (800, 600, (4, 3)),
    (600, 800, (3, 4)),
    (1920, 1080, (7, 4)),
    (20000, 1, (12, 1)),
    (1, 20000, (1, 12)),
    (1, 1, (1, 1)),
  ],
)
def test_grid_table(width, height, grid):
  most = 28 if grid == (7, 4) else 12
  assert choose_grid(width, height, 1, most, 448) == grid


@pytest.mark.parametrize("limits", [(1, 6), (1, 12), (1, 24), (2, 12), (3, 6)])
def test_grid_is_the_reference_grid(limits):
  rng = np.random.default_rng(0)
  sizes = rng.integers(1, 2400, (300, 2)).tolist()
  ties = [
    [448 * c * k, 448 * r * k]
    for c in (1, 2, 3)
    for r in (1, 2, 3)
    for k in (1, 2, 3)
  ]
  for width, height in sizes + ties:
    expected = reference_grid(width, height, *limits, 448)
    assert choose_grid(width, height, *limits, 448) == expected


def test_there_are_never_two_tiles(picture):
  counts = {
    count_tiles(picture(w, h), ImageConfig(tile_size=16, max_tiles=12))
    for w in range(8, 100, 13)
    for h in range(8, 100, 13)
  }
  assert 2 not in counts
  assert {1, 3, 13} <= counts


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("mathvision/*.jpg")))
def test_pixels_are_the_reference_bit_for_bit(path):
  config = ImageConfig()
  expected = normalise(reference_tiles(path))
  tiles = tile(open_image(str(path)), config)
  assert tiles.dtype == np.uint8
  np.testing.assert_array_equal(normalise(tiles), expected)
  assert count_tiles(str(path), config) == len(expected)


@pytest.mark.skipif(not ALL_IMAGES.is_dir(), reason="needs shared/data")
def test_all_of_mathvision_bit_for_bit():
  paths = sorted(ALL_IMAGES.glob("*.jpg"))
  assert len(paths) == 304
  config = ImageConfig()
  for path in paths:
    tiles = tile(open_image(str(path)), config)
    np.testing.assert_array_equal(tiles, reference_tiles(path), str(path))
    assert count_tiles(str(path), config) == len(tiles)


def test_normalising_a_byte_is_the_published_recipe():
  # Normalising is a function of one byte, so equal bytes are equal floats.
  every = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
  values = normalise(every)
  np.testing.assert_allclose(values[0], (-2.1179, -2.0357, -1.8044), atol=5e-5)
  np.testing.assert_allclose(values[255], (2.2489, 2.4286, 2.64), atol=5e-5)


def test_images_of_a_prompt_share_the_tiles(picture):
  path = picture(300, 100)
  config = ImageConfig(tile_size=56)
  assert config.share(1) == config
  assert config.share(3).max_tiles == 4
  assert config.share(100).max_tiles == 1
  assert ImageConfig(min_tiles=6).share(4).min_tiles == 3
  assert count_tiles(path, config.share(4)) == 4
  assert count_tiles(path, config.share(6)) == 3


def test_the_count_alone_tells_the_grid(picture):
  config = ImageConfig(tile_size=28)
  for width, height in [(90, 30), (90, 60), (77, 31), (100, 100), (30, 200)]:
    path = picture(width, height)
    for sharing in range(1, 13):
      own = config.share(sharing)
      expected = tile(open_image(path), own)
      found = load_tiles(path, count_tiles(path, own), config)
      np.testing.assert_array_equal(found, expected)


def test_an_image_that_changed_is_an_error(tmp_path):
  path = tmp_path / "a.png"
  Image.new("RGB", (300, 100)).save(path)
  config = ImageConfig(tile_size=56)
  count = count_tiles(str(path), config)
  Image.new("RGB", (50, 51)).save(path)
  with pytest.raises(SophiaError, match=r"a\.png.*render it again"):
    load_tiles(str(path), count, config)
  assert count_tiles(str(path), config) == 1


@pytest.mark.parametrize("values", [{"tile_size": 0}, {"min_tiles": 13}])
def test_config_is_checked(values):
  with pytest.raises(ValueError, match=next(iter(values))):
    ImageConfig(**values)


# ----------------------------------------------------------------------- modes
def ramp(mode, dtype, factor):
  values = np.arange(256).repeat(4).reshape(32, 32) * factor
  image = Image.fromarray(values.astype(dtype))
  assert image.mode == mode
  return image


@pytest.mark.parametrize(
  ("mode", "dtype"), [("I;16", np.uint16), ("I", np.int32)]
)
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, mode, dtype):
  path = tmp_path / "deep.tiff"
  ramp(mode, dtype, 257).save(path)
  pixels = np.asarray(open_image(str(path)))
  assert pixels.shape == (32, 32, 3)
  np.testing.assert_array_equal(
    pixels[..., 0].ravel(), np.arange(256).repeat(4)
  )


def test_16_bit_png(tmp_path):
  path = tmp_path / "deep.png"
  ramp("I;16", np.uint16, 257).save(path)
  pixels = np.asarray(open_image(str(path)))
  assert pixels[0, 0, 0] == 0
  assert pixels[-1, -1, 0] == 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_convert_as_pillow_does(tmp_path, mode):
  # Pillow 12 does not read the YCbCr TIFF it writes.
  suffix = {"CMYK": "tiff", "YCbCr": "jpg"}.get(mode, "png")
  path = tmp_path / f"a.{suffix}"
  source = Image.open(FIXTURES / "mathvision/748.jpg").resize((60, 40))
  source.convert(mode).save(path)
  image = open_image(str(path))
  assert image.mode == "RGB"
  np.testing.assert_array_equal(
    np.asarray(image), np.asarray(Image.open(path).convert("RGB"))
  )


def test_cmyk_jpeg(tmp_path):
  path = tmp_path / "a.jpg"
  Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(path)
  red, green, blue = open_image(str(path)).getpixel((5, 5))
  assert red > 200
  assert max(green, blue) < 60


def test_alpha_is_dropped_not_composited(tmp_path):
  path = tmp_path / "a.png"
  Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(path)
  assert open_image(str(path)).getpixel((0, 0)) == (10, 20, 30)


def test_palette_with_transparency_is_silent(tmp_path):
  path = tmp_path / "a.png"
  image = Image.new("P", (4, 4), 1)
  image.putpalette([0, 0, 0, 9, 8, 7])
  image.save(path, transparency=bytes([0, 128]))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert open_image(str(path)).getpixel((0, 0)) == (9, 8, 7)


def test_animation_gives_its_first_frame(tmp_path):
  path = tmp_path / "a.gif"
  frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
  frames[0].save(path, save_all=True, append_images=frames[1:])
  assert open_image(str(path)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation(tmp_path, orientation, suffix):
  """Size from the header and upright pixels agree with Pillow's own turn."""
  from PIL import ImageOps

  path = tmp_path / f"a.{suffix}"
  exif = Image.Exif()
  exif[0x0112] = orientation
  pixels = np.zeros((20, 60, 3), np.uint8)
  pixels[:10, :30] = 255
  Image.fromarray(pixels).save(path, exif=exif)
  upright = open_image(str(path))
  assert images.image_size(str(path)) == upright.size
  expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
  np.testing.assert_array_equal(np.asarray(upright), np.asarray(expected))
  config = ImageConfig(tile_size=28)
  assert count_tiles(str(path), config) == len(tile(upright, config))


def test_unreadable_exif_counts_as_none(tmp_path):
  path = tmp_path / "a.jpg"
  Image.new("RGB", (60, 20)).save(path, exif=b"Exif\0\0garbage")
  assert open_image(str(path)).size == images.image_size(str(path)) == (60, 20)


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000), (2, 3)])
def test_extreme_shapes(picture, size):
  path = picture(*size)
  config = ImageConfig(tile_size=28)
  tiles = tile(open_image(path), config)
  assert len(tiles) == count_tiles(path, config)
  assert tiles.shape[1:] == (28, 28, 3)


# ---------------------------------------------------------------------- damage
def bomb(path, width, height):
  """A PNG whose header promises far more than the file has."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

  header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
  path.write_bytes(
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    + chunk(b"IEND", b"")
  )


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [9000, 12000, 60000])
def test_bombs_are_refused_by_their_header(tmp_path, side):
  path = tmp_path / "bomb.png"
  bomb(path, side, side)
  for read in (open_image, images.image_size):
    with pytest.raises(SophiaError, match=r"bomb\.png: too large.*shrink"):
      read(str(path))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tiff"])
def test_truncated(tmp_path, suffix):
  whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
  Image.open(FIXTURES / "mathvision/766.jpg").save(whole)
  data = whole.read_bytes()
  for keep in (len(data) // 2, 40, 10, 1):
    path.write_bytes(data[:keep])
    with pytest.raises(SophiaError, match=rf"cut\.{suffix}: cannot read"):
      open_image(str(path))


def test_not_an_image(tmp_path):
  path = tmp_path / "a.jpg"
  path.write_text("hello")
  with pytest.raises(SophiaError, match=r"a\.jpg: cannot read"):
    open_image(str(path))
  path.write_bytes(b"")
  with pytest.raises(SophiaError, match=r"a\.jpg: cannot read"):
    open_image(str(path))
  with pytest.raises(SophiaError, match="cannot read"):
    open_image(str(tmp_path))
  with pytest.raises(SophiaError, match="no such image"):
    count_tiles(str(tmp_path / "none.png"), ImageConfig())


# ----------------------------------------------------------------------- cache
def test_cache_keeps_within_its_bytes(picture):
  config = ImageConfig(tile_size=16)
  paths = [picture(40, 40, seed) for seed in range(4)]
  size = 5 * 16 * 16 * 3
  cache = TileCache(config, max_bytes=2 * size)
  first = [cache(path, 5) for path in paths[:2]]
  assert cache(paths[0], 5) is first[0]
  cache(paths[2], 5)  # pushes out paths[1], the least recently used
  assert cache(paths[0], 5) is first[0]
  again = cache(paths[1], 5)
  assert again is not first[1]
  np.testing.assert_array_equal(again, first[1])


def test_cache_of_nothing_still_reads(picture):
  tiles = TileCache(ImageConfig(tile_size=16), max_bytes=0)(picture(9, 9), 1)
  assert tiles.shape == (1, 16, 16, 3)
