"""One list of image formats, and pixels of every mode that they can hold."""

import base64
import io
import os
import stat
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from sophia_jax.data.images import (
  FORMATS,
  ImageConfig,
  image_digest,
  image_size,
  load_tiles,
  open_image,
)
from sophia_jax.data.pixels import to_rgb
from sophia_jax.datasets.importers.media import Media
from sophia_jax.evals.report import image_uri
from sophia_jax.serving.images import read_tiles
from sophia_jax.types import SophiaError

SMALL = ImageConfig(tile_size=56)
Image.init()
# What a file starts with that Pillow hands to a plugin which cannot write one.
STARTS = {
  "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
  "WMF": b"\xd7\xcd\xc6\x9a" + bytes(18),
  "FITS": b"SIMPLE  =                    T",
  "PSD": b"8BPS\x00\x01" + bytes(6) + b"\x00\x03" + bytes(20),
  "FLI": bytes(4) + b"\x11\xaf" + bytes(130),
  "PCD": bytes(2048) + b"PCD_" + bytes(1500),
  "CUR": b"\x00\x00\x02\x00\x01\x00" + bytes(40),
  "GBR": b"\x00\x00\x00\x20\x00\x00\x00\x02" + bytes(40),
}


def sample(name):
  """A file of the format as far as Pillow can write one, else its start."""
  out = io.BytesIO()
  for mode in ("RGB", "1", "L", "P"):
    try:
      Image.new(mode, (16, 16), 1).save(out, name)
      return out.getvalue()
    except (KeyError, OSError, ValueError, AttributeError, TypeError):
      out = io.BytesIO()
  return STARTS.get(name, name.encode()) + bytes(64)


@pytest.fixture
def only_the_list(monkeypatch):
  """Fails if a plugin outside of the list looks at a file."""

  def plugin(name):
    def called(*_):
      raise AssertionError(f"{name} was asked")

    return called, called

  for name in set(Image.OPEN) - set(FORMATS):
    monkeypatch.setitem(Image.OPEN, name, plugin(name))


@pytest.mark.parametrize("name", sorted({*Image.OPEN, *Image.SAVE}))
def test_every_registered_plugin(tmp_path, only_the_list, name):
  """Read everywhere or nowhere, and nothing outside of the list is asked."""
  data = sample(name)
  path = tmp_path / "x.png"
  path.write_bytes(data)
  source = base64.b64encode(data).decode()
  readers = (
    lambda: image_size(str(path)),
    lambda: open_image(str(path)),
    lambda: load_tiles(str(path), 1, SMALL),
    lambda: read_tiles(source, 1, SMALL, "image 1"),
    lambda: Media(tmp_path / "p.jsonl").add(data),
  )
  # MPO is what several JPEGs in one file are called.
  if name in {*FORMATS, "MPO"}:
    for read in readers:
      read()
    assert image_uri(str(path)) is not None
    return
  for read in readers:
    with pytest.raises(SophiaError, match="cannot read this image: not an im"):
      read()
  assert image_uri(str(path)) is None


def test_the_list_holds_what_every_server_reads():
  assert not {"AVIF", "JPEG2000", "EPS"} & set(FORMATS)
  assert set(FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize(
  ("start", "what"),
  [
    (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer;"),
    (b"\n<!DOCTYPE html><title>Sign in", "an HTML page;"),
    (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble companion;"),
    (b"", "an empty file;"),
  ],
)
def test_what_often_lies_in_an_images_place_is_named(tmp_path, start, what):
  path = tmp_path / "a.png"
  path.write_bytes(start)
  with pytest.raises(SophiaError, match=what):
    open_image(str(path))


@pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a device", "a socket"])
def test_no_file_is_refused_before_it_is_opened(tmp_path, kind):
  path = tmp_path / "a.png"
  if kind == "a FIFO":
    os.mkfifo(path)  # opening it would wait for a writer
  elif kind == "a folder":
    path.mkdir()
  elif kind == "a device":
    path.symlink_to("/dev/zero")
  else:
    os.mknod(path, stat.S_IFSOCK | 0o600)
  for read in (open_image, image_size, image_digest):
    with pytest.raises(SophiaError, match=f"it is {kind}"):
      read(str(path))
  assert image_uri(str(path)) is None


# ----------------------------------------------------------------------- pixels
def test_a_float_tiff_is_scaled(tmp_path):
  """Between 0 and 1, as image libraries write them; Pillow clips it to black."""
  path = tmp_path / "ramp.tif"
  ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
  Image.fromarray(ramp).save(path)
  grey = np.asarray(open_image(str(path)))[..., 0]
  np.testing.assert_array_equal(grey, np.rint(ramp * 255))


@pytest.mark.parametrize("suffix", ["tif", "pfm"])
def test_floats_up_to_255_are_kept(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  values = np.arange(256, dtype=np.float32).reshape(16, 16)
  Image.fromarray(values).save(path)
  np.testing.assert_array_equal(
    np.asarray(open_image(str(path)))[..., 1], values
  )


@pytest.mark.parametrize(
  ("values", "range_"),
  [
    (np.array([[0.0, 1e4]], np.float32), "from 0 to 10000"),
    (np.array([[-1.0, 1.0]], np.float32), "from -1 to 1"),
    (np.array([[0.0, np.nan]], np.float32), "from nan to nan"),
    (np.array([[0, 1 << 20]], np.int32), "from 0 to 1048576"),
    (np.array([[-5, 5]], np.int32), "from -5 to 5"),
  ],
)
def test_pixels_of_an_unknown_scale_are_refused(tmp_path, values, range_):
  path = tmp_path / "a.tif"
  Image.fromarray(values).save(path)
  with pytest.raises(SophiaError, match=f"{range_}; save it with 8 bits") as e:
    open_image(str(path))
  assert str(e.value).startswith(str(path))


@given(
  arrays.arrays(
    st.sampled_from([np.float32, np.int32, np.uint16]),
    (3, 4),
    elements=st.integers(0, 255),
  )
)
def test_the_order_of_grey_levels_is_kept(values):
  """Whatever the scale, a brighter pixel never becomes the darker one."""
  grey = np.asarray(to_rgb(Image.fromarray(values)))[..., 0].astype(int).ravel()
  order = np.argsort(values.ravel(), kind="stable")
  assert (np.diff(grey[order]) >= 0).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0)])
def test_a_picture_that_lies_in_its_alpha_alone(tmp_path, mode, ink, ground):
  """Dropping alpha would leave one colour: the text is shown on its contrast."""
  alpha = Image.new("L", (20, 10), 0)
  alpha.paste(255, (5, 2, 15, 8))
  image = Image.new("RGB", (20, 10), (ink,) * 3)
  image.putalpha(alpha)
  path = tmp_path / "a.png"
  if mode == "P":
    flat = Image.new("P", (20, 10), 0)
    flat.putpalette([ink] * 6)
    flat.paste(1, (5, 2, 15, 8))
    flat.save(path, transparency=0)
  else:
    image.convert(mode).save(path)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    shown = np.asarray(open_image(str(path)))
  assert (shown[5, 10] == ink).all() and (shown[0, 0] == ground).all()


def test_alpha_beside_colours_is_dropped_as_published(tmp_path):
  path = tmp_path / "a.png"
  image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
  image.putpixel((1, 1), (200, 0, 0, 255))
  image.save(path)
  assert open_image(str(path)).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_of_several_frames(tmp_path, only_the_list, name):
  path = tmp_path / "a.bin"
  frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
  frames[0].save(path, name, save_all=True, append_images=frames[1:])
  red, green, blue = open_image(str(path)).getpixel((4, 4))
  assert red > 240 and max(green, blue) < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "PA", "RGBa", "CMYK"])
def test_modes_that_files_hold(mode):
  start = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, "RGB")
  image = Image.new("RGB", (6, 6), (204, 204, 204)).convert(start).convert(mode)
  assert set(to_rgb(image).getcolors()[0][1]) <= {204, 255}


def test_a_transparent_colour_of_grey_is_silent(tmp_path):
  path = tmp_path / "a.png"
  image = Image.new("L", (4, 4), 50)
  image.putpixel((0, 0), 90)
  image.save(path, transparency=50)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert open_image(str(path)).getpixel((3, 3)) == (50, 50, 50)
