"""What ties the methods together, on packed ragged rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import (
  advantages,
  credit,
  losses,
  ratios,
  reductions,
  registry,
  segments,
)
from sophia_jax.algorithms.contract import Forward, Moment, Term
from sophia_jax.algorithms.mpo import running_shift
from tests.algorithms import rows

build = registry.build
rewards = st.lists(
  st.floats(-2, 2, allow_nan=False, width=16), min_size=2, max_size=9
).map(np.array)

GRPO = build("grpo", {"n": 4, "kl": 0.0})
BATCH = rows.ready(GRPO)
OLD = np.asarray(BATCH.streams["old_logps"])
NEAR = OLD + 0.1 * np.random.default_rng(3).normal(size=OLD.shape)
FAR = OLD + 0.5
POLICY = {
  "token": losses.surrogate(ratios.token, 0.2, 0.2),
  "one": losses.surrogate(ratios.one, 0.2, 0.2),
  "sequence": losses.surrogate(ratios.sequence, 0.2, 0.2),
  "not clipped": losses.weighted(ratios.token),
  "ratio 1": losses.weighted(ratios.one),
  "reinforce": losses.reinforce,
  "cispo": losses.capped(ratios.token, 4.0),
}


def gradient(loss, logps, batch=BATCH):
  return rows.by_logps((Term("policy", loss),), logps, batch)


# ------------------------------------------------------------------- advantages
@given(rewards)
def test_leave_one_out_is_the_centred_times_g_over_g_minus_1(r):
  n = len(r)
  want = [x - np.delete(r, i).mean() for i, x in enumerate(r)]
  np.testing.assert_allclose(advantages.leave_one_out(r), want, atol=1e-12)
  np.testing.assert_allclose(
    advantages.leave_one_out(r), n / (n - 1) * advantages.centred(r)
  )


@given(rewards)
def test_normalised_times_the_deviation_is_centred(r):
  scale = r.std(ddof=1) + advantages.EPSILON
  np.testing.assert_allclose(
    advantages.normalised(r) * scale, advantages.centred(r), atol=1e-12
  )


def test_a_group_of_one_keeps_its_reward():
  one = np.array([0.5])
  np.testing.assert_allclose(advantages.normalised(one), one, rtol=1e-5)
  np.testing.assert_array_equal(advantages.leave_one_out(one), one)
  np.testing.assert_array_equal(advantages.centred(one), 0)


# ------------------------------------------------------------- the first update
@pytest.mark.parametrize("name", POLICY)
def test_on_fresh_rollouts_every_policy_gradient_is_the_same(name):
  first = gradient(POLICY[name], OLD)
  np.testing.assert_allclose(first, gradient(POLICY["token"], OLD), atol=1e-6)
  assert np.abs(first).max() > 1e-3


def test_afterwards_they_differ():
  clipped = gradient(POLICY["token"], FAR)
  for name in ("not clipped", "sequence", "reinforce", "cispo"):
    where = NEAR if name == "sequence" else FAR
    other = gradient(POLICY[name], where)
    same = gradient(POLICY["token"], where)
    assert np.abs(other - same).max() > 1e-4, name
  # Beyond the bound there is no gradient where the advantage is positive.
  positive = np.asarray(BATCH.streams["advantages"]) > 0
  assert not clipped[positive].any()


def test_gspo_is_grpo_on_answers_of_one_token():
  short = [rows.group(i, [(1, r) for r in (1, 0, 0, 1)]) for i in range(3)]
  batch = rows.ready(GRPO, short)
  far = np.asarray(batch.streams["old_logps"]) + 0.3
  for logps in (far, far - 0.6):
    np.testing.assert_allclose(
      gradient(POLICY["sequence"], logps, batch),
      gradient(POLICY["token"], logps, batch),
      rtol=1e-5,
      atol=1e-7,
    )


def test_the_sequence_ratio_is_the_geometric_mean():
  found = np.asarray(ratios.sequence(jnp.asarray(NEAR), BATCH))
  for r, m in rows.segments_of(BATCH):
    want = np.exp((NEAR - OLD)[r][m].mean())
    np.testing.assert_allclose(found[r][m], want, rtol=1e-5)


def test_the_gradient_of_a_sequence_ratio_is_spread_evenly():
  """d s_i / d log pi_t = s_i / |y_i|: a token moves the loss by s A / n."""
  loss = losses.weighted(ratios.sequence)
  found = gradient(loss, NEAR)
  a = np.asarray(BATCH.streams["advantages"])
  count = np.asarray(BATCH.streams["count"]).sum()
  for r, m in rows.segments_of(BATCH):
    s = np.exp((NEAR - OLD)[r][m].mean())
    np.testing.assert_allclose(
      found[r][m], -s * a[r][m] / m.sum() / count, rtol=1e-4, atol=1e-8
    )


# ------------------------------------------------------------------- reductions
@pytest.mark.parametrize("other", ["sequence", "square"])
def test_equal_lengths_make_the_means_equal(other):
  equal = [rows.group(i, [(3, 1), (3, 0), (3, 0)]) for i in range(2)]
  found = [
    gradient(
      POLICY["token"],
      np.zeros((8, 28), np.float32) - 1.0,
      rows.ready(build("grpo", {"n": 3, "kl": 0.0, "reduction": key}), equal),
    )
    for key in ("token", other)
  ]
  np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-8)


def test_dr_grpo_divides_by_the_longest_and_by_the_sequences():
  batch = rows.ready(build("dr_grpo", {"n": 4, "longest": 30}))
  found = gradient(losses.weighted(ratios.one), OLD, batch)
  a, mask = (np.asarray(batch.streams[k]) for k in ("advantages", "mask"))
  np.testing.assert_allclose(found, -a * mask / 30 / 12, rtol=1e-5, atol=1e-9)


def test_a_group_without_variance_only_counts():
  """DAPO's filter: the gradient is the same but for the normaliser."""
  same = rows.group(9, [(4, 1), (2, 1), (5, 1), (3, 1)])
  both = (*rows.GROUPS, same)
  algorithm = build("dapo", {"n": 4, "buffer": 0})
  dropped = rows.ready(algorithm, both)
  kept = rows.ready(dataclasses.replace(algorithm, select=GRPO.select), both)
  policy = rows.MODELS["policy"]
  a, b = (rows.gradient(algorithm, policy, x) for x in (dropped, kept))
  tokens = [float(np.sum(x.streams["count"])) for x in (dropped, kept)]
  assert tokens[1] - tokens[0] == 14
  rows.close(a["logits"] * tokens[0], b["logits"] * tokens[1], atol=1e-5)


# --------------------------------------------------------------- PPO, REINFORCE
def test_ppo_without_a_critic_is_reinforce_with_the_reward_to_go():
  algorithm = build(
    "ppo", {"kl": 0.0, "whiten": False, "critic": "model", "value_clip": 1.0}
  )
  zero = {**rows.MODELS, "critic": {**rows.params(), "value": np.zeros(11)}}
  batch = rows.ready(algorithm, models=zero)
  mask = np.asarray(batch.streams["mask"])
  to_go = np.zeros_like(mask)
  for r, m in rows.segments_of(batch):
    to_go[r][m] = np.asarray(batch.streams["rewards"])[r][m].sum()
  np.testing.assert_allclose(batch.streams["advantages"], to_go, atol=1e-6)
  np.testing.assert_allclose(batch.streams["returns"], to_go, atol=1e-6)
  old = np.asarray(batch.streams["old_logps"])
  found = gradient(algorithm.terms[0].loss, old, batch)
  np.testing.assert_allclose(found, -to_go * mask / mask.sum(), atol=1e-7)


# --------------------------------------------------------- SFT, SOPHIA, RL-PLUS
def test_sophia_is_the_likelihood_of_what_it_selects():
  taught = rows.with_streams(BATCH, {"advantages": BATCH.streams["mask"]})
  np.testing.assert_allclose(
    gradient(losses.reinforce, NEAR, taught),
    gradient(losses.nll, NEAR, taught),
    atol=1e-7,
  )


def test_a_mixture_with_the_old_policy_is_the_on_policy_ratio():
  uniform = jnp.exp(OLD)
  np.testing.assert_allclose(
    ratios.mixture(uniform)(jnp.asarray(NEAR), BATCH),
    ratios.token(jnp.asarray(NEAR), BATCH),
    rtol=1e-5,
  )


def test_each_token_has_the_ratio_of_its_source():
  source = np.zeros_like(OLD)
  source[::2] = 1
  batch = rows.with_streams(BATCH, {"source": source})
  found = ratios.by_source(ratios.token, ratios.one)(jnp.asarray(NEAR), batch)
  np.testing.assert_array_equal(found[::2], 1)
  np.testing.assert_array_equal(
    found[1::2], ratios.token(jnp.asarray(NEAR), batch)[1::2]
  )


# -------------------------------------------------------------------- KL, clips
def test_kl_of_the_same_is_zero_and_its_slope_is_one_minus_the_ratio():
  batch = rows.with_streams(BATCH, {"view": NEAR - 1.0, "same": NEAR})
  out = Forward(logps=jnp.asarray(NEAR, jnp.float32))
  assert not np.abs(losses.kl_to("same")(out, batch)).max() > 1e-6
  found = rows.by_logps(
    (Term("kl", losses.kl_to("view"), weights="mask", normaliser="mask"),),
    np.float32(NEAR),
    batch,
  )
  mask = np.asarray(batch.streams["mask"])
  np.testing.assert_allclose(
    found * mask.sum(), (1 - np.exp(-1.0)) * mask, rtol=1e-4
  )


def test_estimators_of_the_kl_by_hand():
  batch = rows.with_streams(BATCH, {"ref": OLD + 0.5, "far": OLD + 1e3})
  out = Forward(logps=jnp.asarray(OLD))
  k2, k3 = (losses.kl_to("ref", k)(out, batch) for k in ("k2", "k3"))
  np.testing.assert_allclose(k2, np.full_like(OLD, 0.125), rtol=1e-4)
  want = np.full_like(OLD, np.exp(0.5) - 1.5)
  np.testing.assert_allclose(k3, want, rtol=1e-4)
  assert np.isfinite(losses.kl_to("far")(out, batch)).all()


@pytest.mark.parametrize(
  ("a", "rho", "want"),
  [
    (1.0, 1.1, -1.1),
    (1.0, 2.0, -1.28),  # clipped from above
    (1.0, 0.1, -0.1),
    (-1.0, 0.1, 0.8),  # clipped from below
    (-1.0, 2.0, 2.0),
    (-2.0, 9.0, 6.0),  # at most dual |A|
    (0.0, 5.0, 0.0),
  ],
)
def test_the_surrogate_by_hand(a, rho, want):
  streams = {"old_logps": OLD, "advantages": np.full_like(OLD, a)}
  batch = rows.with_streams(BATCH, streams)
  out = Forward(logps=jnp.asarray(OLD + np.log(rho)))
  loss = losses.surrogate(ratios.token, 0.2, 0.28, dual=3.0)(out, batch)
  np.testing.assert_allclose(loss, np.full_like(OLD, want), rtol=1e-4)


def test_cispo_keeps_the_gradient_of_a_capped_token():
  found = gradient(losses.capped(ratios.token, 0.2), FAR)
  s = {k: np.asarray(v) for k, v in BATCH.streams.items()}
  want = -1.2 * s["advantages"] * s["weights"] / s["count"].sum()
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-8)


# -------------------------------------------------------------------------- GAE
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.95, 0.9), (0.9, 0)])
def test_gae_is_a_loop_over_the_learnt_tokens_of_each_sequence(gamma, lam):
  rng = np.random.default_rng(0)
  ids = np.asarray(BATCH.segment_ids)
  mask = np.float32((ids > 0) & (rng.random(ids.shape) > 0.3))
  reward, value = np.float32(rng.normal(size=(2, *ids.shape)))
  reward *= mask
  found = advantages.gae(reward, value, mask, ids, gamma, lam)
  want = np.zeros_like(reward)
  for r, row in enumerate(ids):
    for i in set(row) - {0}:
      next_v = next_a = 0.0
      for t in np.flatnonzero((row == i) & (mask[r] > 0))[::-1]:
        delta = reward[r, t] + gamma * next_v - value[r, t]
        next_a = want[r, t] = delta + gamma * lam * next_a
        next_v = value[r, t]
  np.testing.assert_allclose(found, want, atol=1e-4)


def test_two_levels_of_gae_are_two_calls():
  """Turn ends as the mask, whole episodes as segments."""
  ids = np.array([[1, 1, 1, 1, 2, 2, 0]])
  ends = np.float32([[0, 1, 0, 1, 0, 1, 0]])
  reward, value = np.float32([[0, 1, 0, 2, 0, 3, 0]]), np.zeros((1, 7))
  found = advantages.gae(reward, jnp.float32(value), ends, ids, 0.5, 1.0)
  np.testing.assert_allclose(found, [[0, 2, 0, 2, 0, 3, 0]])


# --------------------------------------------------------------------- segments
lengths = st.lists(
  st.lists(st.integers(1, 4), max_size=4), min_size=3, max_size=3
)


@given(lengths, st.integers(0, 99))
def test_totals_and_means_are_of_each_segment_alone(spans, seed):
  ids = np.zeros((len(spans), 16), np.int32)
  for row, span in zip(ids, spans):
    row[: sum(span)] = np.repeat(np.arange(len(span)) + 1, span)
  rng = np.random.default_rng(seed)
  x, mask = rng.normal(size=ids.shape), rng.random(ids.shape) > 0.4
  total = np.asarray(jax.jit(segments.total)(jnp.float32(x), ids))
  mean = np.asarray(
    jax.jit(segments.mean)(jnp.float32(x), jnp.float32(mask), ids)
  )
  for r, row in enumerate(ids):
    for i in set(row):
      here, chosen = row == i, (row == i) & mask[r]
      np.testing.assert_allclose(total[r][here], x[r][here].sum(), atol=1e-5)
      want = x[r][chosen].mean() if chosen.any() else 0
      np.testing.assert_allclose(mean[r][here], want, atol=1e-5)


# ------------------------------------------------------------------ preferences
PAIRED = build("mpo", {"n": 4, "pairs": 3})
PAIRS = rows.ready(PAIRED, length=40)
REF = np.asarray(PAIRS.streams["ref_logps"])
SAID = np.asarray(rows.say(rows.MODELS["policy"], PAIRS).logps)


def per_pair():
  """(h of the chosen, h of the rejected, mean NLL of the chosen) by hand."""
  sign, ids = np.asarray(PAIRS.streams["sign"]), np.asarray(PAIRS.bundle_ids)
  for r, row in enumerate(ids):
    for i in sorted(set(row) - {0}):
      d = (SAID - REF)[r]
      chosen, rejected = ((row == i) & (sign[r] == s) for s in (1, -1))
      yield d[chosen].sum(), d[rejected].sum(), -SAID[r][chosen].mean()


def softplus(x):
  return np.log1p(np.exp(x))


def test_dpo_and_bco_are_those_of_each_pair():
  pairs = list(per_pair())
  assert len(pairs) == 9
  numbers = {"shift": 0.07, "shift_seen": 3.0}
  batch = rows.with_streams(
    PAIRS, {k: np.full_like(SAID, v) for k, v in numbers.items()}
  )
  out = Forward(logps=jnp.asarray(SAID))
  found = rows.means(PAIRED.terms, out, batch)
  b, shift = 0.1, 0.07
  want = {
    "preference": [softplus(-b * (c - r)) for c, r, _ in pairs],
    "quality": [
      softplus(-(b * c - shift)) + softplus(b * r - shift) for c, r, _ in pairs
    ],
    "generation": [nll for _, _, nll in pairs],
  }
  for name, values in want.items():
    np.testing.assert_allclose(found[name], np.mean(values), rtol=1e-5)
  seen = rows.means(PAIRED.metrics, out, batch)
  margins = [b * (c - r) for c, r, _ in pairs]
  np.testing.assert_allclose(
    seen["rewards/margins"], np.mean(margins), rtol=1e-4
  )
  np.testing.assert_allclose(
    seen["rewards/accuracies"], np.mean(np.array(margins) > 0), rtol=1e-5
  )
  for name, number in numbers.items():
    np.testing.assert_allclose(seen[name], number, rtol=1e-5)
  each = [b * h for c, r, _ in pairs for h in (c, r)]
  np.testing.assert_allclose(seen["implicit_reward"], np.mean(each), rtol=1e-4)


def test_the_corners_of_mpo_are_dpo_and_sft_on_the_chosen():
  weights = {"n": 4, "pairs": 3, "quality": 0.0}
  policy = rows.MODELS["policy"]
  alone = build("mpo", {**weights, "preference": 1.0, "generation": 0.0})
  dpo = build("dpo", {"n": 4, "pairs": 3})
  rows.close(*(rows.gradient(m, policy, PAIRS) for m in (alone, dpo)))
  taught = build("mpo", {**weights, "preference": 0.0})
  chosen = [
    dataclasses.replace(
      s, bundle="", streams=credit.reduced(s.roles, reductions.sequence)
    )
    for s in rows.learnt(dpo)
    if s.streams["sign"].max() > 0
  ]
  sft = build("sft", {"reduction": "sequence"})
  batch = rows.laid_out(chosen, sft.streams)
  rows.close(
    rows.gradient(taught, policy, PAIRS), rows.gradient(sft, policy, batch)
  )


def test_the_shift_is_the_mean_of_what_was_seen_before():
  seen, metrics = [0.4, -0.2, 0.7, 0.1], {}
  for step, reward in enumerate(seen):
    moment = Moment(step=9, metrics=metrics)
    shift = running_shift(moment)
    want = np.mean(seen[:step]) if step else 0.0
    np.testing.assert_allclose(shift, want, atol=1e-12)
    # An update reports what it was given.
    numbers = {k: f(moment) for k, f in PAIRED.numbers.items()}
    metrics = {**numbers, "implicit_reward": reward}
