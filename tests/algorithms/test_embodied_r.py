"""Embodied-R (arXiv 2504.12680): three rewards, their schedule, and the reader."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import credit, diagnostics, embodied_r, reasoning
from sophia_jax.algorithms.contract import Moment
from sophia_jax.algorithms.registry import build
from sophia_jax.types import Chat, FinishReason, Problem, SophiaError
from tests.algorithms import rows, words

CHOICES = ("left", "right", "up", "down")
PROBLEM = Problem(
  id="p",
  question="Which way?",
  answer="B",
  answer_type="choice",
  choices=CHOICES,
  hint="View 1: a hall.",
)


class World(words.World):
  """The policy says `texts[i]` at place i; the reader says `reader`."""

  def __init__(self, *texts, right=lambda path: True, reader="B"):
    super().__init__(right)
    self._texts, self._reader, self.shown = texts, reader, []

  async def ask(self, role, problem, path, prompt, turn=0):
    self.asked.append((role, path, turn))
    if role == "policy":
      text = self._texts[path[0]]
      return rows.completion(words.encode(text), [-1.0] * len(text), text=text)
    self.shown.append(prompt.text)
    absent = (
      FinishReason.ABSENT if self._reader == "down" else FinishReason.STOP
    )
    return rows.completion((), text=self._reader, reason=absent)

  def prompt(self, template, problem, **context):
    if template == "reader":
      return Chat(text=f"{problem.bare}\n{context['reasoning']}")
    return super().prompt(template, problem, **context)


def sampled(world, **config):
  n = len(world._texts)
  algorithm = build("embodied_r", {"n": n, **config})
  return asyncio.run(algorithm.sample(world, PROBLEM)), algorithm


FORMED = "<think>It moves right.</think>\\boxed{B}"


# --------------------------------------------------------------------- schedule
@pytest.mark.parametrize(
  ("round", "expected"),
  [
    (0, (0.7, 0.3, 0.0)),
    (2029, (0.7, 0.3, 0.0)),
    (2030, (0.3, 0.7, 0.0)),
    (4059, (0.3, 0.7, 0.0)),
    (4060, (0.1, 0.7, 0.2)),
    (12179, (0.1, 0.7, 0.2)),
  ],
)
def test_the_weights_are_the_papers_by_stage(round, expected):
  assert embodied_r.weights(embodied_r.Config(), round) == expected


def test_the_reward_is_the_weighted_sum_of_the_round():
  world = World(FORMED, "\\boxed{B}", FORMED, right=lambda path: path != (2,))
  group, algorithm = sampled(world, begins=(0, 5, 9))
  reward = lambda round: [
    algorithm.reward(r, Moment(round=round)) for r in group.rollouts
  ]
  # Formed, right and consistent; right alone; formed alone.
  assert reward(0) == pytest.approx([1.0, 0.3, 0.7])
  assert reward(5) == pytest.approx([1.0, 0.7, 0.3])
  assert reward(9) == pytest.approx([1.0, 0.7, 0.1])


@given(st.integers(0, 20000))
def test_the_paper_weighs_a_perfect_answer_1_in_every_round(round):
  found = embodied_r.weights(embodied_r.Config(), round)
  assert sum(found) == pytest.approx(1)


# ------------------------------------------------------------------- the reader
def test_the_reader_is_asked_only_where_the_answer_is_right():
  world = World(FORMED, FORMED, FORMED, right=lambda path: path == (1,))
  group, _ = sampled(world)
  assert [path for role, path, _ in world.asked if role == "reader"] == [(1,)]
  assert [r.rewards.get("consistency") for r in group.rollouts] == [
    None,
    1,
    None,
  ]


def test_the_reader_sees_question_and_reasoning_and_no_letter_of_it():
  thought = "View 2: it moves right. So the answer is B. (B) it is."
  world = World(f"<think>{thought}</think>\\boxed{{B}}", FORMED)
  sampled(world)
  shown = world.shown[0]
  question, _, rest = shown.partition("D. down\n")
  assert question.startswith("Which way?\nA. left\nB. right")
  assert "View 1: a hall." not in shown  # the descriptions are not its to see
  assert "View 2: it moves right." in rest
  assert not re.search(r"\bB\b", rest)


@pytest.mark.parametrize(
  ("said", "consistent"),
  [
    ("B", 1),
    ("(B)", 1),
    ("right", 1),
    ("\\boxed{B}", 1),
    ("The answer is B.", 1),
    ("B, since it moves", 1),
    ("A", 0),
    ("left", 0),
    ("", 0),
    ("E", 0),
    ("I cannot say", 0),
  ],
)
def test_an_answer_is_consistent_if_the_reader_finds_it_too(said, consistent):
  group, _ = sampled(World(FORMED, FORMED, reader=said))
  assert group.rollouts[0].rewards["consistency"] == consistent


@pytest.mark.parametrize(
  "text", ["B", "<think></think>B", "<think> (B) </think>B"]
)
def test_without_reasoning_nobody_is_asked_and_nothing_is_consistent(text):
  world = World(text, text)
  group, _ = sampled(world)
  assert {role for role, *_ in world.asked} == {"policy"}
  assert group.rollouts[0].rewards["consistency"] == 0


def test_an_absent_reader_is_counted_and_earns_nothing():
  group, algorithm = sampled(World(FORMED, FORMED, reader="down"))
  assert group.rollouts[0].rewards["unread"] == 1
  late = Moment(round=5000)
  assert algorithm.reward(group.rollouts[0], late) == pytest.approx(0.8)
  scored = credit.rewarded([group], algorithm.reward, late)
  counted = diagnostics.of_round(scored, [], [], late)
  assert counted["rewards/unread/mean"] == 1
  assert "rewards/consistency/mean" not in counted


def test_the_metric_is_the_share_of_right_answers():
  world = World(FORMED, FORMED, "B", FORMED, right=lambda path: path != (3,))
  group, algorithm = sampled(world)
  scored = credit.rewarded([group], algorithm.reward, rows.START)
  counted = diagnostics.of_round(scored, [], [], rows.START)
  assert counted["rewards/consistency/mean"] == pytest.approx(2 / 3)


def test_without_a_reader_it_is_grpo_on_form_and_accuracy():
  config = {"consistency": (0.0, 0.0, 0.0), "reader": False}
  world = World(FORMED, "B")
  group, algorithm = sampled(world, **config)
  assert algorithm.roles == ("policy",)
  assert {role for role, *_ in world.asked} == {"policy"}
  assert [r.rewards["format"] for r in group.rollouts] == [1, 0]
  plain = build("grpo", {"n": 2, "kl": 0.001})
  assert [t.name for t in algorithm.terms] == [t.name for t in plain.terms]


# --------------------------------------------------------------- leaked letters
@pytest.mark.parametrize(
  ("text", "left"),
  [
    (
      "It moves right, so the answer is B.",
      "It moves right, so the answer is .",
    ),
    ("So it is (B).", "So it is ."),
    ("Answer: b", "Answer:"),
    ("I choose option c here.", "I choose option here."),
    ("Right. \\boxed{B} Done.", "Right. Done."),
    ("Up. <answer>C</answer>", "Up."),
    ("A. left is wrong, B) holds.", "left is wrong, holds."),
    ("**D** it is", "** ** it is"),
    ("A is right, not B or C.", "is right, not or"),
    ("A chair is left of a table.", "A chair is left of a table."),
    ("Point E is near; I see it.", "Point E is near; I see it."),
    ("It moves Up and Down.", "It moves Up and Down."),
  ],
)
def test_letters_of_options_are_stripped_and_words_are_not(text, left):
  assert reasoning.without_letters(text, 4) == left


@given(st.text("ABCDEab .():{}\\boxedanswer\n", max_size=60), st.integers(2, 6))
def test_no_letter_of_an_option_is_left_alone(text, options):
  left = reasoning.without_letters(text, options)
  capitals = "ABCDEF"[:options].replace("A", "")
  assert not re.search(rf"(?<![A-Za-z0-9'])[{capitals}](?![A-Za-z0-9'])", left)
  assert not re.search(r"[(\[]A[)\]]", left)


@pytest.mark.parametrize(
  ("text", "formed"),
  [
    (FORMED, 1),
    ("  <think>a</think>\n<answer>B</answer>\n", 1),
    ("<think>a</think> So: \\boxed{B}.", 1),
    ("<think>a</think> B", 0),
    ("a</think>\\boxed{B}", 0),
    ("<think>a \\boxed{B}", 0),
    ("So. <think>a</think>\\boxed{B}", 0),
    ("<think>a<think>b</think>\\boxed{B}", 0),
    ("<think>a</think>b</think>\\boxed{B}", 0),
    ("<think>a</think>\\boxed{B", 0),
    ("", 0),
  ],
)
def test_the_form_is_thoughts_in_tags_then_an_answer(text, formed):
  assert reasoning.is_formed(text) == formed


@given(st.text("<think>/answer\\boxed{}B ", max_size=200))
def test_hostile_responses_have_a_form_or_none(text):
  assert reasoning.is_formed(text) in (True, False)
  reasoning.without_letters(reasoning.reasoning(text), 4)


def test_a_long_hostile_response_takes_linear_time():
  for piece in (
    "<think>",
    "answer is ",
    "\\boxed{",
    "((((",
    "A ",
    "<answer>",
    " ",
  ):
    text = "<think>answer" + piece * 20000 + "</think>\\boxed{B}"
    reasoning.is_formed(text)
    reasoning.without_letters(reasoning.reasoning(text), 4)


# --------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"begins": (0, 5)}, "have 2, 3, 3, 3 numbers; give each as many"),
    ({"begins": (1, 5, 9)}, "begin with 0 and rise"),
    ({"begins": (0, 9, 9)}, "begin with 0 and rise"),
    ({"format": (0.7, -0.3, 0.1)}, "a weight is negative; use 0 or more"),
    ({"reader": False}, "consistency has a weight; set reader"),
    ({"n": 1}, "a group of 1 has no baseline"),
  ],
)
def test_settings_that_cannot_work_are_one_line(config, message):
  with pytest.raises(SophiaError) as error:
    build("embodied_r", config)
  assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "wrong", [{"choices": ()}, {"choices": CHOICES[:1], "answer": "sideways"}]
)
def test_a_problem_without_its_answer_among_options_is_refused(wrong):
  values = {"id": "p7", "question": "?", "answer": "B", "choices": CHOICES}
  check = build("embodied_r", {}).check
  check(Problem(**values))
  with pytest.raises(SophiaError, match="problem p7: no options, or none is"):
    check(Problem(**{**values, **wrong}))
