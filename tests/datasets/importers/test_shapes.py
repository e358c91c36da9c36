"""The shapes that people hold, imported by name from the command line."""

import base64
import json

import pytest

from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.datasets.__main__ import main
from sophia_jax.datasets.importers.text import plain_gold

OPENAI = [
  {"role": "system", "content": "Be brief."},
  {"role": "user", "content": "<image>What is it?"},
  {"role": "assistant", "content": "A cat."},
]
LLAVA = [
  {"from": "human", "value": "<image>\nWhat is it?"},
  {"from": "gpt", "value": "A cat."},
  {"from": "human", "value": "Sure?"},
  {"from": "gpt", "value": "Yes."},
]


@pytest.fixture
def typed(tmp_path, src):
  """typed(path, *flags) -> the records that the command has written."""

  def run(path, *flags, examples=False):
    dst = tmp_path / "out" / "d.jsonl"
    assert main(["import", *flags, str(path), str(dst)]) == 0
    return (load_examples if examples else load_problems)(dst)

  return run


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_messages(typed, put, png, suffix):
  image = {"bytes": png(1), "path": None}
  if suffix != "parquet":
    image = base64.b64encode(png(1)).decode()
  path = put(f"chats.{suffix}", [{"messages": OPENAI, "images": [image]}])
  (example,) = typed(path, "--from=chat", examples=True)
  assert example.question == "<image>What is it?"
  assert (example.response, example.system) == ("A cat.", "Be brief.")
  assert len(example.images) == 1


@pytest.mark.parametrize("form", [dict, list])
def test_a_struct_and_a_list_of_structs(typed, put, png, form):
  image = {"bytes": png(2), "path": "2.png"}
  row = {"image": image} if form is dict else {"images": [image, image]}
  path = put("t.parquet", [row | {"problem": "What?", "answer": "6"}])
  (problem,) = typed(path, "--from=easyr1")
  assert len(problem.images) == (1 if form is dict else 2)


def test_llavas_json_list(typed, put):
  put("coco/1.png")
  row = {"id": "7", "image": "coco/1.png", "conversations": LLAVA}
  path = put("llava.json", [row, {"id": "8", "conversations": LLAVA[2:]}])
  one, two = typed(path, "--from=llava", examples=True)
  assert one.id == "llava/7" and one.response == "A cat."
  assert one.images[0].endswith("coco/1.png")
  assert (two.question, two.images) == ("Sure?", ())


def test_ms_swifts_problems(typed, put):
  put("1.png")
  row = {"messages": OPENAI[1:2], "images": ["1.png"], "solution": r"\boxed{6}"}
  path = put("swift.jsonl", [row])
  (problem,) = typed(path, "--from=ms_swift", "--as=problems")
  assert problem.answer == "6" and len(problem.images) == 1


def test_verls_columns(typed, put, png):
  row = {
    "data_source": "geo3k",
    "prompt": [{"role": "user", "content": "<image>How long?"}],
    "images": [{"bytes": png(3)}],
    "reward_model": {"style": "rule", "ground_truth": "12"},
    "extra_info": {"split": "train", "index": 4},
  }
  (problem,) = typed(put("train.parquet", [row]), "--from=verl")
  assert problem.id == "train/train/4" and problem.answer == "12"
  assert problem.tags == {"data_source": "geo3k"} and len(problem.images) == 1


def test_columns_of_the_same_name_and_constants(typed, put):
  row = {
    "id": "a",
    "question": "Which?",
    "answer": "(B)",
    "choices": ["x", "y"],
  }
  path = put("rows.jsonl", [row | {"meta": [{"gold": "y"}]}])
  (problem,) = typed(path, "--from=columns")
  assert (problem.id, problem.answer) == ("rows/a", "B")
  columns = "choices=choices,answer_text=meta.0.gold,difficulty='hard'"
  (problem,) = typed(path, "--from=columns", f"--columns={columns}")
  assert (problem.answer, problem.difficulty) == ("B", "hard")


@pytest.mark.parametrize(
  ("gold", "plain"),
  [
    (r"\boxed{B}", "B"),
    (r"$\boxed{ 6 }$", "6"),
    ("(B)", "B"),
    ("B.", "B"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{1} and \boxed{2}", r"\boxed{1} and \boxed{2}"),
    ("(a, b)", "(a, b)"),
    ("B and C.", "B and C."),
    (None, None),
  ],
)
def test_gold_answers_without_their_dress(gold, plain):
  assert plain_gold(gold) == plain


def test_a_row_of_another_shape_says_so(put, tmp_path, capsys):
  path = put("rows.jsonl", [{"text": "What?"}])
  dst = tmp_path / "d.jsonl"
  assert main(["import", "--from=chat", str(path), str(dst)]) == 1
  assert "holds no chat (messages, conv" in capsys.readouterr().err
  assert main(["import", "--from=columns", str(path), str(dst)]) == 1
  assert "There are: text" in capsys.readouterr().err
  assert json.loads(path.read_text()) == {"text": "What?"}
