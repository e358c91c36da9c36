import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.evals.stats import (
  bootstrap,
  mcnemar,
  paired_bootstrap,
  pass_at_1,
  pass_at_k,
  wilson,
)


def test_wilson_by_hand():
  # p = 1/2, n = 4, z = 2: centre = (0.5 + 0.5) / 2 = 1/2,
  # half = 2/2 * sqrt(0.25/4 + 4/64) = sqrt(1/8)
  low, high = wilson(2, 4, z=2.0)
  assert low == pytest.approx(0.5 - math.sqrt(1 / 8), abs=1e-15)
  assert high == pytest.approx(0.5 + math.sqrt(1 / 8), abs=1e-15)
  # Newcombe 1998 (Statist. Med. 17, 857), Table I, method 3.
  for successes, n, interval in (
    (81, 263, (0.2553, 0.3662)),
    (15, 148, (0.0624, 0.1605)),
    (0, 20, (0.0, 0.1611)),
    (1, 29, (0.0061, 0.1718)),
  ):
    assert wilson(successes, n, z=1.959964) == pytest.approx(interval, abs=5e-5)


def test_wilson_at_its_ends():
  assert wilson(0, 0) == (0.0, 1.0)
  assert wilson(0, 9)[0] == 0.0 and wilson(9, 9)[1] == 1.0
  with pytest.raises(ValueError, match="5 successes of 4"):
    wilson(5, 4)


@given(
  st.integers(1, 10**6).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
  )
)
def test_wilson_holds_the_proportion(pair):
  successes, n = pair
  low, high = wilson(successes, n)
  assert 0 <= low <= successes / n <= high <= 1


def test_pass_at_1():
  assert pass_at_1([]) == 0.0
  assert pass_at_1([[True, False], [True], [False] * 4]) == pytest.approx(0.5)


@given(
  st.integers(1, 8).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(1, n))
  )
)
def test_pass_at_k_counts_the_draws_that_hold_a_right_one(case):
  c, n, k = case
  draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
  expected = sum(any(d) for d in draws) / len(draws)
  assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand_and_large():
  assert pass_at_k(3, 1, 2) == pytest.approx(2 / 3)
  assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)
  with pytest.raises(ValueError, match="pass@3 of n=2"):
    pass_at_k(2, 1, 3)


def test_mcnemar_by_hand():
  before = [True] * 5 + [False] * 5 + [True, False]
  after = [True] * 4 + [False] * 1 + [True] * 5 + [True, False]
  # b = 5 gained, c = 1 lost: 2 (C(6,0) + C(6,1)) / 64 = 14 / 64
  assert mcnemar(before, after) == (5, 1, 14 / 64)
  assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)
  assert mcnemar([True, False], [False, True]) == (1, 1, 1.0)
  with pytest.raises(ValueError, match="2 answers before, 1 after"):
    mcnemar([True, False], [True])


def test_mcnemar_of_many():
  gained, lost, p = mcnemar([False] * 5000, [True] * 5000)
  assert (gained, lost) == (5000, 0) and 0 <= p < 1e-300


def test_bootstrap_of_independent_answers_is_near_wilson():
  right = [1.0] * 120 + [0.0] * 280
  low, high = bootstrap(right, [1] * 400)
  assert (low, high) == pytest.approx(wilson(120, 400), abs=0.01)
  assert bootstrap(right, [1] * 400) == (low, high)  # no hidden state


def test_bootstrap_draws_whole_units():
  """Ten equal answers to a question carry no more information than one."""
  once = [1.0] * 12 + [0.0] * 28
  low, high = bootstrap(once, [1] * 40)
  tenfold = bootstrap([10 * value for value in once], [10] * 40)
  assert tenfold == pytest.approx((low, high), abs=1e-12)
  # Units of different sizes: the ratio of sums, not the mean of means.
  low, high = bootstrap([9.0, 0.0], [9, 1])
  assert low == 0.0 and high == 1.0


def test_bootstrap_at_its_ends():
  assert bootstrap([], []) == (0.0, 1.0)
  assert bootstrap([1.0, 1.0], [1, 1]) == (1.0, 1.0)


def test_paired_bootstrap():
  before = [0.25, 0.5, 0.0, 1.0] * 25
  after = [0.5, 0.5, 0.25, 1.0] * 25
  low, high, p = paired_bootstrap(before, after)
  assert 0 < low < 0.125 < high and p < 0.001
  # The other way round: the mirror image.
  assert paired_bootstrap(after, before) == pytest.approx((-high, -low, p))
  assert paired_bootstrap(before, before) == (0.0, 0.0, 1.0)
  with pytest.raises(ValueError, match="3 units before, 4 after"):
    paired_bootstrap(before[:3], after[:4])


def test_paired_bootstrap_calls_noise_noise():
  before = [1.0, 0.0] * 50
  after = [0.0, 1.0] * 50
  low, high, p = paired_bootstrap(before, after)
  assert low < 0 < high and p > 0.5
