"""Reason-RFT's three rewards, by hand and by property."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.rewards import reason_rft
from sophia_jax.rewards.reason_rft import (
  counting,
  geometry,
  tagged,
  transformation,
  well_formed,
)


def answer(text):
  return f"<think>Hm.</think> <answer> {text} </answer>"


@pytest.mark.parametrize(
  ("text", "inside"),
  [
    (answer("6"), "6"),
    ("<answer>1</answer> <answer>2</answer>", "1"),
    ("<answer>1\n</answer> <answer>2</answer>", "2"),
    ("<answer>1", None),
    ("</answer><answer>", None),
    ("<answer></answer>", ""),
  ],
)
def test_the_first_tagged_answer_of_one_line(text, inside):
  assert tagged(text) == inside


@pytest.mark.parametrize(
  ("text", "verified", "want"),
  [
    (answer("6"), False, 1),
    (answer("6.0"), True, 0),  # tags: equal strings alone
    ("6", False, 1),
    (r"So \boxed{6}", True, 1),
    (r"So \boxed{5}", False, 0),
  ],
)
def test_counting(text, verified, want):
  assert counting(text, "6", verified) == want


@pytest.mark.parametrize(
  ("found", "gold", "want"),
  [
    ("100", "100", 1),
    ("104.9", "100", 1),
    ("-104.9", "-100", 1),
    ("105", "100", 1),  # cos(0)
    ("112.5", "100", 0.5),
    ("110", "100", 0.5 * (math.cos(math.pi / 3) + 1)),
    ("120", "100", 0),
    ("121", "100", 0),
    ("-100", "100", 0),
    ("0", "0", 1),
    ("0.1", "0", 0),
    ("nan", "100", 0),
    ("inf", "inf", 0),
    ("ABC", "ABC", 1),
    ("abc", "ABC", 0),
  ],
)
def test_geometry(found, gold, want):
  earned = geometry(answer(found), gold, False)
  assert earned == pytest.approx(want, abs=1e-9)


def test_a_number_without_tags_may_be_verified():
  assert geometry(r"So \boxed{100}", "100", True) == 1
  assert geometry("104", "100", False) == 1
  assert geometry(answer("130"), "100", True) == 0


GOLD = "change_color(sphere_1, 'red'), move(cube_2, left)"


@pytest.mark.parametrize(
  ("found", "want"),
  [
    (GOLD, 1),
    ("move(cube_2, left) change_color(sphere_1, red)", 1),
    ("change_color(sphere_1, red)", 1 / 2),
    ("change_color(sphere_1, blue), move(cube_2, left)", (1 + 0.5) / 2),
    ("change_color(cube_2, red), move(cube_2, left)", (1 + 0.5) / 2),
    ("change_color(cube_2, blue), move(cube_2, left)", (1 + 0.25) / 2),
    ("change_size(cube_2, red)", 0),
    # Twice the same: two thirds are distinct.
    ("move(cube_2, left) " * 2 + "change_color(sphere_1, red)", 2 / 3),
    # A superset is divided by its own size.
    (GOLD + " change_size(cube_9, big)", 2 / 3),
    ("nothing", 0),
    ("", 0),
  ],
)
def test_transformation(found, want):
  earned = transformation(answer(found), GOLD, False)
  assert earned == pytest.approx(want)


CALLS = st.lists(
  st.tuples(*[st.sampled_from(words) for words in ("fg", "ab", "xy")]),
  max_size=5,
)


@given(CALLS, CALLS)
def test_partial_credit_lies_between_nothing_and_one(said, wanted):
  text = lambda calls: ", ".join(f"{f}({o}, {v})" for f, o, v in calls)
  earned = transformation(text(said), text(wanted), False)
  assert 0 <= earned <= 1 + 1e-9
  assert (earned == pytest.approx(1)) is (
    bool(said) and set(said) == set(wanted) and len(set(said)) == len(said)
  )


@pytest.mark.parametrize(
  ("text", "fits"),
  [
    ("<think>a\nb</think>\n <answer>6</answer>", True),
    (answer("6"), True),
    ("So " + answer("6"), False),
    ("<think>a</think> 6", False),
  ],
)
def test_the_form(text, fits):
  assert well_formed(text) is fits


@pytest.mark.parametrize(
  "text",
  ["<answer>" * 50_000, "f(" * 50_000, "a" * 200_000, "<think>" * 50_000],
)
def test_hostile_texts_earn_nothing_soon(text):
  for task in reason_rft.TASKS.values():
    assert task(text, GOLD, False) == 0
  assert not well_formed(text)
