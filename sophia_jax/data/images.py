"""THE image path: from a file to uint8 tiles.

Sampling, training, scoring, evaluation, reports and the servers all open images
here, so a prompt always has exactly as many image tokens as the encoder makes,
and one list says which formats are read. Pixels stay uint8; the model
normalises them on the device.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import math
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from sophia_jax.data import clips, hiding
from sophia_jax.data.native import Tiles, in_pairs, native_grid
from sophia_jax.data.pixels import to_rgb
from sophia_jax.data.resize import RESIZES, resizer
from sophia_jax.files import mistaken
from sophia_jax.types import SophiaError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are decoded, by Pillow's names.

Every build of Pillow reads them, that of a server included, and none runs a
program: PostScript, for one, starts Ghostscript under any file name.
"""
METHODS = ("grid", "native")
"""Ways in which an image becomes tiles."""
MAX_PIXELS = 64 * 1024**2
"""Larger images are refused before they are decoded: 192 MiB as RGB."""

# What Pillow raises on a damaged file, by experience with each decoder.
_BROKEN = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  IndexError,
  KeyError,
  struct.error,
  zlib.error,
)
_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a FIFO",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}
_ORIENTATION = 0x0112
_TRANSPOSE = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
  """Tiling of an image. The defaults are InternVL's."""

  method: str = "grid"
  """Way in which an image becomes tiles. "grid": InternVL's; the grid nearest in
  aspect ratio, filled by stretching. "native": Qwen2.5-VL's; whole tiles at nearly
  the image's own size, each of which is one image token."""
  tile_size: int = 448
  """Side S of a square tile, in pixels; 28 for Qwen2.5-VL."""
  min_tiles: int = 1
  """Smallest grid, in tiles; 4 for Qwen2.5-VL."""
  max_tiles: int = 12
  """Largest grid, in tiles, thumbnail excluded; 1280 to 16384 for Qwen2.5-VL."""
  thumbnail: bool = True
  """Whether a grid of several tiles is followed by the whole image as one; not
  with method "native"."""
  resize: str = "pil"
  """Resampling. "pil": bit for bit Pillow's. "fast": three times as fast, single
  bytes off by at most 2 levels; evaluation uses it only if config.eval.resize
  says so."""
  video_rate: float = 0.0
  """Frames a second of the images that `<video>` in a question stands for, with
  method "native"; a question may give its own, `<video 0.5>`. 0: no question
  shows a video, and tiles have one frame."""

  def __post_init__(self) -> None:
    if self.method not in METHODS:
      raise ValueError(
        f"method must be one of {', '.join(METHODS)}, not {self.method!r}"
      )
    if self.tile_size < 1:
      raise ValueError(f"tile_size must be positive, not {self.tile_size}")
    if not 1 <= self.min_tiles <= self.max_tiles:
      raise ValueError(
        "need 1 <= min_tiles <= max_tiles, not "
        f"{self.min_tiles} and {self.max_tiles}"
      )
    if not 0 <= self.video_rate < float("inf") or (
      self.video_rate and self.method != "native"
    ):
      raise ValueError(
        f"video_rate={self.video_rate}: frames a second, with method 'native'"
      )
    if self.resize not in RESIZES:
      raise ValueError(
        f"resize must be one of {', '.join(RESIZES)}, not {self.resize!r}"
      )

  @property
  def most(self) -> int:
    """Most tiles of an image, thumbnail included."""
    return self.max_tiles + (self.method == "grid" and self.thumbnail)

  @property
  def channels(self) -> int:
    """Channels of a tile: three a frame."""
    return 3 * (clips.FRAMES if self.video_rate else 1)

  def share(self, images: int) -> ImageConfig:
    """Returns the config of each image of a prompt with `images` images.

    Images at their own size do not share: each may be as large as alone.
    """
    if self.method == "native":
      return self
    most = max(1, self.max_tiles // max(images, 1))
    least = min(self.min_tiles, most)
    return dataclasses.replace(self, min_tiles=least, max_tiles=most)


# --------------------------------------------------------------------- files
def open_image(
  path: str | io.BytesIO, at_least: int | None = None
) -> Image.Image:
  """Reads an image as upright RGB.

  An animation gives its first frame. Alpha is dropped as the published recipes
  do, except where nothing but alpha holds the picture. Deep pixels are scaled
  to 8 bits (Pillow alone would clip them).

  Args:
    path: a file of one of FORMATS, or its content.
    at_least: enough pixels for both sides; a JPEG is then decoded at 1/2, 1/4
      or 1/8 of its size, which is not what tiles are cut from.

  Raises:
    SophiaError: missing, damaged, not an image of FORMATS, more than
      MAX_PIXELS, or pixel values whose scale is unknown.
  """
  with _opened(path) as image:
    turn = _TRANSPOSE.get(_orientation(image))
    if at_least is not None:
      image.draft(None, (at_least, at_least))
    image.load()
    try:
      rgb = to_rgb(image)
    except ValueError as e:
      raise SophiaError(f"{path}: {e}; save it with 8 bits a channel") from None
    return rgb if turn is None else rgb.transpose(turn)


def image_size(path: str) -> tuple[int, int]:
  """Returns width and height of the upright image, from the header alone.

  Remembered until the file changes.
  """
  stats = _regular(path)
  return _remembered_size(path, stats.st_mtime_ns, stats.st_size)


@functools.lru_cache(maxsize=1 << 20)
def _remembered_size(path: str, mtime_ns: int, size: int) -> tuple[int, int]:
  del mtime_ns, size  # parts of the key
  return _header_size(path)


def _header_size(path: str) -> tuple[int, int]:
  with _opened(path) as image:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def image_digest(path: str) -> str:
  """Returns a digest of a file's bytes: a renamed image keeps it.

  Remembered until the file changes.

  Raises:
    SophiaError: missing, unreadable, or not a regular file.
  """
  stats = _regular(path)
  return _remembered_digest(path, stats.st_mtime_ns, stats.st_size)


@functools.lru_cache(maxsize=1 << 20)
def _remembered_digest(path: str, mtime_ns: int, size: int) -> str:
  del mtime_ns, size  # parts of the key
  try:
    with open(path, "rb") as file:
      return hashlib.file_digest(file, _short_digest).hexdigest()
  except OSError as e:
    raise _unreadable(path, e) from None


def _short_digest() -> hashlib.blake2b:
  return hashlib.blake2b(digest_size=8)


def _regular(path: str) -> os.stat_result:
  """Returns the status of a regular file.

  Opening a FIFO would wait for a writer, and a device may have side effects.

  Raises:
    SophiaError: missing, or not a regular file.
  """
  try:
    stats = os.stat(path)
  except (OSError, ValueError) as e:
    raise _unreadable(path, e) from None
  if not stat.S_ISREG(stats.st_mode):
    kind = _KINDS.get(stat.S_IFMT(stats.st_mode), "no file")
    raise SophiaError(
      f"{path}: cannot read this image (it is {kind}); give an image file"
    )
  return stats


def _unreadable(path: str, error: Exception) -> SophiaError:
  if isinstance(error, FileNotFoundError):
    return SophiaError(
      f"{path}: no such image; image paths are relative to the JSONL file"
    )
  what = getattr(error, "strerror", None) or str(error)
  return SophiaError(f"{path}: cannot read this image ({what}); check the path")


@contextlib.contextmanager
def _opened(path: str | io.BytesIO) -> Iterator[Image.Image]:
  """Opens an image and reads its header; Pillow's errors become ours."""
  if isinstance(path, str):
    _regular(path)
  try:
    with Image.open(path, formats=FORMATS) as image:
      width, height = image.size
      if width * height > MAX_PIXELS:
        raise SophiaError(_bomb(path, f"{width}x{height} pixels"))
      if not width or not height:
        raise SophiaError(f"{path}: the image is empty; replace the file")
      yield image
  except UnidentifiedImageError:
    what = mistaken(path) if isinstance(path, str) else ""
    what = what or (
      f"not an image of {', '.join(FORMATS)}; re-encode it as PNG or JPEG"
    )
    raise SophiaError(f"{path}: cannot read this image: {what}") from None
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
    raise SophiaError(_bomb(path, str(e).rstrip("."))) from None
  except _BROKEN as e:
    raise SophiaError(
      f"{path}: cannot read this image ({_line(e)}); replace or re-encode it"
    ) from None


def _bomb(path: str | io.BytesIO, what: str) -> str:
  return f"{path}: too large ({what}); shrink it below {MAX_PIXELS} pixels"


def _line(error: BaseException) -> str:
  text = str(error).splitlines()
  return text[0] if text else type(error).__name__


def _orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation, 1 if there is none that can be read.

  Called before the pixels are loaded, here and when counting tiles, so both see
  the same. The base-class method is named because PNG's own decodes the image.
  A TIFF is turned by Pillow itself.
  """
  if image.format == "TIFF":
    return 1
  try:
    value = Image.Image.getexif(image).get(_ORIENTATION, 1)
  except _BROKEN:
    return 1
  return value if value in _TRANSPOSE else 1


# -------------------------------------------------------------------- tiling
@functools.cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
  """Returns all (columns, rows), by their number of tiles."""
  side = range(1, max_tiles + 1)
  grids = [
    (c, r) for c in side for r in side if min_tiles <= c * r <= max_tiles
  ]
  return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


@functools.lru_cache(maxsize=65536)
def choose_grid(
  width: int, height: int, min_tiles: int, max_tiles: int, tile_size: int
) -> tuple[int, int]:
  """Returns (columns, rows) of the grid nearest in aspect ratio.

  On an exact tie the larger grid wins if the image has more than half of its
  pixels (InternVL's `dynamic_preprocess`).
  """
  ratio, area = width / height, width * height
  best, best_diff = (1, 1), float("inf")
  for c, r in _grids(min_tiles, max_tiles):
    diff = abs(ratio - c / r)
    if diff < best_diff:
      best, best_diff = (c, r), diff
    elif diff == best_diff and area > 0.5 * tile_size**2 * c * r:
      best = (c, r)
  return best


def grid_tiles(grid: tuple[int, int], config: ImageConfig) -> int:
  """Returns the number of tiles of a grid, thumbnail included."""
  n = grid[0] * grid[1]
  extra = config.method == "grid" and config.thumbnail and n > 1
  return n + 1 if extra else n


def tile(image: Image.Image, config: ImageConfig) -> Tiles:
  """Cuts an RGB image: the grid row by row, then the thumbnail."""
  side = config.tile_size
  c, r = _grid_of(image.size, config)
  if config.method == "native":
    whole = resizer(image, config.resize)(side * c, side * r)
    whole = whole.reshape(r, side, c, side, 3).swapaxes(1, 2)
    return np.ascontiguousarray(whole)
  tiles = np.empty((grid_tiles((c, r), config), side, side, 3), np.uint8)
  resize = resizer(image, config.resize)
  # Straight to their places: at these sizes every copy costs like a filter.
  grid = tiles[: r * c].reshape(r, c, side, side, 3)
  whole = resize(side * c, side * r).reshape(r, side, c, side, 3)
  np.copyto(grid, whole.swapaxes(1, 2))
  if len(tiles) > r * c:
    tiles[-1] = resize(side, side)
  return tiles


def _grid_of(size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
  """Returns (columns, rows)."""
  find = native_grid if config.method == "native" else choose_grid
  return find(*size, config.min_tiles, config.max_tiles, config.tile_size)


def count_tiles(path: str, config: ImageConfig) -> int:
  """Counts an image's tiles, thumbnail included, or a video's, by headers alone.

  Raises:
    SophiaError: the image cannot be read, or has no grid; frames of a video have
      different sizes.
  """
  first, *others = clips.files(path)
  size = image_size(first)
  for frame in others:
    if image_size(frame) != size:
      raise SophiaError(
        f"{frame}: not of the size of {first}; frames of a video are of one size"
      )
  try:
    count = grid_tiles(_grid_of(size, config), config)
  except SophiaError as e:
    raise SophiaError(f"{first}: {e}") from None
  return count * -(-(1 + len(others)) // clips.FRAMES)


def load_tiles(
  path: str | io.BytesIO, count: int, config: ImageConfig
) -> Tiles:
  """Cuts an image into the `count` tiles that its prompt has.

  Grids are tried from few tiles to many, so the grid chosen among at most n
  tiles stays the choice when n shrinks to its own size: `count` alone says which
  it was, however many images shared the prompt. An image at its own size has but
  one grid.

  Raises:
    SophiaError: the image no longer gives `count` tiles, or cannot be read.
  """
  if config.method == "grid":
    most = count - 1 if config.thumbnail and count > 1 else count
    config = dataclasses.replace(
      config, min_tiles=min(config.min_tiles, most), max_tiles=most
    )
  tiles = _tiles_of(path, config)
  found = math.prod(tiles.shape[:-3])
  if found != count:
    raise SophiaError(
      f"{path}: {found} tiles where the prompt has {count}; the file or "
      "the image settings changed since the prompt was rendered: render it again"
    )
  return tiles


def _tiles_of(path: str | io.BytesIO, config: ImageConfig) -> Tiles:
  """Cuts an image, or a video whose last frame fills a pair."""
  clip = None if isinstance(path, io.BytesIO) else clips.read(path)
  if clip is not None:
    return in_pairs([_cut(frame, config) for frame in clip.paths])
  tiles = _cut(path, config)
  return in_pairs([tiles])[0] if config.video_rate else tiles


def _cut(path: str | io.BytesIO, config: ImageConfig) -> Tiles:
  image = opened(path)
  try:
    return tile(image, config)
  except SophiaError as e:
    raise SophiaError(f"{path}: {e}") from None


def opened(path: str | io.BytesIO) -> Image.Image:
  """Reads an image as `open_image` does, or one that `hiding.name` names."""
  if isinstance(path, io.BytesIO):
    return open_image(path)
  return hiding.hidden(open_image(hiding.plain(path)), path)


class TileCache:
  """Remembers `load_tiles`, thread-safe; the least recently used goes first.

  A file that changed is read again.
  """

  def __init__(self, config: ImageConfig, max_bytes: int = 1 << 30):
    self._config = config
    self._free = max_bytes
    self._lock = threading.Lock()
    self._tiles: collections.OrderedDict[
      tuple[str, int, tuple[tuple[int, int], ...]], Tiles
    ] = collections.OrderedDict()

  def __call__(self, path: str, count: int) -> Tiles:
    stats = [_regular(hiding.plain(file)) for file in clips.files(path)]
    changed = tuple((s.st_mtime_ns, s.st_size) for s in stats)
    key = (path, count, changed)
    with self._lock:
      if key in self._tiles:
        self._tiles.move_to_end(key)
        return self._tiles[key]
    tiles = load_tiles(path, count, self._config)
    tiles.flags.writeable = False
    with self._lock:
      if key not in self._tiles:
        self._tiles[key] = tiles
        self._free -= tiles.nbytes
      while self._free < 0:
        _, oldest = self._tiles.popitem(last=False)
        self._free += oldest.nbytes
    return tiles
