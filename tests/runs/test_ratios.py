"""The ratio of policy to reasoner, by hand."""

import numpy as np

from sophia_jax.runs import ratios


def test_a_policy_that_is_the_reasoner_has_ratio_one():
  mu = np.array([-0.5, -2.0])
  same = {"n": 2, "nats": 0.0, "median": 0.0}
  shares = {"near": 1.0, "effective": 1.0, "tokens_near": 1.0}
  assert ratios.summary([(mu, mu), (mu, mu)]) == {**same, **shares}


def test_ratios_by_hand():
  """pi/mu of the sequences are 1.05, 3 and 1, of the tokens 1.05, 3, 2 and 0.5."""
  logs = [np.log([1.05]), np.log([3.0]), np.log([2.0, 0.5])]
  found = ratios.summary([(x - 4.0, np.full(len(x), -4.0)) for x in logs])
  assert found["n"] == 3
  np.testing.assert_allclose(found["median"], np.log(1.05))
  np.testing.assert_allclose(found["nats"], np.log(3.15) / 3)
  np.testing.assert_allclose(found["near"], 2 / 3)
  np.testing.assert_allclose(found["tokens_near"], 1 / 4)
  weights = np.array([1.05, 3.0, 1.0])
  share = weights.sum() ** 2 / (3 * (weights**2).sum())
  np.testing.assert_allclose(found["effective"], share)


def test_vocabularies_that_cut_a_text_in_other_ways_compare_whole_texts():
  found = ratios.summary([(np.array([-1.0]), np.array([-0.5, -0.5]))])
  assert found["near"] == 1 and "tokens_near" not in found
  assert ratios.summary([]) == {"n": 0}
