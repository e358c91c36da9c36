"""The objective: several terms, coefficients, what is only reported."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sophia_jax.algorithms.contract import Algorithm, Moment, Term
from sophia_jax.models import InternVL, logical_axes
from sophia_jax.train import sharding
from sophia_jax.train.optimizer import OptimizerConfig, make_optimizer
from sophia_jax.train.state import create, layout
from sophia_jax.train.step import Scalars, Step, scalars
from sophia_jax.types import SophiaError
from tests.train import toy

BATCH = ([[[0, 1, 2], [3]], [[4, 5], [6, 7]]], 64, 8)


def entropy(out, batch):
  return -out.entropy


def shifted(out, batch):
  return batch.streams["shift"] - out.logps


def logp(out, batch):
  return out.logps


ALGORITHM = Algorithm(
  terms=(
    Term("policy", toy.policy_gradient),
    Term("entropy", entropy, lambda moment: 0.1 * moment.step),
  ),
  metrics=(Term("shifted", shifted),),
  maxima=(Term("best", logp),),
  numbers={"shift": lambda moment: 3.0 + moment.step},
  outputs=("logps", "entropy"),
)
WATCHED = Term("logp", logp), Term("shifted", shifted)
KEEP = optax.GradientTransformation(
  lambda params: jax.tree.map(jnp.zeros_like, params),
  lambda grads, state, params=None: (grads, grads),
)


class World:
  """Updates from the fresh parameters."""

  def __init__(self, algorithm, tx=KEEP, watched=()):
    fresh = toy.fresh_params()
    self.algorithm, self.mesh = algorithm, toy.one_device()
    with self.rules():
      params = sharding.place(fresh, logical_axes(toy.CFG), self.mesh)
      self.state = create(params, tx, ("language",))
      where = layout(self.state)
      self.step = Step(
        InternVL(toy.CFG), algorithm, tx, where, 16, watched=watched
      )

  @contextlib.contextmanager
  def rules(self):
    with jax.set_mesh(self.mesh), nn.logical_axis_rules(sharding.RULES):
      yield

  def update(self, moment, batch=BATCH, numbers=None):
    numbers = numbers or scalars(self.algorithm, moment)
    micro = sharding.microbatches(toy.batch(*batch), self.mesh)
    with self.rules():
      copy = jax.tree.map(jnp.copy, self.state)
      state, metrics, self.tokens = self.step(copy, micro, numbers)
    return state, {name: float(value) for name, value in metrics.items()}


@pytest.fixture(scope="module")
def world():
  return World(ALGORITHM, watched=WATCHED)


def gradient(found):
  return jax.device_get(found[0].opt_state)


def test_the_loss_is_the_weighted_sum_of_its_terms(world):
  _, m = world.update(Moment(step=5))
  assert m["loss"] == pytest.approx(m["policy"] + 0.5 * m["entropy"], abs=1e-6)
  assert m["entropy"] < -1


def test_gradients_add_up_by_the_coefficients(world):
  def at(**coefficients):
    numbers = Scalars(coefficients, {"shift": 0.0})
    return gradient(world.update(Moment(), numbers=numbers))

  one, other = at(policy=1.0, entropy=0.0), at(policy=0.0, entropy=1.0)
  both = at(policy=2.0, entropy=-0.5)
  jax.tree.map(
    lambda a, b, c: np.testing.assert_allclose(2 * a - 0.5 * b, c, atol=1e-6),
    one,
    other,
    both,
  )
  assert max(np.abs(x).max() for x in jax.tree.leaves(other)) > 1e-3


def test_a_schedule_never_recompiles(world):
  for step in range(3):
    world.update(Moment(step=step))
  assert world.step.accumulate._cache_size() == 1
  assert world.step.apply._cache_size() == 1


def test_reported_terms_are_not_learnt(world):
  alone = World(Algorithm(terms=ALGORITHM.terms, outputs=ALGORITHM.outputs))
  found, wanted = world.update(Moment(step=2)), alone.update(Moment(step=2))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
    gradient(found),
    gradient(wanted),
  )
  m = found[1]
  logps = m["shifted"] - 5.0  # the number is 3 + step
  assert 0 < logps < 100
  assert m["best"] < 0 and m["best"] > m["logp"]


def test_watched_terms_have_their_values_at_every_target(world):
  """The metric of the same term is their weighted mean."""
  _, m = world.update(Moment(step=1))
  made = toy.batch(*BATCH)
  assert len(world.tokens) == len(made.tokens) == 2
  shown = np.stack([micro["shifted"] for micro in world.tokens])
  weights, count = made.streams["weights"], made.streams["count"]
  assert m["shifted"] == pytest.approx(
    (weights * shown).sum() / count.sum(), rel=1e-5
  )
  logps = np.stack([micro["logp"] for micro in world.tokens])
  np.testing.assert_allclose(shown, 4.0 - logps, rtol=1e-6)
  learnt = weights != 0
  assert (logps[learnt] < 0).all() and (logps[~learnt] == 0).all()


def test_maxima_are_of_all_microbatches(world):
  _, both = world.update(Moment())
  _, first = world.update(Moment(), (BATCH[0][:1], 64, 8))
  _, second = world.update(Moment(), (BATCH[0][1:], 64, 8))
  assert both["best"] == pytest.approx(max(first["best"], second["best"]))
  assert first["best"] != second["best"]


def test_an_update_that_learns_nothing_moves_nothing():
  """Neither weight decay nor momentum does."""
  tx = make_optimizer(OptimizerConfig(learning_rate=1e-2), 10)
  world = World(toy.ALGORITHM, tx)
  world.state, _ = world.update(Moment())
  before = jax.device_get(world.state)
  empty = [[[], []]], 64, 8
  world.state, m = world.update(Moment(), empty)
  after = jax.device_get(world.state)
  assert m["tokens"] == 0 and m["loss"] == 0
  assert after.step == before.step + 1
  jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
  jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)


def test_an_output_that_no_model_has_is_one_line():
  with pytest.raises(SophiaError, match="no output 'hope'"):
    World(Algorithm(terms=toy.ALGORITHM.terms, outputs=("logps", "hope")))
