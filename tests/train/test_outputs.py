"""What losses may ask of the model: entropy, values, masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.models import InternVL, logical_axes
from sophia_jax.models.logprobs import token_statistics
from sophia_jax.train import outputs, sharding
from sophia_jax.types import SophiaError
from tests.train import toy

BOTH = ("logps", "entropy")


# ------------------------------------------------------------------------ entropy
def operands(seed=0):
  keys = jax.random.split(jax.random.key(seed), 4)
  hidden = 2 * jax.random.normal(keys[0], (3, 16, 8))
  head = jax.random.normal(keys[1], (8, 50))
  targets = jax.random.randint(keys[2], (3, 16), 0, 50)
  asked = jax.random.uniform(keys[3], (3, 16)) < jnp.array([[0], [0.4], [1]])
  return hidden, head, jnp.where(asked, targets, -1)


def plainly(hidden, head, targets):
  """Both statistics of the whole [B, T, V]."""
  logps = jax.nn.log_softmax(hidden @ head)
  picked = jnp.take_along_axis(logps, targets[..., None], -1)[..., 0]
  entropy = -jnp.sum(jnp.exp(logps) * logps, axis=-1)
  return [jnp.where(targets < 0, 0.0, x) for x in (picked, entropy)]


@pytest.mark.parametrize("block", [1, 5, 64])
def test_entropy_and_its_gradient_equal_autodiff(block):
  hidden, head, targets = operands()
  weights = jnp.linspace(-1, 1, 48).reshape(3, 16)

  def total(statistics):
    def of(hidden, head):
      logps, entropy = found = statistics(hidden, head)
      return jnp.sum(weights * logps + weights**2 * entropy), found

    return jax.jit(jax.grad(of, (0, 1), has_aux=True))

  blocked = lambda h, k: token_statistics(h, k, targets, block, BOTH)
  whole = lambda h, k: plainly(h, k, targets)
  gradients, found = total(blocked)(hidden, head)
  wanted_gradients, wanted = total(whole)(hidden, head)
  for a, b in zip((*found, *gradients), (*wanted, *wanted_gradients)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert float(found[1].max()) > 1, "there is entropy to speak of"


def test_statistics_do_not_depend_on_their_company():
  hidden, head, targets = operands()
  both = token_statistics(hidden, head, targets, 5, BOTH)
  for name, found in zip(BOTH, both):
    (alone,) = token_statistics(hidden, head, targets, 5, (name,))
    np.testing.assert_array_equal(alone, found)


def test_entropy_never_holds_the_whole_vocabulary():
  hidden = jax.ShapeDtypeStruct((1, 2048, 8), jnp.float32)
  head = jax.ShapeDtypeStruct((8, 4096), jnp.float32)
  targets = jax.ShapeDtypeStruct((1, 2048), jnp.int32)

  def loss(hidden, head, targets):
    logps, entropy = token_statistics(hidden, head, targets, 64, BOTH)
    return jnp.sum(logps + entropy)

  step = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head, targets).compile()
  whole = 2048 * 4096 * 4
  assert step.memory_analysis().temp_size_in_bytes < whole / 4


# -------------------------------------------------------------------------- heads
@pytest.fixture(scope="module")
def micro():
  return jax.tree.map(lambda x: x[0], toy.batch([[[0, 1], [2]]], 32, 4))


@pytest.fixture(scope="module")
def with_value():
  mesh = toy.one_device()
  placed = sharding.place(toy.fresh_params(), logical_axes(toy.CFG), mesh)
  width = toy.CFG.decoder.width
  return placed, outputs.with_heads(placed, width, ("logps", "value"), mesh)


def say(params, batch, names):
  run = jax.jit(outputs.forward, static_argnums=(0, 3, 4))
  return run(InternVL(toy.CFG), params, batch, names, 16)


def test_a_new_value_head_says_zero_and_changes_no_policy(with_value, micro):
  params, headed = with_value
  out = say(headed, micro, ("logps", "value"))
  assert out.heads["value"].shape == (*micro.tokens.shape, 1)
  assert not out.heads["value"].any() and out.entropy is None
  np.testing.assert_array_equal(out.logps, say(params, micro, ("logps",)).logps)


def test_a_value_is_linear_in_the_hidden_states(with_value, micro):
  _, params = with_value
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=params["heads"]["value"]["kernel"].shape)
  head = {"kernel": jnp.float32(kernel), "bias": jnp.float32([0.5])}
  params = {**params, "heads": {"value": head}}
  out = say(params, micro, ("value",))
  hidden = outputs.hidden_states(InternVL(toy.CFG), params, micro)
  np.testing.assert_allclose(
    out.heads["value"], hidden @ head["kernel"] + 0.5, atol=1e-5
  )
  assert not out.logps.any(), "nobody asked for them"


def test_heads_that_are_there_stay(with_value):
  _, params = with_value
  mesh = toy.one_device()
  again = outputs.with_heads(params, 32, ("value",), mesh)
  assert again is params


def test_an_unknown_output_is_one_line():
  with pytest.raises(SophiaError, match=r"no output 'hedas'.*logps, entropy"):
    outputs.check(("logps", "hedas"))


def test_masked_targets_say_nothing(with_value, micro):
  params, _ = with_value
  asked = outputs.only(micro, outputs.nonzero(micro, ["weights"]))
  out = say(params, asked, BOTH)
  quiet = np.asarray(micro.streams["weights"]) == 0
  assert quiet.any() and not quiet.all()
  assert not out.logps[quiet].any() and not out.entropy[quiet].any()
  assert (out.logps[~quiet] < 0).all() and (out.entropy[~quiet] > 0).all()
  shown = dataclasses.replace(asked, targets=micro.targets)
  whole = say(params, shown, BOTH)
  np.testing.assert_allclose(out.logps[~quiet], whole.logps[~quiet], atol=1e-6)
