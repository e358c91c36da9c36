"""Each benchmark in the layout it is published in becomes problems."""

import dataclasses
import importlib
import shutil
from pathlib import Path

import pytest

from sophia_jax.datasets.importers import IMPORTERS, find_importer
from sophia_jax.datasets.importers.run import read_answers
from sophia_jax.datasets.sources import EVALUATION_SOURCES, refuse_evaluation
from sophia_jax.types import SophiaError

REAL = Path(__file__).parents[4] / "shared" / "data" / "mathvision"


def fields(problem, *names):
  return tuple(getattr(problem, name) for name in names)


def test_mathvision(run, put):
  put("images/4.jpg")
  base = {"solution": None, "level": 1, "subject": "counting"}
  rows = [
    {"id": "4", "question": "How many?\n<image1>", "options": []},
    {"id": "6", "question": "Which?\n<image1>", "options": list("ABCDE")},
    {"id": "7", "question": "Which?", "options": ["$1$", "2 cm"]},
    {"id": "8", "question": "Graph?", "options": ["<image1>", "<image2>"]},
  ]
  answers = ["6", "D", "B", "A"]
  put(
    "test.jsonl",
    [
      {**base, **row, "answer": answer, "image": "images/4.jpg"}
      for row, answer in zip(rows, answers)
    ],
  )
  put("testmini.jsonl", ["not read: a part of test"])
  problems, report, listed = run("mathvision")
  assert not listed and report.evaluation
  assert [p.id for p in problems] == [f"mathvision/{i}" for i in (4, 6, 7, 8)]
  assert [p.answer for p in problems] == answers
  assert [p.choices for p in problems] == [(), (), ("$1$", "2 cm"), ()]
  assert [p.answer_type for p in problems] == ["math"] + ["choice"] * 3
  assert problems[0].question == "How many?\n<image>"
  assert all(len(p.images) == 1 for p in problems)


def test_mathvision_as_its_repository_lies(run, put, src):
  put("images/4.jpg")
  row = {"id": "4", "question": "?", "image": "images/4.jpg"}
  path = put("data/test.jsonl", [{**row, "answer": "\x0crac{1}{2}"}])
  (problem,), _, _ = run("mathvision")
  assert problem.answer == r"\frac{1}{2}"
  assert run("mathvision", path)[0] == run("mathvision", src / "data")[0]


def test_the_real_mathvision(run):
  if not REAL.is_dir():
    pytest.skip("shared/data/mathvision is not here")
  problems, report, listed = run("mathvision", REAL)
  assert (report.written, listed) == (304, [])
  assert sum(p.answer_type == "choice" for p in problems) == 190


def test_mathvista(run, put):
  for i in (1, 2, 3):
    put(f"images/{i}.jpg")
  shared = {"precision": None, "metadata": {"split": "testmini"}}
  put(
    "testmini.json",
    {
      "1": {
        "question": "How far?",
        "image": "images/1.jpg",
        "choices": None,
        "unit": "cm",
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "pid": "1",
        "query": "Hint: One decimal.\nQuestion: How far? (Unit: cm)",
        **shared,
      },
      "2": {
        "question": "Which angle?",
        "image": "images/2.jpg",
        "choices": ["135°", "145°"],
        "unit": None,
        "answer": "145°",
        "question_type": "multi_choice",
        "answer_type": "text",
        "pid": "2",
        **shared,
      },
      "3": {"question": "?", "image": "images/3.jpg", "answer": "", **shared},
    },
  )
  problems, report, _ = run("mathvista")
  assert report.skipped == {"no final answer": 1}
  first, second = problems
  names = ("question", "hint", "answer", "answer_type", "choices")
  assert fields(first, *names) == (
    "How far? (Unit: cm)",
    "Hint: One decimal.",
    "1.2",
    "number",
    (),
  )
  assert fields(second, *names[2:]) == ("145°", "choice", ("135°", "145°"))


def mathverse_rows():
  for i, version in enumerate(("Text Dominant", "Vision Only")):
    said = "" if i else "Find L.\nChoices:\nA:1\nB:2"
    yield {
      "sample_index": str(3421 + i),
      "problem_index": "685",
      "problem_version": version,
      "question": said,
      "image": f"images_version_{i}/image_685.png",
      "answer": "B",
      "question_type": "multi-choice",
      "query_cot": f"First reason.\nQuestion: {said}" if said else "See it.",
    }


def test_mathverse(run, put):
  put("images/images_version_0/image_685.png")
  put("images/images_version_1/image_685.png")
  put("testmini.json", [*mathverse_rows()])
  (only,), report, _ = run("mathverse")
  assert report.skipped == {"another problem version": 1}
  assert fields(only, "id", "question", "hint", "answer_type") == (
    "mathverse/3422",
    "See it.",
    "",
    "choice",
  )
  problems, report, _ = run("mathverse_all")
  assert report.evaluation
  assert problems[0].hint == "First reason."
  assert problems[0].question == "Find L.\nChoices:\nA:1\nB:2"
  assert problems[1] == only


def test_dynamath(run, put, src):
  for trial in (1, 10):
    put(f"trial{trial}/image/image5.png")
    put(
      f"trial{trial}/dataset.json",
      {
        "5": {
          "question": "Is it? Choices: (A) yes (B) no",
          "answer": "B",
          "image": "image/image5.png",
          "answer_type": "multiple choice",
          "subject": "statistics",
          "level": "elementary school",
        },
        "6": {
          "question": "What is the period?",
          "answer": "2.0944",
          "image": "image/image5.png",
          "answer_type": "float",
          "subject": "analytic     geometry",
        },
      },
    )
  problems, _, _ = run("dynamath")
  assert [p.tags for p in problems[:2]] == [
    {"subject": "statistics", "level": "elementary school"},
    {"subject": "analytic geometry"},
  ]
  assert [p.id for p in problems] == [
    f"dynamath/trial{t}/{i}" for t in (1, 10) for i in (5, 6)
  ]
  assert [p.answer_type for p in problems] == ["choice", "number"] * 2
  assert problems[0].images != problems[2].images
  # To mark answers the pictures need not be there.
  shutil.rmtree(src / "trial10" / "image")
  unseen = [dataclasses.replace(p, images=()) for p in problems]
  assert [*read_answers("dynamath", src)] == unseen


def test_mmmu(run, put, png):
  def row(number, question, options, answer, *images):
    pictures = {
      f"image_{i}": {"bytes": png(images[i - 1]), "path": None}
      if i <= len(images)
      else None
      for i in range(1, 8)
    }
    return {
      "id": f"validation_Math_{number}",
      "question": question,
      "options": options,
      "explanation": "",
      **pictures,
      "answer": answer,
      "question_type": "open" if options == "[]" else "multiple-choice",
    }

  put(
    "Math/validation-00000-of-00001.parquet",
    [
      row(1, "What of <image 1>?", "['$6', \"it's\"]", "B", 1),
      row(2, "Compare <image 2> and <image 1>", "['x', 'y']", "A", 1, 2),
      row(3, "Which?", "['<image 1>', '<image 2>']", "A", 3, 4),
      row(4, "Open <image 1>", "[]", "['24/7', '3.43']", 5),
      row(5, "Withheld <image 1>", "['a', 'b']", "?", 6),
    ],
  )
  put("Math/test-00000-of-00001.parquet", [{"id": "not read"}])
  problems, report, listed = run("mmmu")
  assert not listed
  assert report.skipped == {"answer not public": 1}
  assert [p.question for p in problems] == [
    "What of <image>?",
    "Compare Image-2 and Image-1",
    "Which?",
    "Open <image>",
  ]
  assert [p.choices for p in problems] == [
    ("$6", "it's"),
    ("x", "y"),
    ("<image>", "<image>"),
    (),
  ]
  assert [p.answer for p in problems] == ["B", "A", "A", "24/7"]
  assert Path(problems[0].images[0]).read_bytes() == png(1)


def test_mmmu_pro(run, put, png):
  image = {"bytes": png(7), "path": "test_Math_1.png"}
  put(
    "vision/test-00000-of-00001.parquet",
    [
      {
        "id": "test_Math_1",
        "image": image,
        "options": "['1', '2']",
        "answer": "J",
        "subject": "Math",
      }
    ],
  )
  standard = put(
    "standard (4 options)/test-00000-of-00001.parquet",
    [
      {
        "id": "test_Math_1",
        "question": "In <image 1>?",
        "options": "['1', '2']",
        "image_1": image,
        "answer": "B",
      }
    ],
  )
  (problem,), _, _ = run("mmmu_pro")
  assert fields(problem, "answer", "answer_type", "choices") == (
    "J",
    "choice",
    (),
  )
  (problem,), _, _ = run("mmmu_pro", standard)
  assert problem.choices == ("1", "2")


@pytest.mark.parametrize("whole", [True, False])
def test_mv_math(run, put, src, whole):
  put("images/b_1.jpg")
  put("images/b_2.jpg")
  base = {"input_image": ["b_1.jpg", "b_2.jpg"], "is_multi_img": True}
  path = put(
    "data/MV-MATH.json",
    [
      {
        "problem_id": 1,
        "question": "A.\n<image_1>\nB.\n<image_2>",
        "answer": "B",
        "answer_type": "choice",
        **base,
      },
      {
        "problem_id": 2,
        "question": "Only <image_2>",
        "answer": "9, 14",
        "answer_type": "free-form",
        **base,
      },
    ],
  )
  problems, _, _ = run("mv_math", src if whole else path)
  assert [p.question for p in problems] == [
    "A.\n<image>\nB.\n<image>",
    "Only Image-2",
  ]
  assert [p.answer_type for p in problems] == ["choice", "auto"]


def olympiad(**changes):
  return {
    "id": 2231,
    "subfield": "Geometry",
    "context": None,
    "question": "Find it.",
    "solution": ["So $2$."],
    "final_answer": ["$2$"],
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    **changes,
  }


def test_olympiadbench_from_the_hub(run, put, png):
  put(
    "OlympiadBench/OE_MM_physics_en_COMP/OE_MM_physics_en_COMP.parquet",
    [
      olympiad(
        context="A ball.",
        question="How <image_1>?",
        image_1={"bytes": png(1), "path": None},
      ),
      olympiad(
        id=2232,
        final_answer=["1", "2"],
        is_multiple_answer=True,
        error="1e-1,",
      ),
      olympiad(id=2233, question_type="Theorem proof", final_answer=None),
    ],
  )
  put("OlympiadBench/TP_TO_maths_en_COMP/TP.parquet", [olympiad(id=1)])
  problems, report, _ = run("olympiadbench")
  assert report.skipped == {"a proof": 1}
  assert problems[0].id == "olympiadbench/OE_MM_physics_en_COMP/2231"
  assert problems[0].question == "A ball.\nHow <image>?"
  assert fields(problems[1], "answer", "answer_type") == ("1, 2", "olympiad")
  assert [p.tolerance for p in problems] == [(), (0.1, 0.0)]


def test_olympiadbench_as_first_published(run, put):
  put("images/3362.jpg")
  put(
    "data/OE_MM_maths_en_COMP.json",
    [olympiad(question="Start as:\n<img_3362>\nand go.")],
  )
  (problem,), _, _ = run("olympiadbench")
  assert problem.question == "Start as:\n<image>\nand go."
  assert len(problem.images) == 1


# ------------------------------------------------------------ kept from training
def test_no_benchmark_is_trained_on(run, put):
  put("images/4.jpg")
  row = {"id": "4", "question": "?", "answer": "6", "image": "images/4.jpg"}
  put("test.jsonl", [row])
  problems, _, _ = run("mathvision")
  with pytest.raises(SophiaError, match=r"W/p.jsonl: .* 1 of MathVision"):
    refuse_evaluation(problems, "W/p.jsonl")
  with pytest.raises(SophiaError, match="gives problems, not examples"):
    run("mathvision", kind="examples")


def test_every_benchmark_is_registered():
  trained = {
    name
    for name in IMPORTERS
    if find_importer(name).source not in EVALUATION_SOURCES
  }
  assert trained == {
    "amc_aime",
    "chat",
    "columns",
    "internvl",
    "math",
    "mathv360k",
    "numinamath",
    "rlaif_v",
    "seed_bench_r1_train",
    "verl",
    "wildvision",
  }
  for name in set(IMPORTERS) - trained:
    assert find_importer(name).kinds == ("problems",)
    assert "evaluation only" in importlib.import_module(IMPORTERS[name]).__doc__
