"""Copies between memory orders are numpy's own, bit for bit."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.checkpoints import blocked

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


@settings(max_examples=30, deadline=None)
@given(
  st.integers(1, 700),
  st.integers(1, 150),
  st.sampled_from(DTYPES),
  st.sampled_from(DTYPES),
  st.booleans(),
)
def test_a_copy_is_numpys(rows, columns, source, target, turned):
  x = np.random.default_rng(0).normal(size=(rows, columns)).astype(source)
  x = x.T if turned else x
  room = np.zeros((x.shape[0] + 2, x.shape[1] + 2), target)
  blocked.copy(room[1:-1, 1:-1], x)
  want = np.pad(x.astype(target), 1)
  np.testing.assert_array_equal(blocked.bits(room), blocked.bits(want))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4), (0, 5)])
def test_other_ranks_are_copied_too(shape):
  x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  out = np.zeros(shape, np.float32)
  blocked.copy(out, x)
  np.testing.assert_array_equal(out, x)
