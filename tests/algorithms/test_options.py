"""Options in another order, with the letter kept in step."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import options, sampling
from sophia_jax.rewards import verify
from sophia_jax.types import Problem, Status
from tests.algorithms import words

CHOICES = ("red", "blue", "green", "none of these")


def problem(answer="B", choices=CHOICES, **rest):
  kind = rest.pop("answer_type", "choice")
  return Problem(
    id="p",
    question="?",
    answer=answer,
    answer_type=kind,
    choices=choices,
    **rest,
  )


def right(asked, answer):
  gold = asked.answer
  found = verify.compare(asked.answer_type, gold, answer, asked.choices)
  return found is Status.RIGHT


seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.sampled_from(["B", "(B)", "B. blue", "blue"]))
def test_the_same_option_is_right_in_any_order(seed, gold):
  moved = options.reordered(problem(gold), seed)
  assert sorted(moved.choices) == sorted(CHOICES)
  letter = chr(65 + moved.choices.index("blue"))
  assert moved.answer == letter
  for j, choice in enumerate(moved.choices):
    assert right(moved, choice) is (choice == "blue")
    assert right(moved, chr(65 + j)) is (choice == "blue")


@given(seeds)
def test_several_right_options_move_with_their_letters(seed):
  moved = options.reordered(problem("A, C", accepted=("AC",)), seed)
  letters = [chr(65 + moved.choices.index(c)) for c in ("red", "green")]
  assert moved.answer == ", ".join(sorted(letters))
  assert moved.accepted == (moved.answer,)
  assert right(moved, "".join(sorted(letters)))


@given(seeds)
def test_a_text_that_two_options_have_stays_right(seed):
  moved = options.reordered(problem("blue", ("blue", "red", "blue")), seed)
  assert moved.answer == "blue"


def test_every_order_comes_up():
  seen = {options.reordered(problem(), seed).choices for seed in range(400)}
  assert len(seen) == 24


@pytest.mark.parametrize(
  "same",
  [
    problem("6", (), answer_type="number"),
    problem("6", ("5", "6"), answer_type="number"),
    problem("A", ("one",)),
    problem("A", ("<image>", "<image>"), images=("a.png", "b.png")),
    problem("A", ("A", "B", "C", "It depends on the rectangle")),
    problem("C", ("5", "6", "both A and B")),
    problem("C", ("5", "6", "none of the above")),
  ],
)
def test_what_is_no_choice_stays_as_it_is(same):
  assert options.reordered(same, 3) == same


class World(words.World):
  def __init__(self, seed):
    super().__init__()
    self._seed, self.shown = seed, []

  def chance(self, problem, path):
    return self._seed

  def prompt(self, template, problem, **context):
    self.shown.append(problem)
    return super().prompt(template, problem, **context)


def test_a_group_holds_the_problem_as_it_was_asked():
  recipe = options.shuffled(sampling.attempts(2))
  orders = set()
  for seed in range(20):
    world = World(seed)
    group = asyncio.run(recipe(world, problem()))
    assert world.shown == [group.problem]
    assert group.problem == options.reordered(problem(), seed)
    orders.add(group.problem.choices)
  assert len(orders) > 5
