"""Qwen2.5-VL's encoder: windows, sequences of tiles, meshes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.data.native import NOWHERE
from sophia_jax.models import QwenVisionConfig, kernels
from sophia_jax.models.qwen_vision import (
  attend_images,
  attend_windows,
  groups,
  window_order,
)
from tests.devices import host_devices


def places(*grids: tuple[int, int]) -> np.ndarray:
  """Of images one after another, and of two tiles that no image fills."""
  out = [
    (number, row, column, 0)
    for number, (rows, columns) in enumerate(grids)
    for row in range(rows)
    for column in range(columns)
  ]
  return np.int32([*out, NOWHERE, NOWHERE])


def test_windows_stand_side_by_side():
  at = places((5, 3), (2, 9))
  order = np.asarray(window_order(jnp.asarray(at), 4))
  assert sorted(order) == list(range(len(at)))
  windows = [tuple(x) for x in at[order, :3] // [1, 4, 4]]
  runs = [w for i, w in enumerate(windows) if i == 0 or windows[i - 1] != w]
  assert len(runs) == len(set(runs))
  # Inside a window row by row, as transformers orders them.
  first = [tuple(x[1:3]) for x in at[order] if x[0] == 0][:12]
  assert first == [(r, c) for r in range(4) for c in range(3)]


@pytest.mark.parametrize("of", ["windows", "images"])
def test_attention_is_the_masked_reference(of):
  at = jnp.asarray(places((5, 3), (2, 9), (1, 1)))
  at = at[window_order(at, 2)]
  keys = at[:, :3] // jnp.asarray([1, 2, 2]) if of == "windows" else at[:, :1]
  numbers = jnp.repeat(groups(keys), 4)
  q, k, v = jax.random.normal(jax.random.key(0), (3, len(numbers), 2, 8))
  if of == "windows":
    found = attend_windows(q, k, v, numbers, 16)
  else:
    found = attend_images(q, k, v, numbers)
  mask = numbers[:, None] == numbers
  wanted = kernels.dot_product(q[None], k[None], v[None], mask[None])[0]
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_heads_turn_by_quarters():
  with pytest.raises(ValueError, match="width 12 over 2 heads"):
    QwenVisionConfig(width=12, depth=1, heads=2, mlp=8)


def test_on_a_mesh_it_is_the_same():
  done = subprocess.run(
    [sys.executable, "-m", "tests.models.qwen_on_a_mesh"],
    capture_output=True,
    text=True,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": host_devices(4),
    },
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == ["the same"]
