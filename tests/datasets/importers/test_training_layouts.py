"""Each training set in its published layout becomes problems or examples."""

import pyarrow as pa
import pytest

from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.types import SophiaError

HINT = "Hint: Please answer with the option letter."


def chat(*values):
  speakers = ("human", "gpt") * len(values)
  return [{"from": s, "value": v} for s, v in zip(speakers, values)]


def test_mathv360k(run, put):
  put("data_images/TabMWP/images/17.png")
  put("data_images/IconQA/images/1.png")
  choices = "Choices:\n(A) 3\n(B) 4"
  put(
    "train_samples_all_tuning.json",
    [
      {
        "id": "identity",
        "image": "TabMWP/images/17.png",
        "conversations": chat(
          f"<image>\n{HINT}\nQuestion: How many?\n{choices}",
          "The answer is B",
        ),
      },
      {
        "id": "identity",
        "image": "IconQA/images/1.png",
        "conversations": chat("<image>\nWhat is x?", "The answer is 7.5."),
      },
      {
        "id": "identity",
        "image": "IconQA/images/1.png",
        "conversations": chat(
          f"<image>\nQuestion: Which?\n{choices}", "The answer is 9"
        ),
      },
      {
        "id": "identity",
        "image": "IconQA/images/missing.png",
        "conversations": chat("<image>\nWhat?", "The answer is 1"),
      },
    ],
  )
  (first, second), report, listed = run("mathv360k")
  assert (first.hint, first.question) == (HINT, "How many?")
  assert (first.choices, first.answer) == (("3", "4"), "B")
  assert (second.question, second.answer) == ("What is x?", "7.5")
  assert [p.id for p in (first, second)] == ["mathv360k/1", "mathv360k/2"]
  assert report.broken == {"answer": 1, "image": 1}
  assert "train_samples_all_tuning.json:" in listed[0]
  assert "(item 3): answer '9' is none of the choices" in listed[0]
  assert "data_images; unpack the images there" in listed[1]
  refuse_evaluation([first, second])
  examples, _, _ = run("mathv360k", kind="examples")
  assert examples[0].response == "The answer is B"


def test_rlaif_v(run, put, png):
  def row(idx, seed, chosen):
    return {
      "ds_name": "RLAIF-V",
      "image": {"bytes": png(seed), "path": "../../evil.png"},
      "question": "What is shown?",
      "chosen": chosen,
      "rejected": "A dog.",
      "origin_dataset": "VQAv2",
      "origin_split": "{}",
      "idx": str(idx),
      "image_path": "../../evil.png",
    }

  put("RLAIF-V-Dataset_000.parquet", [row(0, 1, "A cat."), row(1, 1, "Cat.")])
  put("RLAIF-V-Dataset_001.parquet", [row(0, 2, "Two.")])
  examples, _, listed = run("rlaif_v")
  assert not listed
  assert [e.response for e in examples] == ["A cat.", "Cat.", "Two."]
  assert [e.id for e in examples] == ["rlaif_v/1", "rlaif_v/2", "rlaif_v/3"]
  first, second, third = (e.images[0] for e in examples)
  assert first == second != third
  assert "/out/rlaif_v_images/" in first and "evil" not in first


def test_wildvision(run, put, png):
  def talk(*contents):
    roles = ("user", "assistant") * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents)]

  def row(winner, *more):
    return {
      "question_id": "q",
      "model_a": "a",
      "model_b": "b",
      "conversation_a": talk("Hm?", "From A.", *more),
      "conversation_b": talk("Hm?", "From B."),
      "language": "English",
      "image": {"bytes": png(1), "path": None},
      "turn": 1 + len(more) // 2,
      "anony": True,
      "winner": winner,
    }

  winners = ("model_b", "tie", "tie (bothbad)", "model_a")
  rows = [row(w) for w in winners] + [row("model_a", "And?", "So.")]
  put("data/test-00000-of-00001.parquet", rows)
  examples, report, _ = run("wildvision")
  assert [e.response for e in examples] == ["From B.", "From A.", "From A."]
  assert report.skipped == {"no winner": 2}
  assert report.notes == {"later turns left out": 2}


def test_numinamath(run, put):
  put(
    "data/train-00000-of-00001.parquet",
    [
      {
        "source": "cn_k12",
        "problem": "What is $1+1$?",
        "solution": r"\boxed{1} no, \boxed{\frac{2}{1}}.",
      },
      {"source": "aops", "problem": "Prove it.", "solution": "Clear."},
      {
        "source": "olympiads",
        "problem": r"Every morning Aya goes for a $9$-kilometer-long walk.",
        "solution": r"\boxed{204}",
      },
    ],
  )
  put("data/test-00000-of-00001.parquet", [{"problem": "not read"}])
  (problem,), report, _ = run("numinamath")
  assert problem.answer == r"\frac{2}{1}"
  assert report.skipped == {"no final answer": 1, "AIME 2024": 1}
  examples, _, _ = run("numinamath", kind="examples")
  assert [e.question for e in examples] == ["What is $1+1$?", "Prove it."]


def test_numinamath_1_5(run, put):
  row = {"problem": "P", "solution": "S", "problem_is_valid": "Yes"}
  put(
    "data/train-00000-of-00001.parquet",
    [
      {**row, "answer": "4", "solution_is_valid": "Yes"},
      {**row, "answer": "proof", "solution_is_valid": "Yes"},
      {**row, "answer": "5", "solution_is_valid": "No"},
    ],
  )
  (problem,), report, _ = run("numinamath")
  assert problem.answer == "4"
  assert report.skipped == {"no final answer": 1, "marked as not valid": 1}


def test_math(run, put):
  def row(answer):
    solution = rf"Hence \boxed{{{answer}}}."
    return {"problem": "P?", "level": "Level 5", "solution": solution}

  put("train/algebra/1.json", row("2"))
  put("train/geometry/10.json", row("(1,2)"))
  put("test/algebra/1.json", row("not read"))
  problems, _, _ = run("math")
  assert [p.answer for p in problems] == ["2", "(1,2)"]
  examples, _, _ = run("math", kind="examples")
  assert examples[0].response == r"Hence \boxed{2}."
  path = put("m500.jsonl", [{**row("3"), "unique_id": "test/algebra/1.json"}])
  with pytest.raises(SophiaError, match="no row can be used"):
    run("math", path)


def test_amc_aime(run, put):
  url = "https://artofproblemsolving.com/wiki/index.php/"
  put(
    "data/train-00000-of-00001.parquet",
    [
      {"id": 1, "problem": "P1", "answer": 142.0, "url": url + "2022_AMC_12A"},
      {"id": 2, "problem": "P2", "answer": 3.0, "url": url + "2024_AMC_12A"},
      {"id": 3, "problem": "P3", "answer": 4.0, "url": url + "2024_AIME_I_P"},
      {"id": 4, "problem": "P4", "answer": 5.0, "url": url + "2023_AIME_II_P"},
    ],
  )
  problems, report, _ = run("amc_aime")
  assert [p.answer for p in problems] == ["142", "3", "5"]
  assert report.skipped == {"AIME 2024": 1}


def test_amc_aime_as_csv(run, src):
  path = src / "aime.csv"
  path.write_text(
    "ID,Year,Problem Number,Question,Answer,Part\n"
    '1983-1,1983,1,"Let $x$,\nthen?",60,\n'
    "2024-I-1,2024,1,Find it.,204,I\n"
    "2025-I-1,2024,1,Find it.,204,I\n"
    "x,2000,1,an ox,1\n"
  )
  (problem,), report, listed = run("amc_aime")
  assert (problem.question, problem.answer) == ("Let $x$,\nthen?", "60")
  assert report.skipped == {"AIME 2024": 2}
  assert listed[0].startswith(f"{path}:6: has not as many fields")


# -------------------------------------------------------------------- InternVL
def conversations(put, count=4):
  put("coco/train/1.png")
  put("coco/2.png")
  put(
    "anno/vqa.jsonl",
    [
      {
        "id": i,
        "image": "train/1.png",
        "conversations": chat(f"<image>\nQ{i}", f"R{i}"),
      }
      for i in range(count)
    ],
  )


def test_internvl(run, put, src):
  conversations(put)
  system = {"from": "system", "value": "Be brief."}
  put(
    "anno/text.jsonl",
    [
      {"id": 0, "conversations": [system, *chat("Hi", "Ho", "Hm", "Ha")]},
      {"id": 1, "video": "v.mp4", "conversations": chat("<video>", "V")},
      {
        "id": 2,
        "image": ["2.png", "train/1.png"],
        "conversations": chat("<image> or <image>?", "Both."),
        "width_list": [8, 8],
        "height_list": [6, 6],
      },
      {"id": 3, "image": "2.png", "conversations": chat("Q", "R")[::-1]},
      {"id": 4, "conversations": chat("<image>\nWhat?", "R")},
    ],
  )
  common = {"root": "coco", "data_augment": False, "length": 4}
  put(
    "meta.json",
    {
      "vqa": {**common, "annotation": "anno/vqa.jsonl", "repeat_time": 2},
      "part": {**common, "annotation": "anno/vqa.jsonl", "repeat_time": 0.5},
      "text": {**common, "annotation": "anno/text.jsonl", "repeat_time": 1},
    },
  )
  examples, report, listed = run("internvl", src / "meta.json")
  names = [e.id.removeprefix("internvl/") for e in examples]
  assert names == [
    *(f"vqa/{i}" for i in (1, 2, 3, 4)),
    *(f"vqa/{i}~2" for i in (1, 2, 3, 4)),
    *("part/1", "part/2", "text/1", "text/3"),
  ]
  assert (examples[-2].system, examples[-2].response) == ("Be brief.", "Ho")
  assert len(examples[-1].images) == 2
  assert report.skipped == {"video": 1}
  assert report.notes == {"later turns left out": 2}
  assert [line.split(": ", 1)[1] for line in listed] == [
    "turns do not begin human, gpt; fix the row",
    "has <image> and no image; fix the row",
  ]
  assert "anno/text.jsonl:4" in listed[0]


def test_internvl_without_meta(run, put):
  put("train/1.png")
  path = put(
    "vqa.jsonl",
    [{"image": "train/1.png", "conversations": chat("<image>\nQ", "R")}],
  )
  (example,), _, _ = run("internvl", path)
  assert example.id == "internvl/1"


@pytest.mark.parametrize(
  ("meta", "message"),
  [
    ([], "must be an object of data sets"),
    ({"a": {"root": "coco"}}, "'a' needs \"annotation\""),
    ({"a": {"annotation": "anno/vqa.jsonl", "repeat_time": 1.5}}, "is 1.5"),
    ({"a": {"annotation": "none.jsonl"}}, "none.jsonl: No such file"),
  ],
)
def test_a_wrong_meta(run, put, src, meta, message):
  conversations(put)
  path = put("meta.json", meta)
  with pytest.raises(SophiaError, match=message):
    run("internvl", path)


# --------------------------------------------------------------------- columns
def test_columns(run, put, png):
  put(
    "set.parquet",
    [
      {
        "problem": "Which?",
        "meta": {"gold": 2.0, "options": ["1", "2"]},
        "pics": [{"bytes": png(1)}, {"bytes": png(2)}],
      }
    ],
  )
  columns = {
    "question": "problem",
    "answer": "meta.gold",
    "choices": "meta.options",
    "images": "pics",
  }
  (problem,), _, _ = run("columns", columns=columns)
  assert (problem.answer, problem.choices) == ("2", ("1", "2"))
  assert (len(problem.images), problem.source) == (2, "src")


def test_columns_of_messages(run, put):
  talk = [{"role": "user", "content": "Q"}, {"role": "a", "content": "R"}]
  put("set.jsonl", [{"messages": talk, "w": 0.5}, {"messages": [], "w": 1}])
  columns = {
    "question": "messages.0.content",
    "response": "messages.1.content",
    "weight": "w",
  }
  (example,), _, listed = run("columns", columns=columns)
  assert (example.question, example.response) == ("Q", "R")
  assert example.weight == 0.5
  assert "set.jsonl:2: has no column 'messages.0.content'" in listed[0]


def test_columns_of_what_datasets_saves(run, src):
  table = pa.Table.from_pylist([{"q": f"Q{i}", "a": i} for i in range(100)])
  path = src / "data-00000-of-00001.arrow"
  with (
    pa.OSFile(str(path), "wb") as file,
    pa.ipc.new_stream(file, table.schema) as writer,
  ):
    writer.write_table(table, max_chunksize=70)
  problems, _, _ = run("columns", columns={"question": "q", "answer": "a"})
  assert [p.answer for p in problems] == [str(i) for i in range(100)]


def test_columns_need_a_map(run, put):
  put("set.jsonl", [{"q": "Q"}])
  with pytest.raises(SophiaError, match=r"needs --columns.*There are: q"):
    run("columns")
  with pytest.raises(SophiaError, match="no row can be used"):
    run("columns", columns={"question": "p", "answer": "q"})
