"""Tests of paired differences: against scipy, against definitions, by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.evidence import paired

values = st.lists(st.integers(-50, 50), min_size=2, max_size=8)


@given(values)
def test_the_t_test_and_the_sign_flips_are_scipys(xs):
  found = paired.paired(xs)
  if len(set(xs)) == 1:
    assert found.mean == found.low == found.high == xs[0]
    return
  want = scipy.stats.ttest_1samp(xs, 0)
  assert found.t == pytest.approx(want.pvalue)
  low, high = want.confidence_interval(0.95)
  assert (found.low, found.high) == pytest.approx((low, high))
  sums = [sum(s * x for s, x in zip(signs, xs)) for signs in flips(len(xs))]
  share = np.mean([abs(s) >= abs(sum(xs)) for s in sums])
  assert found.flips == pytest.approx(share)


def flips(n):
  return itertools.product((1, -1), repeat=n)


def test_five_seeds_cannot_reach_five_per_cent():
  """The smallest p of an exact two-sided test is 2 / 2^n."""
  assert paired.sign_flips([3.0] * 5) == 2 / 32
  assert paired.sign_flips([3.0] * 6) == 2 / 64
  with pytest.raises(ValueError, match="21"):
    paired.sign_flips([1.0] * 21)


def test_one_seed_shows_nothing():
  found = paired.paired([0.2])
  assert found == (0.2, -math.inf, math.inf, 1.0, 1.0)
  assert paired.equivalent([0.0], 1.0) == 1.0
  assert paired.ordered([[3, 2, 1]]) == 1.0


@given(values, st.integers(1, 40))
def test_equivalence_is_two_one_sided_tests(xs, margin):
  if len(set(xs)) == 1:
    assert paired.equivalent(xs, margin) == (abs(xs[0]) >= margin)
    return
  above = scipy.stats.ttest_1samp(xs, -margin, alternative="greater").pvalue
  below = scipy.stats.ttest_1samp(xs, margin, alternative="less").pvalue
  assert paired.equivalent(xs, margin) == pytest.approx(max(above, below))


def test_pages_test_finds_an_order_and_only_that_order():
  falling = [[9, 6, 3, 0], [8, 7, 3, 1], [9, 5, 4, 2], [7, 6, 5, 0]]
  assert paired.ordered(falling) < 0.001
  assert paired.ordered([row[::-1] for row in falling]) > 0.99
  assert paired.ordered([[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]]) > 0.2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_monotone_and_between_p_and_bonferroni(ps):
  adjusted = paired.holm(ps)
  for p, held in zip(ps, adjusted):
    assert p <= held <= min(1.0, len(ps) * p) or held == pytest.approx(
      max(p, max(adjusted[i] for i in range(len(ps)) if ps[i] <= p))
    )
  order = sorted(range(len(ps)), key=ps.__getitem__)
  assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_by_hand():
  assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
