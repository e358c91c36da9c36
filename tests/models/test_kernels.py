"""Every implementation of attention is the same function."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.models import kernels

# Has no version for Python 3.11: `make test-latest` runs it.
TOKAMAX = importlib.util.find_spec("tokamax") is not None
OWN = pytest.mark.skipif(not TOKAMAX, reason="tokamax is not installed")

# Lengths of the segments of each row; the rest of a row is padding.
PACKED = {
  "one segment": [[2048]],
  "segments of every size": [[3, 700, 1, 512, 130, 600], [64] * 32],
  "one row looks further back than the other": [[2000], [128] * 16],
  "padding": [[5, 9], []],
}


def segments(lengths: list[list[int]], length: int) -> np.ndarray:
  rows = [np.repeat(np.arange(1, len(n) + 1), n) for n in lengths]
  return np.stack([np.pad(r, (0, length - len(r))) for r in rows])


def drawn(length, heads, kv_heads, width, rows, seed=0):
  """Draws q, k, v and a cotangent."""
  rng = np.random.default_rng(seed)
  return [
    jnp.asarray(rng.normal(size=(rows, length, n, width)), jnp.float32)
    for n in (heads, kv_heads, kv_heads, heads)
  ]


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(name, q, k, v, cotangent, ids):
  live = (ids > 0)[..., None, None]  # padding's output is never read

  def weighted(q, k, v):
    out = kernels.attend(name, q, k, v, ids)
    return jnp.sum(jnp.where(live, out * cotangent, 0)), out

  gradients, out = jax.grad(weighted, (0, 1, 2), has_aux=True)(q, k, v)
  return [jnp.where(live, out, 0), *gradients]


def assert_same(found, wanted, atol):
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("case", PACKED)
def test_blockwise_is_the_reference(case):
  ids = jnp.asarray(segments(PACKED[case], 2048))
  args = *drawn(2048, 2, 1, 8, len(ids)), ids
  assert_same(
    value_and_gradients("blockwise", *args),
    value_and_gradients("xla", *args),
    atol=2e-5,
  )


@pytest.mark.parametrize("length", [1, 17, 128, 300])
def test_blockwise_takes_any_length(length):
  ids = jnp.ones((2, length), jnp.int32)
  args = *drawn(length, 4, 2, 8, 2), ids
  assert_same(
    value_and_gradients("blockwise", *args),
    value_and_gradients("xla", *args),
    atol=1e-5,
  )


def test_blockwise_reads_no_key_it_need_not():
  """A NaN that causality or a segment's border excludes does no harm."""
  ids = jnp.asarray(segments([[1024, 1024]], 2048))
  q, k, v, _ = drawn(2048, 2, 1, 8, 1)
  broken = v.at[:, :512].set(jnp.nan)
  out = kernels.attend("blockwise", q, k, broken, ids)
  # Windows are halves: from place 1536 on none reaches back to 512.
  assert np.isfinite(out[:, 1536:]).all()
  assert np.isnan(out[:, :512]).any()


KERNELS = ["splash", "pallas", pytest.param("tokamax", marks=OWN)]


@pytest.mark.parametrize("name", KERNELS)
def test_a_platforms_kernel_is_the_reference(name):
  """Interpreted here: the same kernel, without its platform."""
  ids = jnp.asarray(segments([[100, 156], [60, 3, 193]], 256))
  args = *drawn(256, 4, 2, 64, 2), ids
  assert_same(
    value_and_gradients(name, *args),
    value_and_gradients("xla", *args),
    atol=2e-5,
  )


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_attends_to_all_of_a_tile_and_to_no_padding(name, monkeypatch):
  monkeypatch.setitem(kernels.BY_PLATFORM, "cpu", name)
  q, k, v, _ = drawn(65, 2, 2, 64, 3)  # 64 patches and [CLS]
  np.testing.assert_allclose(
    kernels.attend_all(q, k, v), kernels.dot_product(q, k, v), atol=2e-6
  )


@pytest.mark.parametrize(
  "name, shape, why",
  [
    ("splash", (100, 2, 1, 64), "100 tokens are no multiple of 128"),
    ("splash", (128, 2, 1, 24), "a head width of 24"),
    ("pallas", (128, 2, 1, 32), "a head width of 32"),
  ],
)
def test_an_unsupported_shape_falls_back_with_a_line(name, shape, why, caplog):
  ids = jnp.ones((1, shape[0]), jnp.int32)
  args = *drawn(*shape, 1), ids
  kernels._log_once.cache_clear()
  with caplog.at_level("INFO", logger="sophia_jax"):
    found = value_and_gradients(name, *args)
    kernels.attend(name, *args[:3], ids)
  assert_same(found, value_and_gradients("xla", *args), atol=0)
  assert len(caplog.records) == 1 and why in caplog.records[0].message


@pytest.mark.skipif(TOKAMAX, reason="tokamax is installed")
def test_splash_replaces_a_kernel_that_is_not_installed(caplog):
  ids = jnp.ones((1, 128), jnp.int32)
  args = *drawn(128, 2, 1, 64, 1), ids
  kernels._log_once.cache_clear()
  with caplog.at_level("INFO", logger="sophia_jax"):
    found = value_and_gradients("tokamax", *args)
  assert_same(found, value_and_gradients("splash", *args), atol=0)
  line = "splash instead of tokamax: it is not installed"
  assert [line in r.message for r in caplog.records] == [True]


def test_an_unknown_implementation_is_named():
  q, k, v, _ = drawn(8, 2, 1, 8, 1)
  with pytest.raises(ValueError, match="'flush': known: auto, xla, blockwise"):
    kernels.attend("flush", q, k, v, jnp.ones((1, 8), jnp.int32))
