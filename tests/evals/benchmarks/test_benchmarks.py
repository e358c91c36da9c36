"""Every benchmark, from its official files to a verdict, by its own rules."""

import dataclasses
from pathlib import Path

import pytest

from sophia_jax.datasets.sources import EVALUATION_SOURCES
from sophia_jax.evals import paper
from sophia_jax.evals.benchmarks import (
  BENCHMARKS,
  dynamath,
  find_benchmark,
  mathvision,
  mathvista,
  mv_math,
)
from sophia_jax.evals.upstream import two_decimals
from sophia_jax.types import SophiaError
from tests.evals.answering import problem, statuses
from tests.evals.official import BUILDERS

REAL = Path(__file__).parents[4] / "shared" / "data" / "mathvision"


@pytest.fixture
def posed(tmp_path):
  """posed("mmmu") -> its miniature's problems, by official id."""

  def load(name):
    BUILDERS[name](tmp_path / name)
    problems = find_benchmark(name).answers(tmp_path / name)
    return {p.id.partition("/")[2]: p for p in problems}

  return load


# ---------------------------------------------------------------------- registry
def test_every_benchmark_of_the_paper_is_there():
  assert set(paper.NAMES) < set(BENCHMARKS)
  for name, benchmark in BENCHMARKS.items():
    assert benchmark.name == name
    assert benchmark.importer in EVALUATION_SOURCES
    assert benchmark.needs and benchmark.sizes


def test_names_as_people_write_them():
  assert find_benchmark("MV-MATH").name == "mv_math"
  with pytest.raises(SophiaError, match="'mathvison' is no benchmark; there"):
    find_benchmark("mathvison")


def test_the_part_that_is_there(tmp_path, posed):
  problems = [*posed("mathvision").values()]
  benchmark = BENCHMARKS["mathvision"]
  assert benchmark.part(problems) == "4 of 3,040"
  assert benchmark.part(problems * 76) == "testmini"
  with pytest.raises(SophiaError, match=r"holds none of testmini.jsonl"):
    BENCHMARKS["mathvision_testmini"].answers(tmp_path / "mathvision")


def test_the_real_mathvision_is_asked_with_pictures(tmp_path):
  if not REAL.is_dir():
    pytest.skip("shared/data/mathvision is not here")
  problems = BENCHMARKS["mathvision"].load(REAL, tmp_path / "mathvision.jsonl")
  assert BENCHMARKS["mathvision"].part(problems) == "testmini"
  assert all(len(p.images) == 1 for p in problems)
  assert {p.tags["level"] for p in problems} == set("12345")
  assert len({p.tags["subject"] for p in problems}) == 16
  for posed_problem in problems:
    choice = posed_problem.answer_type == "choice"
    assert posed_problem.text.startswith("Hint: ") == choice


# ------------------------------------------------------------------------- posing
def test_a_hint_comes_before_the_question(posed):
  open_question = posed("mmmu")["validation_Art_Theory_2"]
  assert open_question.text.startswith("Hint: Answer with a single word")
  choice = posed("mmmu")["validation_Art_Theory_1"]
  assert choice.text.endswith("Of <image>?\nA. 6\nB. $x+1$")
  assert choice.tags == {
    "subject": "Art Theory",
    "difficulty": "Easy",
    "kind": "multiple-choice",
  }
  assert posed("mathverse")["1"].tags["subfield"] == "Angle"
  assert posed("mmmu_pro")["test_Art_Theory_1"].hint == choice.hint


def test_mathvista_keeps_the_benchmarks_own_hint(posed):
  ours = posed("mathvista")
  assert [p.hint for p in ours.values()] == [
    "Hint: Answer with a number that has 1 decimals.",
    "Hint: Answer with the letter of the right option.",
    "Hint: Answer with an integer.",
    "Hint: Answer with a list, such as [1, 2, 3].",
  ]
  own = dataclasses.replace(ours["1"], hint="Hint: theirs")
  assert mathvista.pose(own).hint == "Hint: theirs"


def test_olympiadbench_speaks_the_language_of_the_problem(posed):
  found = posed("olympiadbench")
  first = found["OE_TO_physics_en_COMP/1"]
  assert first.hint == (
    "The answer is a number. Leave the unit m/s out of the answer."
  )
  assert found["OE_TO_physics_en_COMP/2"].hint == (
    "The answer is a number. There are several answers: separate them by "
    "commas."
  )
  assert found["OE_TO_maths_zh_CEE/3"].hint == ""
  chinese = dataclasses.replace(first, tags={**first.tags, "language": "zh"})
  posed_again = BENCHMARKS["olympiadbench"].pose(chinese)
  assert posed_again.hint == "答案是一个数值。 答案中不要写单位 m/s。"
  assert first.tags["subject"] == "physics"
  assert first.tags["images"] == "text only"


# ------------------------------------------------------------------------ grading
CASES = [
  ("mmmu", "validation_Art_Theory_1", "B", "right"),
  ("mmmu", "validation_Art_Theory_1", "It is \\boxed{$x+1$}", "right"),
  ("mmmu", "validation_Art_Theory_1", "I cannot tell.", "unparseable"),
  ("mmmu_pro", "test_Art_Theory_1", "So\n**J**", "right"),
  ("mmmu_pro", "test_Art_Theory_1", "Answer: A", "wrong"),
  ("mathvista", "1", "\\boxed{1.24}", "right"),
  ("mathvista", "1", "\\boxed{1.26}", "wrong"),
  ("mathvista", "1", "\\boxed{\\frac{6}{5}} m", "right"),
  ("mathvista", "2", "\\boxed{B}", "right"),
  ("mathvista", "2", "The answer is 145°", "right"),
  ("mathvista", "2", "\\boxed{146°}", "unparseable"),
  ("mathvista", "2", "Thus, the answer is B (145°).", "right"),
  ("mathvista", "2", "Thus, the answer is B (146°).", "right"),
  ("mathvista", "2", "Thus, the answer is B (A).", "unparseable"),
  ("mathvista", "3", "\\boxed{7.4}", "wrong"),
  ("mathvista", "4", "\\boxed{[1, 2]}", "right"),
  ("mathverse", "2", "\\boxed{\\frac{10}{\\sqrt{2}}}", "right"),
  ("dynamath", "trial1/1", "\\boxed{2.095}", "right"),
  ("dynamath", "trial1/1", "\\boxed{2.1}", "wrong"),
  ("dynamath", "trial1/1", "\\boxed{\\frac{2\\pi}{3}}", "right"),
  ("dynamath", "trial2/2", "(B)", "right"),
  ("dynamath", "trial2/3", "\\boxed{3:00}", "right"),
  ("dynamath", "trial2/3", "\\boxed{3:0}", "right"),
  ("dynamath", "trial2/3", "\\boxed{3:05}", "wrong"),
  ("dynamath", "trial2/4", "\\boxed{(3.9661,0.519)}", "right"),
  ("dynamath", "trial2/4", "\\boxed{(0.519, 3.966)}", "wrong"),
  ("mathvision", "1", "60", "right"),
  ("mathvision", "1", "\\boxed{60.01}", "wrong"),
  ("mathvision", "2", "\\boxed{\\frac{2}{6}}", "right"),
  ("mathvision", "2", "\\boxed{\\frac{2}{3}}", "unparseable"),
  ("mathvision", "2", "\\boxed{\\frac{1}{3}}", "right"),
  ("mathvision", "3", "Thus D", "unparseable"),
  ("mathvision", "3", "Well, I would say that it must be D", "unparseable"),
  ("mathvision", "4", "\\boxed{8 \\mathrm{~kg}}", "right"),
  ("mathvision", "4", "B", "wrong"),
  ("mathvision", "3", "The answer is D.", "right"),
  ("mathvision", "3", "<think>D, or is it", "unparseable"),
  ("mv_math", "2", "\\boxed{7}", "right"),
  ("mv_math", "3", "\\boxed{(1) B (3, 5); (2) (3, 4); (3) 7.5}", "right"),
  ("mv_math", "3", "\\boxed{(1) B (3, 5); (2) (3, 4)}", "unparseable"),
  ("mv_math", "3", "\\boxed{(1) B (3, 5); (2) (3, 4); (3) 7}", "wrong"),
]


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
def test_verdicts(posed, name):
  problems = posed(name)
  cases = [case[1:] for case in CASES if case[0] == name]
  found = statuses(
    find_benchmark(name).rule,
    [(problems[number], response) for number, response, _ in cases],
  )
  assert [(*case[:2], status) for case, status in zip(cases, found)] == cases


UPSTREAM = [
  # A letter that ends the response; an option's value; two decimals.
  ("mathvision", "2", "It must be (B).", "right"),
  ("mathvision", "2", "\\boxed{0.333}", "right"),
  ("mathvision", "2", "\\boxed{0.34}", "wrong"),
  ("mathvision", "4", "\\boxed{8 \\mathrm{~kg}}", "wrong"),
  ("mathvision", "4", "\\boxed{8}", "wrong"),
  ("mathvision", "1", "The answer is 60. Surely.", "right"),
  ("mathvision", "3", "\\boxed{\\text{(D)}}", "right"),
  # Every response chooses an option: the nearest.
  ("mathvista", "2", "\\boxed{146°}", "right"),
  ("mathvista", "2", "\\boxed{(A) 145°}", "wrong"),
  ("mathvista", "3", "\\boxed{7.4}", "right"),
  ("mathvista", "1", "\\boxed{\\frac{6}{5}}", "unparseable"),
  ("mathvista", "1", "\\boxed{nan}", "unparseable"),
  # The short answer of a JSON object; text that holds the gold one.
  (
    "dynamath",
    "trial1/1",
    '{"solution": "", "short answer": "2.095"}',
    "right",
  ),
  ("dynamath", "trial1/1", "so\n0.6666667π rad.", "right"),
  ("dynamath", "trial1/1", "so\n2.1 rad.", "wrong"),
  ("dynamath", "trial2/2", '{"short answer": "(B) no"}', "right"),
  ("dynamath", "trial2/3", '{"short answer": "at 3:05"}', "right"),
]


@pytest.mark.parametrize("name", sorted({case[0] for case in UPSTREAM}))
def test_verdicts_of_the_published_rule(posed, name):
  problems = posed(name)
  cases = [case[1:] for case in UPSTREAM if case[0] == name]
  found = statuses(
    find_benchmark(name).upstream,
    [(problems[number], response) for number, response, _ in cases],
  )
  assert [(*case[:2], status) for case, status in zip(cases, found)] == cases


def test_two_decimals():
  assert two_decimals("math", "\\frac{1}{3}", "0.33") == "right"
  assert two_decimals("math", "(1, \\frac{1}{3})", "(1, 0.333)") == "right"
  assert two_decimals("math", "(1, 2)", "(2, 1)") == "wrong"
  assert two_decimals("math", "x+1", "x+1.001") == "wrong"
  assert two_decimals("math", "5", "5 \\mathrm{cm}") == "wrong"
  assert two_decimals("math", "9", "9^{9^{9^{9}}}") == "unparseable"


# -------------------------------------------------------------------- their parts
@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("(1) 70\n\n(2) $5^{\\circ}$\n\n", ["70", "5^{\\circ}"]),
    ("(1) B (3, 5); (2) (3, 4);（3）7.5.", ["B (3, 5)", "(3, 4)", "7.5"]),
    (
      "(1)$\\quad \\frac{1}{2} (2)\\quad 3$",
      ["$\\quad \\frac{1}{2}", "\\quad 3$"],
    ),
    ("(2) first", ["(2) first"]),
    ("60", ["60"]),
    ("", [""]),
  ],
)
def test_mv_math_steps(text, parts):
  assert mv_math.steps(text) == parts


def test_edit_distance():
  assert mathvista.edits("kitten", "sitting") == 3
  assert mathvista.edits("", "abc") == mathvista.edits("abc", "") == 3
  assert mathvista.edits("flaw", "lawn") == 2 and mathvista.edits("a", "a") == 0


@pytest.mark.parametrize(
  ("response", "answer"),
  [
    ('x {"short answer": 5, "solution": "a\nb"}', "5"),
    ("It is \\boxed{7}", "7"),
    ("a\nthe end.", "the end"),
    ("{" * 100_000, "{" * 19_999),
    ("", ""),
  ],
)
def test_dynamath_short_answer(response, answer):
  assert dynamath.short_answer(response) == answer


@pytest.mark.parametrize(
  ("response", "answer"),
  [
    ("... is (C).", "c"),
    ("A\nbecause", "a"),
    ("The number is 12.", "12"),
    ("x \\boxed{1} y \\boxed{ x = \\frac{2}{3} }", "\\frac{2}{3}"),
    ("\\boxed{\\text{(D)}}", "d"),
    ("the answer is 5 km. I am sure", "5"),
    ("<think>\\boxed{1}", ""),
  ],
)
def test_mathvision_as_published(response, answer):
  assert mathvision.upstream_answer(response) == answer


def test_responses_of_a_megabyte_are_graded():
  for benchmark in BENCHMARKS.values():
    for rule in filter(None, (benchmark.rule, benchmark.upstream)):
      for fields in (
        {"answer_type": "choice", "answer": "A"},
        {"answer_type": "choice", "answer": "A", "choices": ("x", "y")},
        {"answer_type": "number", "tags": {"decimals": "2"}},
        {"answer_type": "math", "tags": {"type": "multi-step"}},
      ):
        asked = problem(**fields)
        for text in ("(1)" * 300_000, "{[" * 500_000, "\\boxed{" * 140_000):
          assert rule.items(asked, text)
