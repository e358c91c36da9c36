from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from sophia_jax.models import (
  SIZES,
  InternVL,
  KVCache,
  abstract_params,
  init_caches,
  init_params,
  kernels,
  logical_axes,
  token_logps,
)
from sophia_jax.models.layers import PARAM_AXES
from tests.checkpoints.toy import CFG


@pytest.fixture(scope="module")
def params():
  return init_params(CFG, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def hidden_states(cfg, params, tokens, segments, positions, slots, tiles):
  model, variables = InternVL(cfg), {"params": params}
  embeds = model.apply(variables, tiles, method="encode")
  return model.apply(variables, tokens, segments, positions, slots, embeds)


def rows(batch: int, length: int, seed: int = 0):
  """Whole-row sequences with one tile at column 1 of the first row."""
  rng = np.random.RandomState(seed)
  tokens = rng.randint(0, 90, (batch, length)).astype(np.int32)
  positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
  slots = np.full_like(tokens, -1)
  slots[0, 1 : 1 + CFG.tokens_per_tile] = np.arange(CFG.tokens_per_tile)
  tiles = rng.randint(0, 256, (1, 56, 56, 3)).astype(np.uint8)
  return tokens, np.ones_like(tokens), positions, slots, tiles


@pytest.mark.parametrize("size", ["internvl2_5_26b", "internvl3_8b"])
def test_every_parameter_has_known_axes(size):
  axes = flatten_dict(logical_axes(SIZES[size]))
  for path, leaf in flatten_dict(abstract_params(SIZES[size])).items():
    assert len(axes[path]) == leaf.ndim, path
    assert set(axes[path]) <= {None, *PARAM_AXES}, path
    # Matrices of a layer are 2-D and shard; vectors may stay whole.
    assert ("layers" in path) == ("layers" in axes[path]), path
    if path[-1] in ("kernel", "embedding", "head"):
      assert leaf.ndim == 2 + ("layers" in path)
      assert set(axes[path]) - {None, "layers"}, path


def test_prefill_and_decode_equal_the_full_pass(params):
  tokens, segments, positions, slots, tiles = rows(3, 20)
  want = hidden_states(CFG, params, tokens, segments, positions, slots, tiles)
  model, variables = InternVL(CFG), {"params": params}
  embeds = model.apply(variables, tiles, method="encode")
  lengths = np.array([12, 7, 9], np.int32)
  padded = np.where(positions[:, :12] < lengths[:, None], tokens[:, :12], 0)
  hidden, prompt = model.apply(
    variables, padded, lengths, slots[:, :12], embeds, method="prefill"
  )
  for b, n in enumerate(lengths):
    np.testing.assert_allclose(hidden[b, :n], want[b, :n], atol=1e-5)
  caches = tuple(
    KVCache(
      k=full.k.at[..., :12].set(part.k), v=full.v.at[:, :, :12].set(part.v)
    )
    for full, part in zip(init_caches(CFG, 3, 20), prompt)
  )
  step = jax.jit(functools.partial(model.apply, method="decode"))
  for i in range(8):
    at = lengths + i
    hidden, caches = step(variables, tokens[np.arange(3), at], at, caches)
    np.testing.assert_allclose(hidden, want[np.arange(3), at], atol=1e-5)


def test_decoding_past_the_capacity_leaves_the_cache(params):
  caches = init_caches(CFG, 2, 4)
  model = InternVL(CFG)
  at = np.array([4, 1], np.int32)
  _, new = model.apply({"params": params}, at, at, caches, method="decode")
  for cache in new:
    k, v = np.asarray(cache.k).swapaxes(2, 3), np.asarray(cache.v)
    for x in (k, v):
      assert not x[0].any()
      assert x[1, :, 1].any()
      assert not x[1, :, [0, 2, 3]].any()


def test_packing_and_padding_change_nothing(params):
  tokens, segments, positions, slots, tiles = rows(2, 20)
  want = hidden_states(CFG, params, tokens, segments, positions, slots, tiles)
  # Row 1 then row 0 in one row of 48 with 8 columns of padding.
  swapped = [1, 0]

  def pack(x, fill):
    flat = np.full((1, 48), fill, np.int32)
    flat[0, :40] = x[swapped].reshape(-1)
    return flat

  ids = np.array([[1], [2]])[np.argsort(swapped)] * segments
  got = hidden_states(
    CFG,
    params,
    pack(tokens, 5),
    pack(ids, 0),
    pack(positions, 0),
    pack(slots, -1),
    tiles,
  )
  assert np.isfinite(got).all()
  np.testing.assert_allclose(got[0, :20], want[1], atol=1e-5)
  np.testing.assert_allclose(got[0, 20:40], want[0], atol=1e-5)


@pytest.mark.parametrize(
  "change",
  [
    {"remat": "dots"},
    {"remat": "up"},
    {"remat": "attention"},
    {"remat": "block"},
    {"scan_unroll": 8},
  ],
)
def test_remat_and_unroll_change_no_gradient(params, change):
  tokens, segments, positions, *_ = rows(2, 12)

  @functools.partial(jax.jit, static_argnums=1)
  @jax.grad
  def gradients(params, cfg):
    model = InternVL(dataclasses.replace(cfg, vision=None))
    hidden = model.apply({"params": params}, tokens, segments, positions)
    return jnp.sum(hidden * jnp.sin(jnp.arange(32)))

  params = {"language": params["language"]}
  want = gradients(params, CFG)
  got = gradients(params, dataclasses.replace(CFG, **change))
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("block", [1, 5, 16, 64])
def test_blocked_logps_equal_full(block):
  keys = jax.random.split(jax.random.key(0), 3)
  hidden = jax.random.normal(keys[0], (3, 16, 8))
  head = jax.random.normal(keys[1], (8, 50))
  targets = jax.random.randint(keys[2], (3, 16), 0, 50)
  weights = jnp.linspace(-1, 1, 48).reshape(3, 16)

  def full(hidden, head):
    logps = jax.nn.log_softmax(hidden @ head)
    picked = jnp.take_along_axis(logps, targets[..., None], -1)[..., 0]
    return jnp.sum(weights * picked), picked

  def blocked(hidden, head):
    picked = token_logps(hidden, head, targets, block)
    return jnp.sum(weights * picked), picked

  want, want_logps = jax.grad(full, (0, 1), has_aux=True)(hidden, head)
  got, got_logps = jax.jit(jax.grad(blocked, (0, 1), has_aux=True))(
    hidden, head
  )
  np.testing.assert_allclose(got_logps, want_logps, atol=1e-5)
  for a, b in zip(want, got, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("block", [5, 8, 64])
def test_tokens_without_a_target(block):
  """A target -1 has no value and no gradient, and leaves the others unchanged."""
  keys = jax.random.split(jax.random.key(0), 4)
  hidden = jax.random.normal(keys[0], (3, 16, 8))
  head = jax.random.normal(keys[1], (8, 50))
  targets = jax.random.randint(keys[2], (3, 16), 0, 50)
  asked = jax.random.uniform(keys[3], (3, 16)) < jnp.array([[0], [0.3], [0.6]])
  weights = jnp.linspace(-1, 1, 48).reshape(3, 16)

  def weighed(hidden, head, targets, weights):
    logps = token_logps(hidden, head, targets, block)
    return jnp.sum(weights * logps), logps

  grad = jax.jit(jax.grad(weighed, (0, 1), has_aux=True))
  want, logps = grad(hidden, head, targets, weights * asked)
  got, found = grad(hidden, head, jnp.where(asked, targets, -1), weights)
  np.testing.assert_allclose(found, jnp.where(asked, logps, 0), atol=1e-6)
  for a, b in zip(want, got, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert (found[~asked] == 0).all() and (got[0][~asked] == 0).all()


def test_blocks_without_targets_are_left_out():
  """They are not computed: a NaN in them does no harm."""
  asked = jnp.arange(16) % 2 == jnp.array([[0], [1]])
  hidden = jnp.where(asked[..., None], 1.0, jnp.nan) * jnp.ones((2, 16, 8))
  targets = jnp.where(asked, 3, -1)

  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def grad(hidden, head):
    logps = token_logps(hidden, head, targets, 4)
    return jnp.sum(logps), logps

  gradients, logps = grad(hidden, jnp.eye(8, 50))
  for x in (*gradients, logps):
    assert jnp.isfinite(x).all()
  assert (logps[asked] < -1).all()


def test_logps_never_hold_the_whole_vocabulary():
  hidden = jax.ShapeDtypeStruct((1, 2048, 8), jnp.float32)
  head = jax.ShapeDtypeStruct((8, 4096), jnp.float32)
  targets = jax.ShapeDtypeStruct((1, 2048), jnp.int32)

  def loss(hidden, head, targets):
    return token_logps(hidden, head, targets, 64).sum()

  step = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head, targets).compile()
  whole = 2048 * 4096 * 4
  assert step.memory_analysis().temp_size_in_bytes < whole / 4


def test_tied_head_is_the_embedding():
  decoder = dataclasses.replace(CFG.decoder, tied_head=True)
  cfg = dataclasses.replace(CFG, vision=None, decoder=decoder)
  params = init_params(cfg, jax.random.key(1))
  assert set(params) == {"language"} and "head" not in params["language"]
  hidden = np.ones((1, 2, 32), np.float32)
  logits = InternVL(cfg).apply({"params": params}, hidden, method="logits")
  want = hidden @ np.asarray(params["language"]["embedding"]).T
  np.testing.assert_allclose(logits, want, atol=1e-5)


def test_bfloat16_keeps_fp32_logits_and_half_caches(params):
  cfg = dataclasses.replace(CFG, dtype="bfloat16")
  batch = rows(2, 12)
  hidden = hidden_states(cfg, params, *batch)
  assert hidden.dtype == jnp.bfloat16
  model = InternVL(cfg)
  logits = model.apply({"params": params}, hidden, method="logits")
  assert logits.dtype == jnp.float32
  want = hidden_states(CFG, params, *batch)
  assert np.abs(hidden.astype(jnp.float32) - want).mean() < 0.03
  caches = init_caches(cfg, 2, 5)
  assert [c.k.shape for c in caches] == [(2, 2, 8, 5)] * 2
  assert [c.v.shape for c in caches] == [(2, 2, 5, 8)] * 2
  assert {x.dtype for x in jax.tree.leaves(caches)} == {jnp.bfloat16.dtype}


def test_attention_never_repeats_the_kv_heads():
  q = jax.ShapeDtypeStruct((2, 16, 8, 4), jnp.float32)
  kv = jax.ShapeDtypeStruct((2, 16, 2, 4), jnp.float32)
  ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
  jaxpr = jax.make_jaxpr(kernels.xla)(q, kv, kv, ids)
  repeated = (2, 16, 8, 4)
  made = [v.aval.shape for e in jaxpr.jaxpr.eqns for v in e.outvars]
  assert made.count(repeated) == 1  # the result


@pytest.mark.parametrize(
  "change, message",
  [
    ({"pixel_shuffle": "v3"}, "pixel_shuffle"),
    ({"remat": "all"}, "remat"),
    ({"downsample": 1 / 3}, "shuffle"),
  ],
)
def test_impossible_configs_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CFG, **change)
