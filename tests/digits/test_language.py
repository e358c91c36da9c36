"""Questions, answers, captions and worked solutions, computed a second time."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.digits import language, scenes
from sophia_jax.rewards.extract import extract
from sophia_jax.rewards.pool import Verifier
from sophia_jax.types import FinishReason, Problem, Status

digits = st.lists(st.integers(0, 9), min_size=2, max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(sorted(language.KINDS))
inks = st.sampled_from(sorted(scenes.INKS))
papers = st.sampled_from(sorted(scenes.PAPERS))


def ask(kind, seed, seen):
  return language.ask(np.random.default_rng(seed), kind, seen)


def answer_to(text, seen):
  """Answers a question independently."""
  if text == "What is the largest digit plus the smallest digit?":
    return str(sorted(seen)[-1] + sorted(seen)[0])
  if text == "What is the largest digit minus the smallest digit?":
    return str(sorted(seen)[-1] - sorted(seen)[0])
  if text == "Which digit is larger?":
    return {1: "A", -1: "B", 0: "C"}[int(np.sign(seen[0] - seen[-1]))]
  if text == "List the digits from the smallest to the largest.":
    return ", ".join(c for c in "0123456789" for d in seen if str(d) == c)
  bound = re.fullmatch(r"How many digits are larger than (\d)\?", text)
  assert bound, f"an unknown question: {text}"
  return str(len([d for d in seen if d > int(bound[1])]))


@given(kinds, seeds, digits)
def test_answers_are_right(kind, seed, seen):
  question = ask(kind, seed, seen)
  assert question.answer == answer_to(question.text, seen)
  if question.choices:
    assert question.choices == ("the left one", "the right one", "none")
    assert question.answer_type == "choice"


@given(seeds, digits, inks, papers)
def test_reading_questions_are_answered_right(seed, seen, ink, paper):
  question, said = language.reading(
    np.random.default_rng(seed), seen, ink, paper
  )
  answer = re.fullmatch(r"\\boxed\{(.*)\}", said)[1]
  place = re.fullmatch(r"Which digit is on the (\w+)\?", question)
  if place:
    where = {"left": 0, "middle": 1, "right": -1}[place[1]]
    assert place[1] != "middle" or len(seen) == 3
    assert answer == str(seen[where])
  else:
    assert (
      answer
      == {
        "How many digits are there?": str(len(seen)),
        "What colour is the ink?": ink,
        "What colour is the paper?": paper,
      }[question]
    )


# ------------------------------------------------------------------ worked reasoning
@pytest.fixture(scope="module")
def verifier():
  with Verifier(workers=1) as pool:
    yield pool


@given(kinds, seeds, digits)
def test_worked_solutions_end_in_the_right_answer(verifier, kind, seed, seen):
  question = ask(kind, seed, seen)
  text = language.worked(np.random.default_rng(seed), question, seen)
  assert re.fullmatch(r"<think>.*</think> \*\*Final answer\*\* .*", text)
  assert extract(text, question.choices) == question.answer
  problem = Problem(
    id="1",
    question=question.text,
    answer=question.answer,
    answer_type=question.answer_type,
    choices=question.choices,
  )
  (verdict,) = verifier.verify([(text, problem, FinishReason.STOP)])
  assert verdict.status is Status.RIGHT
  wrong = text.replace(f"boxed{{{question.answer}}}", "boxed{Z}")
  (verdict,) = verifier.verify([(wrong, problem, FinishReason.STOP)])
  assert verdict.status is not Status.RIGHT


def false_statements(text):
  """Sums, differences and comparisons that do not hold."""
  for a, sign, b, c in re.findall(r"(\d) ([+-]) (\d) = (\d+)\.", text):
    if int(c) != (int(a) + int(b) if sign == "+" else int(a) - int(b)):
      yield f"{a} {sign} {b} = {c}"
  for a, how, b in re.findall(
    r"(\d) is (larger|smaller|equal) (?:than|to) (\d)\.", text
  ):
    holds = {
      "larger": a > b,
      "smaller": a < b,
      "equal": a == b,
    }[how]
    if not holds:
      yield f"{a} is {how} than {b}"


def test_the_check_of_statements_can_fail():
  assert len(list(false_statements("3 + 4 = 8. 2 is larger than 5."))) == 2


@given(kinds, seeds, digits)
def test_statements_of_worked_solutions_hold(kind, seed, seen):
  """Except for a slip, which is taken back at once."""
  question = ask(kind, seed, seen)
  text = language.worked(np.random.default_rng(seed), question, seen)
  text = re.sub(r"[^.<>]*\. No, that is wrong\.", "", text)
  assert not list(false_statements(text))
  assert f"The image shows {', '.join(map(str, seen))}." in text


def test_some_slip_some_check_and_all_differ():
  texts = [
    language.worked(
      np.random.default_rng(seed), ask("sum", seed, (3, 8, 1)), (3, 8, 1)
    )
    for seed in range(200)
  ]
  assert sum("No, that is wrong." in t for t in texts) in range(2, 40)
  assert sum("Wait, let me check." in t for t in texts) in range(40, 140)
  assert len(set(map(len, texts))) > 5


@given(seeds)
def test_drills_are_true(seed):
  text = language.drill(np.random.default_rng(seed))
  assert not list(false_statements(text))
  assert text.count(".") == 12


# ------------------------------------------------------------------------- captions
@given(digits, inks, papers)
def test_a_caption_says_the_scene_and_nothing_else(seen, ink, paper):
  """So it cannot hold the answer to a question that it does not know."""
  places = ["left", "middle", "right"] if len(seen) == 3 else ["left", "right"]
  shown = ", ".join(f"{p} {d}" for p, d in zip(places, seen))
  assert language.caption(seen, ink, paper) == (
    f"{ink} ink on {paper} paper: {shown}."
  )
