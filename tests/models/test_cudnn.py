"""cuDNN's attention where there is no GPU: what it is handed, and what with it.

Its two primitives are replaced by their contract in numpy, on flat memory, with
NaN wherever a kernel writes nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.models import cudnn, device_kernels, gpu_kernels, kernels
from tests.models import test_kernels as common


def spans(q, lengths, offsets, width):
  """Yields (segment, first token, tokens) of each segment, checking the layout."""
  places = lengths.size
  assert offsets.size == places + len(q)
  offsets, lengths = offsets.ravel(), lengths.ravel()
  assert (np.diff(offsets) >= 0).all()
  assert offsets[-1] == q.shape[0] * q.shape[1] * width
  for i, length in enumerate(lengths):
    assert offsets[i] % width == 0 and length >= 0
    if length:
      yield i, offsets[i] // width, length


def probabilities(q, k, scale):
  """q [L, N, H], k [L, N, H] -> causal probabilities and log-sum-exp, [N, L, L]."""
  scores = scale * np.einsum("tnh,snh->nts", q, k)
  scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
  total = np.logaddexp.reduce(scores, axis=-1)
  return np.exp(scores - total[..., None]), total


def forward(scale, q, k, v, lengths, q_offsets, kv_offsets):
  (b, t, n, h), m = q.shape, k.shape[2]
  out = np.full((b * t, n, h), np.nan, q.dtype)
  statistics = np.full((lengths.size, n, t), np.nan, np.float32)
  flat = [x.reshape(b * t, *x.shape[2:]).astype(np.float32) for x in (q, k, v)]
  keys = {i: (s, c) for i, s, c in spans(k, lengths, kv_offsets, m * h)}
  for i, first, count in spans(q, lengths, q_offsets, n * h):
    assert keys[i] == (first, count)  # of keys, in their own units
    one = slice(first, first + count)
    x, y, z = (np.repeat(a[one], n // a.shape[1], axis=1) for a in flat)
    p, statistics[i, :, :count] = probabilities(x, y, scale)
    out[one] = np.einsum("nts,snh->tnh", p, z)
  return out.reshape(q.shape), statistics


def grouped(gradient, m):
  """Sums over the query heads of a key head."""
  length, n, h = gradient.shape
  return gradient.reshape(length, m, n // m, h).sum(2)


def backward(scale, q, k, v, lengths, q_offsets, kv_offsets, stats, out, d_out):
  (b, t, n, h), m = q.shape, k.shape[2]
  flat = lambda x: x.reshape(b * t, *x.shape[2:]).astype(np.float32)
  found = [np.full_like(flat(x), np.nan) for x in (q, k, v)]
  for i, first, count in spans(q, lengths, q_offsets, n * h):
    one = slice(first, first + count)
    x, y, z = (
      np.repeat(flat(a)[one], n // a.shape[2], axis=1) for a in (q, k, v)
    )
    scores = scale * np.einsum("tnh,snh->nts", x, y)
    p = np.exp(scores - stats[i, :, :count, None]) * np.tri(count)
    cotangent = flat(d_out)[one]
    dp = np.einsum("tnh,snh->nts", cotangent, z)
    delta = np.einsum("tnh,tnh->nt", cotangent, flat(out)[one])
    ds = scale * p * (dp - delta[..., None])
    found[0][one] = np.einsum("nts,snh->tnh", ds, y)
    found[1][one] = grouped(np.einsum("nts,tnh->snh", ds, x), m)
    found[2][one] = grouped(np.einsum("nts,tnh->snh", p, cotangent), m)
  return tuple(
    g.reshape(x.shape).astype(x.dtype) for g, x in zip(found, (q, k, v))
  )


class Fused:
  """The primitives of jax's wrapper, by contract."""

  class MaskType:
    PADDING_CAUSAL, NO_MASK = "padding causal", "none"

  class AttentionLayout:
    class BTNH:
      value = 1

  def __init__(self):
    self.ran = []
    self._dot_product_attention_fwd_p = self
    self._dot_product_attention_bwd_p = self

  def _dot_product_attention_fwd_cuda_lowering(self, ctx, query): ...

  def bind(self, q, k, v, bias, lengths, same, *rest, scale, **settings):
    q_offsets, kv_offsets, *rest = rest
    assert settings["mask_type"] == "padding causal" and lengths is same
    training = settings.get("is_training")
    shapes = [q, k, v]
    run = backward
    if training is not None:
      statistics = (lengths.size, q.shape[2], q.shape[1])
      shapes = [q, jax.ShapeDtypeStruct(statistics, jnp.float32)]
      run, rest = forward, rest[:2]
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes]
    args = (q, k, v, lengths, q_offsets, kv_offsets, *rest[2:])

    def host(*args):
      self.ran.append("forward" if run is forward else "backward")
      return run(scale, *map(np.asarray, args))

    found = jax.pure_callback(host, tuple(shapes), *args)
    return found if training in (None, True) else found[:1]


@pytest.fixture
def fused(monkeypatch):
  """cuDNN by contract, in fp32, which the real one does not take."""
  wrapper = Fused()
  monkeypatch.setattr(cudnn, "_jax", lambda: wrapper)
  monkeypatch.setattr(cudnn, "obstacle", lambda *_, **__: "")
  monkeypatch.setattr(cudnn, "SEGMENTS", (3, 3))
  # Instead of Triton's, interpreted: compiled much faster.
  monkeypatch.setattr(gpu_kernels, "_triton", kernels.xla)
  return wrapper


PACKED = {
  "grouped heads, padding": [[100, 100], [60, 3]],
  "a whole row, and an empty one": [[256], []],
  "one row with many, one with few": [[50, 50, 50, 50, 56], [256]],
}


@pytest.mark.parametrize("case", PACKED)
def test_packed_rows_are_the_reference(case, fused):
  ids = jnp.asarray(common.segments(PACKED[case], 256))
  args = *common.drawn(256, 4, 2, 64, 2), ids
  common.assert_same(
    jax.block_until_ready(gradients("cudnn", *args)),
    common.value_and_gradients("xla", *args),
    atol=2e-5,
  )
  assert set(fused.ran) == {"forward", "backward"}


def test_a_batch_of_more_segments_is_computed_without_it(fused):
  ids = jnp.asarray(common.segments([[40] * 5, [30] * 6], 256))
  args = *common.drawn(256, 4, 2, 64, 2), ids
  common.assert_same(
    jax.block_until_ready(gradients("cudnn", *args)),
    common.value_and_gradients("xla", *args),
    atol=2e-5,
  )
  assert not fused.ran


def test_without_gradients_no_statistics_are_asked_for(fused):
  ids = jnp.asarray(common.segments([[128]], 128))
  q, k, v, _ = common.drawn(128, 4, 2, 64, 1)
  np.testing.assert_allclose(
    kernels.attend("cudnn", q, k, v, ids),
    kernels.attend("xla", q, k, v, ids),
    atol=2e-5,
  )
  assert fused.ran == ["forward"]


@pytest.mark.parametrize("remat, forwards", [("attention", 1), ("block", 2)])
def test_rematerialization_keeps_what_the_backward_pass_needs(
  remat, forwards, fused
):
  """By the name of the residuals, or the forward pass would run again."""
  from sophia_jax.models.decoder import REMAT_POLICIES

  ids = jnp.asarray(common.segments([[128]], 128))
  q, k, v, _ = common.drawn(128, 4, 2, 64, 1)
  attend = functools.partial(kernels.attend, "cudnn")
  kept = jax.checkpoint(attend, policy=REMAT_POLICIES[remat])
  loss = lambda q: jnp.sum(jnp.sin(kept(q, k, v, ids)))
  jax.block_until_ready(jax.jit(jax.grad(loss))(q))
  assert fused.ran == ["forward"] * forwards + ["backward"]


def gradients(name, q, k, v, cotangent, ids):
  """Traces again: a fixture is not part of a compiled program's key."""
  return common.value_and_gradients.__wrapped__(name, q, k, v, cotangent, ids)


lengths = st.lists(st.integers(1, 9), max_size=6).filter(lambda n: sum(n) <= 24)
stretches = jax.jit(cudnn.stretches, static_argnums=1)


@settings(max_examples=50)
@given(st.lists(lengths, min_size=3, max_size=3), st.sampled_from((6, 24)))
def test_stretches_are_the_segments(rows, most):
  ids = common.segments(rows, 24)
  found = jax.device_get(stretches(jnp.asarray(ids), most))
  wanted = [  # padding is a segment, too
    n for row in rows for n in [*row, 24 - sum(row)] if n
  ]
  assert found.found == len(wanted)
  if len(wanted) > most:
    return
  unused = most - len(wanted)
  np.testing.assert_array_equal(found.lengths, wanted + [0] * unused)
  starts = np.cumsum([0, *wanted])
  assert starts[-1] == ids.size
  np.testing.assert_array_equal(found.starts[: len(wanted)], starts[:-1])
  assert (found.starts[len(wanted) :] == ids.size).all()


@pytest.mark.parametrize(
  "dtype, width, packed, why",
  [
    (jnp.bfloat16, 128, True, ""),
    (jnp.float32, 128, True, "float32 is neither bfloat16 nor float16"),
    (jnp.bfloat16, 100, True, "a head width of 100"),
    (jnp.bfloat16, 256, True, "a head width of 256"),
  ],
)
def test_what_it_does_not_compute_is_named(
  dtype, width, packed, why, monkeypatch
):
  monkeypatch.setattr(cudnn, "version", lambda: 9_10_00)
  found = cudnn.obstacle(dtype, width, packed)
  assert found.startswith(why) and bool(found) == bool(why)


def test_packed_rows_need_hopper_and_tiles_do_not(monkeypatch):
  monkeypatch.setattr(cudnn, "version", lambda: 9_10_00)
  monkeypatch.setattr(cudnn, "capability", lambda: 8.0)
  assert "capability 9.0, not 8.0" in cudnn.obstacle(jnp.bfloat16, 64, True)
  assert not cudnn.obstacle(jnp.bfloat16, 64, False)


def test_an_old_cudnn_is_named(monkeypatch):
  monkeypatch.setattr(cudnn, "version", lambda: 9_05_00)
  assert "90500 is older than 90600" in cudnn.obstacle(jnp.bfloat16, 64, True)


def test_a_cpu_has_none_even_where_it_is_installed(monkeypatch):
  monkeypatch.setattr(cudnn._jax(), "check_cudnn_version", lambda: 9_10_00)
  assert cudnn.version() == 0
  monkeypatch.setattr(device_kernels, "platform", lambda: "gpu")
  assert cudnn.version() == 9_10_00


def test_where_there_is_none_a_cpu_uses_the_reference(caplog):
  ids = jnp.ones((1, 128), jnp.int32)
  q, k, v, _ = common.drawn(128, 2, 1, 64, 1)
  kernels._log_once.cache_clear()
  with caplog.at_level("INFO", logger="sophia_jax"):
    found = kernels.attend("cudnn", q, k, v, ids)
  np.testing.assert_array_equal(found, kernels.attend("xla", q, k, v, ids))
  assert ["xla instead of cudnn" in r.message for r in caplog.records] == [True]
