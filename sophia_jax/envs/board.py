"""Boards of characters: reading them, and showing them in words or pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""(row, column) of left, down, right, up."""
ACTIONS = ("left", "down", "right", "up")
CELL = 12
"""Side of a cell in a picture, pixels."""

Place = tuple[int, int]
"""(row, column), from 0."""
Colour = tuple[int, int, int]


def moved(place: Place, move: int) -> Place:
  """Returns the place one step further."""
  row, column = MOVES[move]
  return place[0] + row, place[1] + column


def places(rows: Sequence[str], signs: str) -> tuple[Place, ...]:
  """Returns where one of the signs stands, row by row."""
  return tuple(
    (r, c)
    for r, row in enumerate(rows)
    for c, sign in enumerate(row)
    if sign in signs
  )


def text(rows: Sequence[str]) -> str:
  """Returns the board in words, with spaces between cells.

  A tokenizer then has a token for each cell: signs that touch would be joined,
  and the column of a sign would depend on those before it.
  """
  return "\n".join(map(" ".join, rows))


def drawn(
  rows: Sequence[str], colours: Mapping[str, tuple[Colour, Colour]]
) -> UInt8[np.ndarray, "H W 3"]:
  """Returns a picture of the board.

  Args:
    rows: strings of one length.
    colours: by sign, (ground, mark): the colour of the cell and that of the
      square in its middle.
  """
  board = np.zeros((len(rows) * CELL, len(rows[0]) * CELL, 3), np.uint8)
  edge = CELL // 4
  for r, row in enumerate(rows):
    for c, sign in enumerate(row):
      ground, mark = colours[sign]
      cell = board[r * CELL : (r + 1) * CELL, c * CELL : (c + 1) * CELL]
      cell[:] = ground
      cell[edge:-edge, edge:-edge] = mark
      cell[0, :], cell[:, 0] = 0, 0
  return board
