"""M-RoPE's positions: a server's for one prompt are the model's for a batch."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.data.native import NOWHERE, placed
from sophia_jax.models.positions import spatial_positions
from sophia_jax.serving import images

GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 5))
IMAGE, TEXT = 1, 0
LENGTH = 96


@given(st.lists(st.tuples(st.integers(1, 4), GRIDS), max_size=3))
@settings(max_examples=20, deadline=None)
def test_a_prompt_has_the_positions_that_a_batch_gives_it(parts):
  ids: list[int] = []
  for words, (rows, columns) in parts:
    ids += [TEXT] * words + [IMAGE] * (rows * columns)
  ids += [TEXT] * (LENGTH - len(ids))
  grids = [grid for _, grid in parts]
  found = images.spatial_positions(LENGTH, images.spans(ids, IMAGE), grids)
  slots = np.where(np.array(ids) == IMAGE, np.cumsum(ids) - 1, -1)
  first, places = 0, [np.full((1, 4), NOWHERE)]
  for grid in grids:
    places.append(placed(np.zeros((*grid, 1, 1, 3), np.uint8), first)[1])
    first += grid[0] * grid[1]
  rows, following = spatial_positions(
    jnp.arange(LENGTH)[None],
    jnp.asarray(slots)[None],
    jnp.asarray(np.concatenate([*places[1:], places[0]])),
  )
  np.testing.assert_array_equal(found, np.asarray(rows)[0].T)
  assert found.max() + 1 == following[0, -1]
