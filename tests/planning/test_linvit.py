"""Regularised backups against closed forms; a learner that finds the optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from sophia_jax.planning import backup, lake, linvit, priors, tabular
from sophia_jax.types import SophiaError

H = 12
LAKE = lake.tables()
OPTIMAL, _, BEST = tabular.solve(LAKE, H, priors.uniform(LAKE, H), 0.0)
START = int(LAKE.start)


def rows(draw_seed, states=3, actions=5):
  rng = np.random.default_rng(draw_seed)
  q = rng.uniform(0, 1, (states, actions))
  prior = rng.dirichlet(np.full(actions, 0.5), states)
  return jnp.float32(q), jnp.float32(prior)


# ------------------------------------------------------------------- the backup
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.floats(-2, 3))
def test_soft_value_is_the_log_of_the_mean_exponential(seed, exponent):
  q, prior = rows(seed)
  lam = 10.0**exponent
  value = np.asarray(backup.soft_value(q, prior, lam))
  with np.errstate(divide="ignore"):
    log = np.log(np.asarray(prior, np.float64))
  expected = lam * logsumexp(np.asarray(q, np.float64) / lam + log, axis=-1)
  np.testing.assert_allclose(value, expected, atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), lam=st.floats(0.02, 50))
def test_no_policy_is_worth_more_than_the_soft_one(seed, lam):
  q, prior = rows(seed)
  value = backup.soft_value(q, prior, lam)
  policy = backup.soft_policy(q, prior, lam)
  np.testing.assert_allclose(policy.sum(-1), 1, atol=1e-5)
  worth = lambda p: (p * q).sum(-1) - lam * backup.kl(p, prior)
  np.testing.assert_allclose(worth(policy), value, atol=2e-4 * max(1, lam))
  for other in (prior, rows(seed + 1)[1]):
    assert (worth(other) <= value + 2e-4 * max(1, lam)).all()


def test_lam_0_is_the_maximum_and_inf_the_prior():
  q, prior = rows(0)
  prior = prior.at[0, 2].set(0.0)
  prior = prior / prior.sum(-1, keepdims=True)
  hard = np.where(np.asarray(prior) > 0, np.asarray(q), -np.inf).max(-1)
  mean = (q * prior).sum(-1)
  np.testing.assert_array_equal(backup.soft_value(q, prior, 0.0), hard)
  np.testing.assert_array_equal(backup.soft_value(q, prior, jnp.inf), mean)
  np.testing.assert_array_equal(backup.soft_policy(q, prior, jnp.inf), prior)
  np.testing.assert_allclose(backup.soft_value(q, prior, 1e-4), hard, atol=2e-3)
  np.testing.assert_allclose(backup.soft_value(q, prior, 1e5), mean, atol=1e-5)
  greedy = backup.soft_policy(q, prior, 0.0)
  np.testing.assert_array_equal(greedy.max(-1), 1)
  np.testing.assert_array_equal((greedy * q).sum(-1), hard)


def test_an_action_the_prior_excludes_is_never_taken():
  q, prior = jnp.float32([[0.0, 9.0]]), jnp.float32([[1.0, 0.0]])
  for lam in (0.0, 0.1, 10.0, jnp.inf):
    assert backup.soft_policy(q, prior, lam)[0, 1] == 0
    assert backup.soft_value(q, prior, lam)[0] == 0


# ---------------------------------------------------------- value iteration, H
def test_limits_of_regularised_value_iteration():
  prior = priors.near_optimal(LAKE, H, 0.4)
  _, value, policy = tabular.solve(LAKE, H, prior, 1e-5)
  np.testing.assert_allclose(
    value[:, ~LAKE.terminal],
    tabular.evaluate(LAKE, BEST)[:, ~LAKE.terminal],
    atol=1e-3,
  )
  _, value, policy = tabular.solve(LAKE, H, prior, jnp.inf)
  np.testing.assert_allclose(policy, prior, atol=1e-6)
  np.testing.assert_allclose(
    value[0, START], tabular.evaluate(LAKE, prior)[0, START], atol=1e-6
  )


def test_a_uniform_prior_is_entropy_regularisation():
  """V = V_entropy - lam H log A where no episode ends early."""
  endless = LAKE._replace(terminal=jnp.zeros_like(LAKE.terminal))
  lam, value = 0.3, np.zeros(LAKE.states)
  for _ in range(H):  # sum of rewards and lam times the entropy
    later = np.asarray(value)[np.asarray(endless.successors)]
    q = (endless.probs * (endless.rewards + later)).sum(-1)
    value = lam * logsumexp(np.asarray(q) / lam, axis=-1)
  _, found, _ = tabular.solve(endless, H, priors.uniform(endless, H), lam)
  expected = value[START] - lam * H * np.log(LAKE.actions)
  np.testing.assert_allclose(found[0, START], expected, atol=1e-4)


def test_the_rule_for_lam_costs_half_of_epsilon_at_most():
  best = tabular.evaluate(LAKE, BEST)[0, START]
  for rho in (0.05, 0.4, 1.0):
    for make in (priors.near_optimal, priors.adversarial):
      prior = make(LAKE, H, rho)
      policy, divergence = tabular.nearest_optimal(LAKE, H, prior)
      assert tabular.evaluate(LAKE, policy)[0, START] >= best - 1e-3
      lam = tabular.suggested_lam(0.1, float(divergence))
      soft = tabular.solve(LAKE, H, prior, lam)[2]
      assert tabular.evaluate(LAKE, soft)[0, START] >= best - 0.05
  assert tabular.suggested_lam(0.1, 0.0) == float("inf")
  assert tabular.suggested_lam(0.1, float("inf")) == 0


def test_kl_of_a_path_is_counted_by_hand():
  """With a deterministic path, KL_H is the sum of -log p over its steps."""
  road = lake.tables(("SG",), success_rate=1.0)
  prior = jnp.float32(np.broadcast_to([0.1, 0.2, 0.3, 0.4], (3, 2, 4)))
  policy, divergence = tabular.nearest_optimal(road, 3, prior)
  # Waiting at the edge is as good while steps are left: right, up, down or left.
  later = -np.log(0.3)
  second = -np.log(0.3 + 0.7 * np.exp(-later))
  first = -np.log(0.3 + 0.7 * np.exp(-second))
  np.testing.assert_allclose(divergence, first, rtol=1e-5)
  np.testing.assert_allclose(
    tabular.path_kl(road, policy, prior), divergence, rtol=1e-5
  )
  np.testing.assert_allclose(policy[2, 0, 2], 1.0)
  assert tabular.path_kl(road, prior, prior) == 0


# -------------------------------------------------------------------- the lake
def test_the_lake_is_gymnasiums():
  gymnasium = pytest.importorskip("gymnasium")
  theirs = gymnasium.make(
    "FrozenLake-v1", success_rate=0.8, is_slippery=True
  ).unwrapped.P
  for state, actions in theirs.items():
    for action, found in actions.items():
      expected: dict = {}
      for p, to, reward, _ in found:
        expected[to, reward] = expected.get((to, reward), 0) + p
      ours: dict = {}
      for p, to, reward in zip(
        LAKE.probs[state, action].tolist(),
        LAKE.successors[state, action].tolist(),
        LAKE.rewards[state, action].tolist(),
      ):
        ours[to, reward] = ours.get((to, reward), 0) + p
      assert ours == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows", [(), ("SF", "F"), ("SX",), ("FG",), ("SS",)])
def test_a_map_that_is_none_is_refused(rows):
  with pytest.raises(SophiaError, match="one S"):
    lake.tables(rows)
  with pytest.raises(SophiaError, match="success_rate is 2"):
    lake.tables(success_rate=2)


# ------------------------------------------------------------------ the learner
def test_bounds_hold_the_truth_and_the_optimum_is_found():
  config = linvit.LinvitConfig(horizon=H, episodes=300)
  prior = priors.uniform(LAKE, H)
  policy, history = linvit.learn(config, LAKE, prior, 0.01, jax.random.key(0))
  best = float(tabular.evaluate(LAKE, BEST)[0, START])
  value = float(tabular.evaluate(LAKE, policy)[0, START])
  assert value >= best - 0.1
  assert history.value[0] < 0.2 and history.value[-1] >= best - 0.1
  assert (history.gap >= -1e-5).all() and history.gap[-1] < history.gap[0]


def test_values_are_the_truths_once_everything_is_counted():
  """With n -> inf both bounds meet in the regularised optimum."""
  config = linvit.LinvitConfig(horizon=H, episodes=10)
  prior = priors.near_optimal(LAKE, H, 0.5)
  for copies, each in ((1, False), (H, True)):
    counts = 1e9 * jnp.broadcast_to(LAKE.probs, (copies, *LAKE.probs.shape))
    c = linvit.LinvitConfig(horizon=H, episodes=10, per_step=each)
    plan = linvit.plan_on(c, LAKE, prior, 0.2, counts)
    q, _, _ = tabular.solve(LAKE, H, prior, 0.2)
    np.testing.assert_allclose(plan.upper, q, atol=1e-3)
    np.testing.assert_allclose(plan.lower, q, atol=1e-3)
  nothing = linvit.plan_on(config, LAKE, prior, 0.2, jnp.zeros_like(counts[:1]))
  np.testing.assert_array_equal(nothing.upper, 1.0)
  np.testing.assert_array_equal(nothing.lower, 0.0)


def test_a_good_prior_needs_no_samples():
  config = linvit.LinvitConfig(horizon=H, episodes=2)
  prior = priors.near_optimal(LAKE, H, 0.05)
  _, history = linvit.learn(config, LAKE, prior, 0.5, jax.random.key(1))
  best = float(OPTIMAL[0, START].max())
  assert history.value[0] >= best - 0.1


# ----------------------------------------------------------------------- priors
def test_a_models_likelihoods_become_a_prior_over_legal_actions():
  world = LAKE._replace(legal=LAKE.legal.at[1, 0].set(False))
  logps = np.zeros((16, 4))
  logps[0] = [-5.0, -1.0, -np.inf, np.nan]
  logps[2] = -np.inf
  prior = np.asarray(priors.from_logps(logps, world, floor=0.0))
  np.testing.assert_allclose(prior.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(prior[0, 1], 1 / (1 + np.exp(-4)), rtol=1e-5)
  assert prior[0, 2] == prior[0, 3] == prior[1, 0] == 0
  np.testing.assert_allclose(prior[2], 0.25)
  floored = priors.from_logps(logps, world, floor=0.1)
  assert (floored[0] > 0.02).all() and floored[1, 0] == 0
