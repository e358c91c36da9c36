"""Losses and reductions, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.algorithms.legacy import sft, sophia
from sophia_jax.algorithms.legacy.losses import cross_entropy, policy_gradient
from sophia_jax.algorithms.legacy.streams import REDUCTIONS, streams
from sophia_jax.types import Role

LOGPS = jnp.log(jnp.float32([[0.5, 0.25, 0.125], [0.5, 1.0, 0.25]]))
LN2 = np.log(2.0)


def test_policy_gradient_is_minus_reward_times_logp():
  advantages = jnp.float32([[1, 1, 0], [-0.5, 2, 2]])
  loss = policy_gradient(LOGPS, {"advantages": advantages})
  want = [[LN2, 2 * LN2, 0], [-0.5 * LN2, 0, 4 * LN2]]
  np.testing.assert_allclose(loss, want, rtol=1e-6, atol=1e-7)


def test_the_gradient_of_policy_gradient():
  """p = (1/4, 3/4), token 0, A = 2: -2 ln 1/4, and -2 ((1, 0) - p)."""

  def loss(logits, advantage):
    logps = jax.nn.log_softmax(logits)[..., 0]
    return policy_gradient(logps, {"advantages": advantage}).sum()

  logits = jnp.float32([[[0.0, np.log(3.0)]]])
  value, gradient = jax.value_and_grad(loss)(logits, jnp.float32([[2.0]]))
  np.testing.assert_allclose(value, 4 * LN2, rtol=1e-6)
  np.testing.assert_allclose(gradient, [[[-1.5, 1.5]]], rtol=1e-6)
  # No reward, no gradient; a penalty pushes the other way.
  np.testing.assert_array_equal(jax.grad(loss)(logits, jnp.zeros((1, 1))), 0)
  down = jax.grad(loss)(logits, jnp.float32([[-1.0]]))
  np.testing.assert_allclose(down, [[[0.75, -0.75]]], rtol=1e-6)


def test_cross_entropy_is_minus_logp_whatever_the_streams():
  loss = cross_entropy(LOGPS, {"advantages": jnp.zeros_like(LOGPS)})
  want = [[LN2, 2 * LN2, 3 * LN2], [LN2, 0, 2 * LN2]]
  np.testing.assert_allclose(loss, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("algorithm", [sophia, sft])
def test_an_algorithm_declares_the_streams_its_terms_read(algorithm):
  roles = np.array([Role.PROMPT, Role.RESPONSE], np.int8)
  assert set(algorithm.STREAMS) <= set(streams(roles, 1.0, "token"))
  given = {name: jnp.ones((1, 2)) for name in algorithm.STREAMS}
  for term in algorithm.TERMS:
    assert {term.weights, term.normaliser} <= set(algorithm.STREAMS)
    assert term.loss(jnp.zeros((1, 2)), given).shape == (1, 2)


# --------------------------------------------------------------------- reductions
ROLES = [
  np.array([Role.PROMPT, Role.IMAGE, Role.RESPONSE], np.int8),
  np.array([Role.PROMPT, *[Role.RESPONSE] * 4], np.int8),
]


def test_streams_are_zero_outside_of_the_response():
  for reduction in REDUCTIONS:
    for name, stream in streams(ROLES[0], 0.5, reduction).items():
      assert stream.dtype == np.float32
      assert stream[:2].tolist() == [0, 0] and stream[2] != 0, name
  assert streams(ROLES[0], 0.5, "token")["advantages"].tolist() == [0, 0, 0.5]


@pytest.mark.parametrize(
  ("reduction", "want"),
  [
    # Losses: 3 in the one, 1 and 1 and 1 and 5 in the other.
    ("sum", (3 + 8) / 2),  # Eq. 7: a sum over tokens, a mean over sequences
    ("token", (3 + 8) / 5),
    ("sequence", (3 + 2) / 2),
    ("square", (3 / 1 + 8 / 2) / (1 + 2)),  # n ** 0.5 each
  ],
)
def test_reductions_of_two_responses_of_1_and_4_tokens(reduction, want):
  losses = [np.array([0, 0, 3.0]), np.array([0, 1.0, 1.0, 1.0, 5.0])]
  made = [streams(roles, 1.0, reduction) for roles in ROLES]
  total = sum((s["weights"] * loss).sum() for s, loss in zip(made, losses))
  count = sum(s["count"].sum() for s in made)
  assert total / count == pytest.approx(want)


def test_a_sequence_without_a_response_counts_for_nothing():
  roles = np.zeros(3, np.int8)
  for reduction in REDUCTIONS:
    for stream in streams(roles, 1.0, reduction).values():
      assert stream.tolist() == [0, 0, 0]
