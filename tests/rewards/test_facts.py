"""Facts of descriptions against the scene that was described."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.digits import language, scenes
from sophia_jax.rewards import facts
from sophia_jax.rewards.facts import ABSENT, RIGHT, WRONG
from sophia_jax.types import Problem, SophiaError

digits = st.lists(st.integers(0, 9), min_size=2, max_size=3).map(tuple)
inks = st.sampled_from(sorted(scenes.INKS))
papers = st.sampled_from(sorted(scenes.PAPERS))


def scene(text):
  return facts.scene(Problem(id="p", question="?", answer=text))


@given(digits, inks, papers)
def test_a_description_is_right_about_its_scene(seen, ink, paper):
  text = language.description(seen, ink, paper)
  known = scene(text)
  assert known.colours == {"ink": ink, "paper": paper}
  assert [*known.digits] == [*language.PLACES[len(seen)]]
  assert [*known.digits.values()] == [*map(str, seen)]
  assert facts.labels(text, known) == (RIGHT, RIGHT, RIGHT)
  assert facts.missing(text, known) == 0
  assert len(facts.stated(text)) == len(seen) + 3


@given(digits, digits, inks, papers)
def test_a_fact_is_wrong_where_the_scene_is_another(seen, other, ink, paper):
  known = scene(language.description(other, ink, paper))
  said = language.description(seen, ink, paper)
  first, second, third = facts.labels(said, known)
  same = len(seen) <= len(other) and all(
    known.digits[place] == str(d)
    for place, d in zip(language.PLACES[len(seen)], seen)
  )
  assert first == (RIGHT if same else WRONG)
  assert second == RIGHT
  sign = lambda d: (d[0] > d[-1]) - (d[0] < d[-1])
  assert third == (RIGHT if sign(seen) == sign(other) else WRONG)


KNOWN = scene("The ink is red. The left digit is 3, the right digit is 5.")


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("", (ABSENT, ABSENT, ABSENT)),
    ("A fine picture.", (ABSENT, ABSENT, ABSENT)),
    ("the LEFT digit is 3", (RIGHT, ABSENT, ABSENT)),
    ("The middle digit is 3.", (WRONG, ABSENT, ABSENT)),
    ("The left digit is 33.", (ABSENT, ABSENT, ABSENT)),
    ("The paper is white.", (ABSENT, WRONG, ABSENT)),
    ("The left digit is 3 or 4, or 5.", (ABSENT, ABSENT, ABSENT)),
    ("The left digit is 3.5.", (ABSENT, ABSENT, ABSENT)),
    ("The ink is red or blue.", (ABSENT, ABSENT, ABSENT)),
    ("The ink is red, the left digit is 3 and round", (RIGHT, RIGHT, ABSENT)),
    ("The left digit is 3, the right digit is 6.", (WRONG, ABSENT, ABSENT)),
    ("The right digit is larger than the left.", (ABSENT, ABSENT, RIGHT)),
    ("The left digit is equal to the middle.", (ABSENT, ABSENT, WRONG)),
    ("The left digit is " * 1000 + "9", (WRONG, ABSENT, ABSENT)),
  ],
)
def test_labels_of_odd_clauses(text, want):
  assert facts.labels(text, KNOWN) == want


def test_a_problem_without_a_scene_is_refused():
  with pytest.raises(SophiaError, match=r"problem p: its answer '6'") as error:
    scene("6")
  assert "\n" not in str(error.value)
