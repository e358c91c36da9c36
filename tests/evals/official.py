"""Benchmarks in miniature, in the files they are published in.

Images are named and not there: marking answers needs none.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = {"bytes": b"not looked at", "path": None}


def jsonl(path, rows):
  put(path, "".join(json.dumps(row) + "\n" for row in rows))


def put(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")


def parquet(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(rows), path)


def mmmu(folder):
  base = {"image_1": IMAGE, "explanation": "", "topic_difficulty": "Easy"}
  choice = {"question": "Of <image 1>?", "options": "['6', '$x+1$']"}
  opened = {"question": "How many?", "options": "[]", "question_type": "open"}
  parquet(
    folder / "Art_Theory/validation-00000-of-00001.parquet",
    [
      {
        **base,
        **choice,
        "id": "validation_Art_Theory_1",
        "answer": "B",
        "question_type": "multiple-choice",
      },
      {**base, **opened, "id": "validation_Art_Theory_2", "answer": "24/7"},
    ],
  )


def mmmu_pro(folder):
  row = {"image": IMAGE, "options": "['1']", "subject": "Art_Theory"}
  parquet(
    folder / "vision/test-00000-of-00001.parquet",
    [{**row, "id": "test_Art_Theory_1", "answer": "J"}],
  )


def mathvista(folder):
  def row(number, **fields):
    return {
      "pid": str(number),
      "question": "?",
      "image": f"images/{number}.jpg",
      "choices": None,
      "unit": None,
      "precision": None,
      "metadata": {"task": "figure question answering", "grade": "college"},
      **fields,
    }

  rows = [
    row(1, answer="1.2", answer_type="float", precision=1, unit="m"),
    row(2, answer="145°", answer_type="text", choices=["135°", "145°", "25°"]),
    row(3, answer="7", answer_type="integer"),
    row(4, answer="[1, 2]", answer_type="list"),
  ]
  put(
    folder / "data/testmini.json", json.dumps({row["pid"]: row for row in rows})
  )


def mathverse(folder):
  row = {
    "problem_version": "Vision Only",
    "question": "",
    "query_cot": "Reason first.",
    "image": "images_version_6/image_1.png",
    "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
  }
  rows = [
    {
      **row,
      "sample_index": "1",
      "answer": "B",
      "question_type": "multi-choice",
    },
    {
      **row,
      "sample_index": "2",
      "answer": "5\\sqrt{2}",
      "question_type": "free",
    },
    {**row, "sample_index": "3", "problem_version": "Text Lite"},
  ]
  put(folder / "testmini.json", json.dumps(rows))


def dynamath(folder):
  for trial in (1, 2):
    rows = {
      "1": {
        "question": "Period?",
        "answer": "2.0944",
        "answer_type": "float",
        "subject": "analytic     geometry",
        "level": "high school",
      },
      "2": {
        "question": "Which? (A) yes (B) no",
        "answer": "B",
        "answer_type": "multiple choice",
        "subject": "statistics",
        "level": "undergraduate",
      },
      "3": {
        "question": "Time?",
        "answer": "3:0",
        "answer_type": "text",
        "subject": "statistics",
        "level": "undergraduate",
      },
      "4": {
        "question": "Where?",
        "answer": "(3.966, 0.519)",
        "answer_type": "text",
        "subject": "statistics",
        "level": "undergraduate",
      },
    }
    for number, row in rows.items():
      row["image"] = f"image/image{number}.png"
    put(folder / f"trial{trial}/dataset.json", json.dumps(rows))


def mathvision(folder):
  row = {"image": "images/1.jpg", "level": 2, "subject": "algebra"}
  jsonl(
    folder / "data/test.jsonl",
    [
      {**row, "id": "1", "question": "?", "options": [], "answer": "60"},
      {
        **row,
        "id": "2",
        "question": "?",
        "options": ["$1$", "$\\frac{1}{3}$"],
        "answer": "B",
      },
      {
        **row,
        "id": "3",
        "question": "?",
        "options": list("ABCDE"),
        "answer": "D",
        "subject": "counting",
      },
      {
        **row,
        "id": "4",
        "question": "?",
        "options": ["$8 \\mathrm{~kg}$", "$80 \\mathrm{~kg}$"],
        "answer": "A",
      },
    ],
  )


def mv_math(folder):
  row = {"input_image": ["1.jpg", "2.jpg"], "subject": "Algebra"}
  rows = [
    {**row, "problem_id": 1, "answer": "B", "answer_type": "choice"},
    {**row, "problem_id": 2, "answer": "$7.0$ m", "answer_type": "single-step"},
    {
      **row,
      "problem_id": 3,
      "answer": "(1) B (3, 5); (2) $(3, 4)$；（3）7.5.",
      "answer_type": "multi-step",
    },
  ]
  for each in rows:
    each["question"] = "<image_1> <image_2>"
  put(folder / "data/MV-MATH.json", json.dumps(rows))


def olympiadbench(folder):
  row = {
    "question": "Find it.",
    "context": None,
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    "subfield": "Mechanics",
  }
  parquet(
    folder / "OE_TO_physics_en_COMP/OE_TO_physics_en_COMP.parquet",
    [
      {**row, "id": 1, "final_answer": ["9.8"], "error": "1e-1", "unit": "m/s"},
      {
        **row,
        "id": 2,
        "final_answer": ["1", "2"],
        "is_multiple_answer": True,
      },
    ],
  )
  parquet(
    folder / "OE_TO_maths_zh_CEE/OE_TO_maths_zh_CEE.parquet",
    [{**row, "id": 3, "final_answer": ["$(1,2)$"], "answer_type": "Tuple"}],
  )


BUILDERS = {
  builder.__name__: builder
  for builder in (
    mmmu,
    mmmu_pro,
    mathvista,
    mathverse,
    dynamath,
    mathvision,
    mv_math,
    olympiadbench,
  )
}
