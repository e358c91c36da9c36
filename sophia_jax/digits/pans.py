"""Videos whose motion is known: a window that pans over a large picture.

The picture is one of scikit-learn's photographs, or a mosaic of handwritten
digits (UCI digits). A pan is a few straight moves of two cells, one frame a cell;
no place is seen twice.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sophia_jax.digits.scenes import INKS, PAPERS, Scans
from sophia_jax.digits.views import WAYS, Move, Seen

CELL = 64
"""Side of a cell, pixels."""
WINDOW = 3
"""Cells along a side of the window, which shows nine."""
STRIDE = 2
"""Cells of a move: a third of the window is seen before and after it."""
GRID = (9, 9)
"""Columns and rows of a mosaic."""
LEGS = (2, 3, 4)
"""Numbers of moves of a pan."""
ENLARGED = 1.5
"""Factor by which a photograph is enlarged, so that a pan has room."""
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
"""Photographs of training and of held-out pans."""

Place = tuple[int, int]
"""Column and row of the cell in the middle of the window."""


@dataclasses.dataclass(frozen=True)
class Pan:
  """A video with everything that is known of it."""

  frames: tuple[UInt8[np.ndarray, "H W 3"], ...]
  places: tuple[Place, ...]
  """Place of the window in each frame."""
  digits: tuple[int, ...]
  """Digit in the middle of each frame; () over a photograph."""

  def seen(self, chosen: Sequence[int]) -> Seen:
    """Returns what the frames at the given places of the video show."""
    places = [self.places[i] for i in chosen]
    moves: list[Move] = [
      (after[0] - before[0], after[1] - before[1])
      for before, after in itertools.pairwise(places)
    ]
    middles = [self.digits[i] for i in chosen] if self.digits else []
    return Seen(tuple(moves), tuple(middles))


def over_photograph(rng: np.random.Generator, name: str) -> Pan:
  """Draws a pan over a photograph of PHOTOGRAPHS."""
  picture = _photograph(name)
  rows, columns = (side // CELL for side in picture.shape[:2])
  places = path(rng, columns, rows)
  return Pan(_frames(picture, places), places, ())


def over_mosaic(rng: np.random.Generator, scans: Scans) -> Pan:
  """Draws a pan over a mosaic of scans; the digits on its way are distinct."""
  columns, rows = GRID
  places = path(rng, columns, rows)
  grid = rng.integers(0, 10, (rows, columns))
  digits = rng.permutation(10)[: len(places)].tolist()
  for (column, row), digit in zip(places, digits):
    grid[row, column] = digit
  picture = _mosaic(rng, scans, grid)
  return Pan(_frames(picture, places), places, tuple(digits))


def path(
  rng: np.random.Generator, columns: int, rows: int
) -> tuple[Place, ...]:
  """Draws places of the window's middle, one a frame, none of them twice.

  Args:
    columns: cells of the picture from left to right.
    rows: cells from top to bottom.
  """
  edge = WINDOW // 2
  legs = int(rng.choice(LEGS))
  while True:
    x = int(rng.integers(edge, columns - edge))
    y = int(rng.integers(edge, rows - edge))
    places = [(x, y)]
    for way in rng.integers(0, 4, legs):
      across, along = list(WAYS.values())[way]
      for _ in range(STRIDE):
        x, y = x + across, y + along
        places.append((x, y))
    inside = all(
      edge <= x < columns - edge and edge <= y < rows - edge for x, y in places
    )
    if inside and len(set(places)) == len(places):
      return tuple(places)


def _frames(
  picture: UInt8[np.ndarray, "H W 3"], places: Sequence[Place]
) -> tuple[UInt8[np.ndarray, "H W 3"], ...]:
  side, edge = WINDOW * CELL, WINDOW // 2
  corners = [((x - edge) * CELL, (y - edge) * CELL) for x, y in places]
  return tuple(
    np.ascontiguousarray(picture[y : y + side, x : x + side])
    for x, y in corners
  )


@functools.lru_cache(maxsize=2)
def _photograph(name: str) -> UInt8[np.ndarray, "H W 3"]:
  # Imported here: it takes a second, which other commands need not wait for.
  from sklearn.datasets import load_sample_image

  image = Image.fromarray(load_sample_image(name))
  wide, high = (round(side * ENLARGED) for side in image.size)
  return np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))


def _mosaic(
  rng: np.random.Generator, scans: Scans, grid: np.ndarray
) -> UInt8[np.ndarray, "H W 3"]:
  """Draws a scan of the digit of every cell, ink on paper."""
  density = np.zeros([side * CELL for side in grid.shape])
  for (row, column), digit in np.ndenumerate(grid):
    scan = scans.pixels[rng.choice(np.flatnonzero(scans.labels == digit))]
    y, x = row * CELL, column * CELL
    density[y : y + CELL, x : x + CELL] = _stamp(rng, scan)
  ink = np.asarray(INKS[str(rng.choice(list(INKS)))])
  paper = np.asarray(PAPERS[str(rng.choice(list(PAPERS)))])
  pixels = paper + density[..., None] * (ink - paper)
  pixels += rng.normal(0, 2, pixels.shape)
  return pixels.clip(0, 255).astype(np.uint8)


def _stamp(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
  """Returns a scan, enlarged and shifted a little inside its cell."""
  side = int(rng.integers(CELL * 5 // 8, CELL * 7 // 8))
  image = Image.fromarray((scan * 255).astype(np.uint8))
  image = image.resize((side, side), Image.Resampling.BICUBIC)
  cell = np.zeros((CELL, CELL))
  x, y = rng.integers(0, CELL - side + 1, 2)
  cell[y : y + side, x : x + side] = np.asarray(image) / 255.0
  return cell
