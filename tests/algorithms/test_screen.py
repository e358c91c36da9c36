"""The window of pass rates before GRPO (arXiv 2507.16814, App. B.2)."""

import dataclasses

import pytest

from sophia_jax.algorithms import screen
from sophia_jax.types import SophiaError
from tests.algorithms.test_selection import groups
from tests.algorithms.words import Letters


def named(*outcomes):
  return [
    dataclasses.replace(g, problem=dataclasses.replace(g.problem, id=f"p{i}"))
    for i, g in enumerate(groups(*outcomes))
  ]


def test_problems_that_are_right_about_half_of_the_time_are_kept():
  rates = [16 * [0.0], 9 * [0.0] + 7 * [1.0], 8 * [0.0, 1.0], 16 * [1.0]]
  rates += [6 * [0.0] + 10 * [1.0], 10 * [0.0] + 6 * [1.0]]
  write = screen.files(screen.Config())
  (name, kept), *others = write(named(*rates), Letters()).items()
  assert name == "problems.jsonl" and not others
  assert [p.id for p in kept] == ["p1", "p2"]


def test_no_problem_in_the_window_says_on_which_side_they_are():
  write = screen.files(screen.Config(low=0.4, high=0.5))
  with pytest.raises(
    SophiaError, match=r"1 have .* below 0\.4 and 2 one above"
  ):
    write(named([0.0, 0.0], [1.0, 1.0], [1.0, 1.0]), Letters())


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_a_window_that_is_none_is_refused(low, high):
  with pytest.raises(SophiaError, match="no window of pass rates"):
    screen.Config(low=low, high=high)
