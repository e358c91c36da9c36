"""Grades with a language model, which is a script here.

Questions to the model and the reading of its replies: tests/evals/test_llm.py.
"""

import pytest

from sophia_jax.evals.benchmarks import find_benchmark, mv_math
from sophia_jax.evals.benchmarks.base import Grade, Scored
from sophia_jax.evals.judge import Reader, grade_read
from sophia_jax.evals.llm import Cache
from sophia_jax.types import Completion, FinishReason, Status
from tests.evals.answering import problem

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


class Script:
  """Replies with the text after the first word of its script in the question."""

  def __init__(self, **replies):
    self.replies = replies
    self.asked = []

  def generate(self, requests):
    for request in requests:
      self.asked.append(request.prompt.text)
      said = next(
        r for word, r in self.replies.items() if word in self.asked[-1]
      )
      yield Completion(
        request_id=request.id,
        text=said,
        token_ids=(),
        logps=None,
        finish_reason=STOP,
      )


@pytest.fixture
def read(tmp_path):
  """read("mmmu", engine, (problem, response, finish), ...) -> grades."""

  def grade(name, engine, *answered):
    benchmark = find_benchmark(name)
    with (
      Cache(tmp_path / "judge.jsonl", "m") as cache,
      benchmark.rule.verifier(workers=1) as verifier,
    ):
      reader = Reader("easy", engine, cache)
      return grade_read(answered, benchmark, benchmark.rule, verifier, reader)

  return grade


def test_it_finds_answers_and_the_rule_judges_them(read):
  engine = Script(apples="Answer: 6", pears="Answer: 7", plums="Answer: NONE")
  asked = problem("mathvision/1", answer_type="number")
  grades = read(
    "mathvision",
    engine,
    (asked, "All apples are counted, five and one more.", STOP),
    (asked, "Counting pears is what I did: seven of them.", STOP),
    (asked, "I like plums, but cannot tell how many.", STOP),
    (asked, "There are so many apples that", LENGTH),
  )
  assert [(m.status.value, m.extracted) for m in grades] == [
    ("right", "6"),
    ("wrong", "7"),
    ("unparseable", ""),
    ("truncated", ""),
  ]
  assert len(engine.asked) == 3  # a response that was cut off is not read


def test_it_judges_where_the_paper_has_a_model_judge(read):
  replies = {
    "Copy the final answer": "Answer: a meadow",
    "lawn": "Verdict: SAME",
    "forest": "Verdict: DIFFERENT",
    "": "I am not sure.",
  }
  engine = Script(**replies)
  grades = read(
    "mmmu",
    engine,
    *[
      (problem(f"mmmu/{i}", gold), "It shows a meadow.", STOP)
      for i, gold in enumerate(("lawn", "forest", "sea"))
    ],
  )
  assert [m.status.value for m in grades] == ["right", "wrong", "unparseable"]
  assert {m.extracted for m in grades} == {"a meadow"}
  # Asked again, it is not asked: replies are kept.
  asked = len(engine.asked)
  again = read(
    "mmmu", engine, (problem("mmmu/0", "lawn"), "It shows a meadow.", STOP)
  )
  assert again[0].status is Status.RIGHT and len(engine.asked) == asked


def test_steps_of_a_problem_that_was_judged_whole():
  asked = problem("1", "(1) 2; (2) 3", tags={"type": "multi-step"})
  grades = (Grade(status=Status.RIGHT), Grade(status=Status.WRONG))
  found = mv_math.step_scores(Scored(problem=asked, grades=grades))
  assert found == [0.5, 0.5]
