"""Truncation and drawing, against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.rollout import sampling
from sophia_jax.rollout.sampling import truncate

B, V = 3, 40
truncated = jax.jit(truncate)
draw = jax.jit(sampling.draw)


@st.composite
def cases(draw):
  """Logits of every kind: flat, peaked, with ties, with banned tokens."""
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  logits = rng.normal(size=(B, V)) * draw(st.sampled_from([0.1, 1, 5, 30]))
  if draw(st.booleans()):
    logits = np.round(logits)  # ties
  if draw(st.booleans()):
    logits[rng.random((B, V)) < 0.3] = -np.inf
    logits[:, 0] = 0.0
  top_p = draw(
    st.lists(
      st.sampled_from([1e-6, 0.3, 0.8, 0.99, 1.0]), min_size=B, max_size=B
    )
  )
  top_k = draw(
    st.lists(st.sampled_from([0, 1, 2, 7, V, 99]), min_size=B, max_size=B)
  )
  return logits.astype(np.float32), np.float32(top_p), np.int32(top_k)


def softmax(logits):
  weights = np.exp(np.float64(logits) - np.max(logits))
  return weights / weights.sum()


@given(cases())
def test_top_k_keeps_the_likeliest(case):
  logits, _, top_k = case
  out = np.asarray(truncated(logits, np.ones(B, np.float32), top_k))
  for row, kept, k in zip(logits, out, top_k):
    least = np.sort(row)[::-1][min(k or V, V) - 1]
    np.testing.assert_array_equal(kept, np.where(row >= least, row, -np.inf))


@given(cases())
def test_top_p_keeps_the_smallest_set_of_that_mass(case):
  logits, top_p, _ = case
  out = np.asarray(truncated(logits, top_p, np.zeros(B, np.int32)))
  for row, kept, p in zip(logits, out, top_p):
    stays = np.isfinite(kept)
    np.testing.assert_array_equal(kept[stays], row[stays])
    assert stays[row.argmax()]
    if p == 1:
      np.testing.assert_array_equal(kept, row)
      continue
    mass, least = softmax(row), row[stays].min()
    assert (row >= least).sum() == stays.sum(), "the likeliest, ties included"
    assert mass[stays].sum() >= p - 1e-5
    # Without the least likely of them it would not do.
    assert mass[row > least].sum() < p + 1e-5


@given(cases())
def test_top_k_comes_first_then_top_p(case):
  logits, top_p, top_k = case
  once = np.asarray(truncated(logits, top_p, top_k))
  ones, zeros = np.ones(B, np.float32), np.zeros(B, np.int32)
  first = truncated(logits, ones, top_k)
  # Ties at the border count to top_k's set in one order only.
  for row, kept, twice in zip(logits, once, truncated(first, top_p, zeros)):
    if len(np.unique(row)) == V:
      np.testing.assert_array_equal(kept, twice)
    assert np.isfinite(kept).sum() <= np.isfinite(row).sum()


@given(cases(), st.integers(0, 2**32))
def test_neither_rows_nor_the_order_of_tokens_matter(case, seed):
  logits, top_p, top_k = case
  out = np.asarray(truncated(logits, top_p, top_k))
  rng = np.random.default_rng(seed)
  rows, tokens = rng.permutation(B), rng.permutation(V)
  mixed = truncated(logits[rows][:, tokens], top_p[rows], top_k[rows])
  np.testing.assert_array_equal(mixed, out[rows][:, tokens])


# ------------------------------------------------------------------------- draws
LOGITS = np.float32([2.0, 1.0, 0.0, -1.0, 1.5, 3.0])
N = 40_000
ALL = np.ones(len(LOGITS), bool)


def frequencies(temperature=1.0, allowed=ALL, top=None, by_index=False):
  """How often each token is drawn by N keys, or N times by one key."""
  numbers = np.arange(N, dtype=np.uint32)
  fixed = np.zeros(N, np.uint32)
  keys, index = (fixed, numbers) if by_index else (numbers, fixed)
  tokens, logps = draw(
    np.broadcast_to(LOGITS, (N, len(LOGITS))),
    jnp.stack([fixed, keys], axis=1),
    index.astype(np.int32),
    np.full(N, temperature, np.float32),
    allowed,
    top and (np.full(N, top[0], np.float32), np.full(N, top[1], np.int32)),
  )
  np.testing.assert_allclose(
    logps, np.log(softmax(LOGITS))[np.asarray(tokens)], atol=1e-5
  )
  return np.bincount(tokens, minlength=len(LOGITS)) / N


def assert_drawn_from(found, want):
  error = np.sqrt(want * (1 - want) / N)
  np.testing.assert_array_less(np.abs(found - want), 4 * error + 1e-12)


@pytest.mark.parametrize("by_index", [False, True])
def test_tokens_are_drawn_from_the_softmax(by_index):
  assert_drawn_from(frequencies(by_index=by_index), softmax(LOGITS))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
  assert_drawn_from(frequencies(temperature), softmax(LOGITS / temperature))


def test_no_temperature_is_greedy_and_ties_go_to_the_lowest():
  assert frequencies(0.0)[5] == 1
  logits = np.float32([[0.0, 7.0, 7.0, 1.0]])
  tokens, _ = draw(
    logits,
    np.zeros((1, 2), np.uint32),
    np.zeros(1, np.int32),
    np.zeros(1, np.float32),
    np.ones(4, bool),
    None,
  )
  assert tokens.tolist() == [1]


def test_what_is_not_allowed_is_not_drawn():
  allowed = np.array([True, True, True, True, True, False])
  want = softmax(np.where(allowed, LOGITS, -np.inf))
  assert_drawn_from(frequencies(allowed=allowed), want)
  assert_drawn_from(frequencies(allowed=allowed, top=(1.0, 0)), want)


def test_truncated_draws_are_of_what_is_left():
  """The 2 likeliest; and of top_p 0.8 the three whose mass is 0.86."""
  want = softmax(np.where(LOGITS >= 2.0, LOGITS, -np.inf))
  assert_drawn_from(frequencies(top=(1.0, 2)), want)
  mass = softmax(LOGITS)
  assert mass[[5, 0]].sum() < 0.8 < mass[[5, 0, 4]].sum()
  want = softmax(np.where(LOGITS >= 1.5, LOGITS, -np.inf))
  assert_drawn_from(frequencies(top=(0.8, 0)), want)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_row_is_drawn_alike_in_any_company(seed, index):
  """Its key and number decide, not its place nor what is beside it."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(5, 7)).astype(np.float32)
  keys = rng.integers(0, 2**32, (5, 2), np.uint32)
  numbers = np.full(5, index % 2**31, np.int32)
  ones = np.ones(5, np.float32)
  allowed = np.ones(7, bool)
  tokens, logps = draw(logits, keys, numbers, ones, allowed, None)
  order = rng.permutation(5)
  again = draw(logits[order], keys[order], numbers, ones, allowed, None)
  np.testing.assert_array_equal(again[0], np.asarray(tokens)[order])
  np.testing.assert_array_equal(again[1], np.asarray(logps)[order])
