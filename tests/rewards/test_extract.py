import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.rewards.extract import (
  ANSWER_CHARS,
  TAIL_CHARS,
  after_thinking,
  extract,
)

CASES = [
  # boxed: the last balanced one
  (r"first \boxed{3}, no: \boxed{4}", "4"),
  (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
  (r"\boxed {7}", "7"),
  (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
  (r"\boxed{\boxed{5}}", "{5}"),
  (r"\boxed{3} and then \boxed{4", "3"),
  (r"a } stray brace, \boxed{9}", "9"),
  (r"\boxed{}", None),
  (r"\boxed{ }", None),
  (r"\boxed{5} }}} {{{", "5"),
  (r"an open { before \boxed{6}", "6"),
  # headings, the last one counts, a box beats them
  ("**Final answer**\n\n42", "42"),
  ("**Final Answer:** 42", "42"),
  ("Final answer: 12.5\nThank you", "12.5"),
  ("Answer: B. Paris", "B. Paris"),
  ("Answer: 1\n...\nAnswer: 2", "2"),
  ("the answer is 5. This follows from above.", "5"),
  ("The answer is **5**.", "5"),
  ("Final answer:\n$$\n5\n$$", "5"),
  ("Final answer:\n\\[\nx+1\n\\]", "x+1"),
  ("**Answer:** `blue`!", "blue"),
  ("The answer is yes, because it fits", "yes"),
  ("\\boxed{5}\n\\boxed{5}", "5"),
  ("x = -\\boxed{5}", "-5"),
  ("12-\\boxed{5} = 7", "5"),
  ("- \\boxed{5}", "5"),
  ("So the answer is St. Louis", "St. Louis"),
  ("The correct answer is: (C)", "(C)"),
  ("**Answer:** $x+1$", "$x+1$"),
  ("答案：7。", "7"),
  ("最终答案是 12", "12"),
  ("Final answer: 9\n\\boxed{10}", "10"),
  ("Final answer:", None),
  # thinking
  ("<think>a \\boxed{1}", None),
  ("<think>a \\boxed{1}</think> so 2", None),
  ("<think>a \\boxed{1}</think> \\boxed{2}", "2"),
  ("no opening tag \\boxed{1}</think>\\boxed{2}", "2"),
  ("<think>a</think> \\boxed{1} <think> wait", None),
  # nothing
  ("", None),
  ("42", None),
  ("B", None),
  ("I do not know.", None),
]


@pytest.mark.parametrize("response, answer", CASES)
def test_extract(response, answer):
  assert extract(response) == answer


@pytest.mark.parametrize(
  "response, answer",
  [
    ("Looking at it,\n(B)", "B"),
    ("c", "C"),
    ("**D**.", "D"),
    ("so\nE", None),  # four options only
    ("A dog", None),
    ("Answer: the dog", "the dog"),
    ("only 3", None),
  ],
)
def test_a_lone_letter_counts_where_there_are_choices(response, answer):
  assert extract(response, ("w", "x", "y", "z")) == answer


def test_long_answers_and_far_away_answers_do_not_count():
  assert extract("\\boxed{" + "1" * ANSWER_CHARS + "}") == "1" * ANSWER_CHARS
  assert extract("\\boxed{" + "1" * (ANSWER_CHARS + 1) + "}") is None
  assert extract("\\boxed{1}" + " " * TAIL_CHARS) is None
  assert extract("x" * 10**6 + "\\boxed{1}") == "1"


UNITS = (
  *("{", "}", "\\boxed{", "\\boxed", "\\", "<think>", "answer:", ". ", "{}"),
  *("\\{", "the answer is ", "答案", "\\boxed{}", "*", "\n", "\x00", "\ud800"),
)


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_of_anything_takes_linear_time(unit):
  text = unit * (10**6 // len(unit))
  start = time.perf_counter()
  extract(text, ("a", "b"))
  # 2 ms here; a quadratic scan of the tail alone would take minutes.
  assert time.perf_counter() - start < 5


@given(st.text())
def test_whatever_comes_the_answer_is_short_and_stripped(text):
  answer = extract(text, ("a", "b"))
  assert answer is None or (
    0 < len(answer) <= ANSWER_CHARS and answer == answer.strip()
  )


@given(st.text(alphabet="ab1+{} ").filter(lambda s: s.count("{") == 0))
def test_a_box_is_found_behind_any_thinking(thought):
  text = f"<think>{thought}</think>{thought}\\boxed{{17}}"
  assert extract(text) == "17"


def test_after_thinking():
  assert after_thinking("a</think>b</think>c") == "c"
  assert after_thinking("a") == "a"
  assert after_thinking("<think>") is None
