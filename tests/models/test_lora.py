"""Adapters beside the parameters: the same function merged and not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from sophia_jax.models import InternVL, lora
from sophia_jax.models.lora import Lora
from sophia_jax.train.outputs import response_logps
from tests.train import toy

EVERYWHERE = Lora(
  rank=4,
  alpha=8.0,
  parts=("language", "projector", "vision"),
  targets=("attn", "mlp", "projector"),
)
LANGUAGE = dataclasses.replace(
  EVERYWHERE, parts=("language",), targets=("attn", "mlp")
)


def adapted(how, seed=0):
  """Parameters with adapters that are not zero."""
  rng = np.random.default_rng(seed)
  tree = jax.tree.map(
    lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype),
    lora.abstract(toy.CFG, how),
  )
  return lora.attach(toy.fresh_params(), tree, np.float32(how.scale))


@pytest.fixture(scope="module")
def logps():
  micro = jax.tree.map(lambda x: x[0], toy.batch(*toy.REFERENCE))
  scored = jax.jit(response_logps, static_argnums=(0, 3))
  return lambda params: scored(InternVL(toy.CFG), params, micro, 16)


def test_merged_weights_are_the_adapted_model(logps):
  params = adapted(EVERYWHERE)
  merged = lora.merge(params)
  assert merged.keys() == toy.fresh_params().keys()
  found = logps(params)
  np.testing.assert_allclose(found, logps(merged), rtol=0, atol=2e-5)
  assert np.abs(found - logps(lora.base(params))).max() > 0.1


def test_fresh_adapters_change_nothing(logps):
  tree = lora.init(toy.CFG, LANGUAGE, 0)
  params = lora.attach(toy.fresh_params(), tree, np.float32(2.0))
  np.testing.assert_array_equal(logps(params), logps(toy.fresh_params()))
  for path, x in flatten_dict(tree).items():
    inputs = x.shape[-2] if path[-1] == "a" else np.inf
    assert np.abs(x).max() <= inputs**-0.5
    assert path[-1] == "b" or np.abs(x).max() > 0.8 * inputs**-0.5


def test_only_what_was_asked_for_is_adapted():
  paths = lora.kernels(toy.CFG, LANGUAGE)
  names = {path.split("/")[-2] for path in paths}
  assert names == {"q", "k", "v", "o", "gate", "up", "down"}
  assert all(path.startswith("language/layers/") for path in paths)
  only = dataclasses.replace(LANGUAGE, targets=("q", "v"))
  names = {path.split("/")[-2] for path in lora.kernels(toy.CFG, only)}
  assert names == {"q", "v"}
  params = adapted(only)
  merged = flatten_dict(lora.merge(params), sep="/")
  for path, x in flatten_dict(toy.fresh_params(), sep="/").items():
    same = np.array_equal(merged[path], x)
    assert same == (path not in lora.kernels(toy.CFG, only)), path


def test_bfloat16_weights_are_rounded_once():
  params = adapted(LANGUAGE)
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), lora.base(params))
  whole = jax.tree.map(lambda x: np.asarray(x, np.float32), half)
  rest = {name: params[name] for name in (lora.PART, lora.SCALE)}
  kernel = lambda tree: tree["language"]["layers"]["attn"]["q"]["kernel"]
  got = kernel(lora.merge({**half, **rest}))
  want = kernel(lora.merge({**whole, **rest})).astype(jnp.bfloat16)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"targets": ("query",)}, "belongs to 'query'; known: attn, down, gate, k"),
    ({"parts": ("text",)}, "no linear map of text"),
    ({"parts": ("language", "projector")}, "no target is in 'projector'"),
  ],
)
def test_what_no_model_has_is_refused(change, said):
  with pytest.raises(ValueError, match=said):
    lora.kernels(toy.CFG, dataclasses.replace(LANGUAGE, **change))
