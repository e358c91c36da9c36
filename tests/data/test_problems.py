"""The JSONL schema: every mistake is found and named."""

import dataclasses
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sophia_jax.data.problems import check, load_examples, load_problems
from sophia_jax.data.schema import schema_of
from sophia_jax.files import write_jsonl
from sophia_jax.types import Example, Problem, SophiaError
from tests.data.data_samples import FIXTURES, command

RIGHT = {"id": "1", "question": "How many?", "answer": "6"}


@pytest.fixture
def write(tmp_path):
  """write(line, ...) -> path; a line is a record, a string or bytes."""
  Image.new("RGB", (20, 10)).save(tmp_path / "a.png")

  def to_file(*lines):
    path = tmp_path / "p.jsonl"
    parts = []
    for line in lines:
      text = json.dumps(line) if isinstance(line, dict) else line
      parts.append(text.encode() if isinstance(text, str) else text)
    path.write_bytes(b"\n".join(parts) + b"\n")
    return path

  return to_file


# --------------------------------------------------------------------- reading
def test_problems_with_everything(write, tmp_path):
  path = write(
    {
      "id": "mv-1",
      "images": ["a.png", "a.png"],
      "question": "Which of <image> and <image>?",
      "answer": "B",
      "answer_type": "choice",
      "choices": ["left", "right"],
      "hint": "Look.",
      "difficulty": "hard",
      "source": "test",
    },
    "",
    {"id": "2", "question": "6 × 7?\nSay.", "answer": "42", "tolerance": [1]},
  )
  image = str(tmp_path / "a.png")
  assert load_problems(path, decode=True) == [
    Problem(
      id="mv-1",
      images=(image, image),
      question="Which of <image> and <image>?",
      answer="B",
      answer_type="choice",
      choices=("left", "right"),
      hint="Look.",
      difficulty="hard",
      source="test",
    ),
    Problem(id="2", question="6 × 7?\nSay.", answer="42", tolerance=(1,)),
  ]


def test_examples(write, tmp_path):
  path = write(
    {"id": "1", "images": ["a.png"], "question": "What?", "response": "A cat."},
    {
      "id": "2",
      "question": "Q",
      "response": "R",
      "system": "",
      "weight": 0.5,
    },
    {"id": "3", "question": "Q", "response": "R", "system": None, "weight": 2},
  )
  assert load_examples(path) == [
    Example(
      id="1",
      images=(str(tmp_path / "a.png"),),
      question="What?",
      response="A cat.",
    ),
    Example(id="2", question="Q", response="R", system="", weight=0.5),
    Example(id="3", question="Q", response="R", weight=2),
  ]


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
  write({**RIGHT, "images": ["./a.png"]})
  monkeypatch.chdir(tmp_path.parent)
  found = load_problems(os.path.join(tmp_path.name, "p.jsonl"))
  assert found[0].images == (str(tmp_path / "a.png"),)


def test_schemas_are_the_dataclasses():
  for schema, cls in (
    (schema_of(False), Problem),
    (schema_of(True), Example),
  ):
    assert set(schema) == {f.name for f in dataclasses.fields(cls)}


# ---------------------------------------------------------------------- errors
@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("{", "bad JSON: .*; write one object a line"),
    ('{"id": NaN}x', "bad JSON"),
    ("[1]", "must be an object, not a list"),
    ('"a"', "must be an object, not a string"),
    ("null", "must be an object, not null"),
    ("[" * 100000, "bad JSON: nested too deeply"),
    ('{"id": "1", "id": "2"}', "bad JSON: the key 'id' twice"),
    (b'{"id": "\xff"}', "not UTF-8 at byte 8; save the file as UTF-8"),
    ({**RIGHT, "qestion": "x"}, "unknown key 'qestion'; did you mean 'quest"),
    ({"question": "Q", "answer": "1"}, "id is missing"),
    ({"id": "1", "answer": "1"}, "question is missing"),
    ({"id": "1", "question": "Q"}, "answer is missing"),
    ({**RIGHT, "id": " "}, "id is empty"),
    ({**RIGHT, "question": "\n"}, "question is empty"),
    ({**RIGHT, "answer": ""}, "answer is empty"),
    ({**RIGHT, "id": 1}, "id must be a string, not a number; put it in quotes"),
    ({**RIGHT, "answer": 6}, "answer must be a string, not a number"),
    ({**RIGHT, "answer": None}, "answer must be a string, not null"),
    ({**RIGHT, "hint": True}, "hint must be a string, not true or false"),
    ({**RIGHT, "images": "a.png"}, "images must be a list of strings, not a s"),
    ({**RIGHT, "images": ["a.png", 3]}, "images item 1 must be a string"),
    ({**RIGHT, "images": [""]}, "images item 0 is empty"),
    ({**RIGHT, "choices": {"A": "x"}}, "choices must be a list .*an object"),
    ({**RIGHT, "id": "a\nb"}, "id has a line end"),
    ({**RIGHT, "images": ["none.png"]}, r"image .*none\.png: no such image"),
    ({**RIGHT, "images": ["http://x/a.png"]}, "no such image"),
    ({**RIGHT, "images": ["a\0.png"]}, r"images item 0 has the character U\+0"),
    ({**RIGHT, "images": ["a\n.png"]}, "images item 0 has a line end"),
    ({**RIGHT, "images": ["\ud800"]}, r"images item 0 has the character U"),
    ({**RIGHT, "images": ["."]}, "cannot read"),
    ({**RIGHT, "images": ["p.jsonl"]}, r"p\.jsonl: cannot read this image"),
    ({**RIGHT, "answer_type": "numbr"}, "'numbr'.*did you mean 'number'"),
    ({**RIGHT, "tags": ["a"]}, "tags must be an object, not a list; for"),
    ({**RIGHT, "tags": {"level": 3}}, "tags 'level' must be a string, not a"),
    ({**RIGHT, "answer_type": ["number"]}, "answer_type is "),
    ({**RIGHT, "tolerance": 0.1}, r"tolerance must be a list.*\[0\.01\]"),
    ({**RIGHT, "tolerance": ["0.1"]}, "tolerance must hold numbers"),
    ({**RIGHT, "tolerance": [-1]}, "tolerance has -1; use finite"),
    (
      {**RIGHT, "answer_type": "math", "tolerance": [0.1]},
      "tolerance with answer_type 'math', which takes none; use 'olympiad'",
    ),
    (
      {**RIGHT, "choices": ["x", "y"], "answer": "C"},
      "answer 'C' is none of the choices; give its letter, A to B",
    ),
    (
      {**RIGHT, "answer_type": "choice", "answer": "6"},
      "none of the choices; give its letter, A to Z",
    ),
    ({**RIGHT, "choices": ["x"] * 27, "answer": "A"}, "only 26 letters"),
    ({**RIGHT, "answer_type": "box"}, "answer '6' is no box; write .left, top"),
    (
      {**RIGHT, "answer_type": "box", "answer": "[1, 1, 0, 2]"},
      "no box; .*left < right",
    ),
    ({**RIGHT, "question": "a <img> b"}, "question has the image token <img>"),
    ({**RIGHT, "answer": "</img>"}, "answer has the image token </img>"),
    ({**RIGHT, "hint": "<IMG_CONTEXT>"}, "image token <IMG_CONTEXT>; write <i"),
    ({**RIGHT, "question": "See <image>."}, "1 <image> for 0 images"),
    (
      {**RIGHT, "question": "<image> <image>", "images": ["a.png"]},
      "2 <image> for 1 images; write one for each",
    ),
    (
      {**RIGHT, "question": "<video> <video 2>", "images": ["a.png"]},
      "2 <video>; a question shows one",
    ),
    ({**RIGHT, "question": "a\x00b"}, r"question has the character U\+0000"),
    ({**RIGHT, "question": "a\x1bb"}, r"the character U\+001B; remove it"),
    ({**RIGHT, "answer": "\ud83d"}, r"answer has the character U\+D83D"),
  ],
)
def test_each_error(write, line, message):
  path = write(RIGHT | {"id": "0"}, "", line)
  errors = check(path)
  assert [number for number, _ in errors] == [3]
  with pytest.raises(SophiaError, match=rf"p\.jsonl:3: .*{message}") as e:
    load_problems(path)
  assert "\n" not in str(e.value)
  assert ";" in str(e.value)


@pytest.mark.parametrize("text", ["id,question\n", '[{"id": "1"}]\n'])
def test_a_file_of_another_kind_says_how_it_is_imported(tmp_path, text):
  path = tmp_path / ("d.json" if text[0] == "[" else "d.csv")
  path.write_text(text, encoding="utf-8")
  said = rf":1: .*datasets import .* makes it of a {path.suffix} file"
  with pytest.raises(SophiaError, match=said):
    load_problems(path)


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    ({"response": ""}, "response is empty"),
    ({"weight": "1"}, "weight must be a number, not a string"),
    ({"weight": True}, "weight must be a number"),
    ({"weight": -1}, "weight is -1; use a finite number from 0"),
    ({"weight": float("nan")}, "weight is nan"),
    ({"system": 3}, "system must be a string"),
    ({"answer": "6"}, "unknown key 'answer'"),
  ],
)
def test_each_error_of_an_example(write, extra, message):
  path = write({"id": "1", "question": "Q", "response": "R", **extra})
  with pytest.raises(SophiaError, match=rf"p\.jsonl:1: {message}"):
    load_examples(path)


def test_a_duplicate_names_the_first(write):
  path = write(RIGHT, {**RIGHT, "id": "2"}, RIGHT)
  assert check(path) == [(3, "id '1' is taken by line 1; give each its own")]


def test_all_errors_of_a_line_and_of_all_lines(write):
  path = write({"id": 1, "foo": 2, "images": ["none.png"]}, "{")
  lines = [line for line, _ in check(path)]
  assert lines == [1] * 5 + [2]


def test_a_choice_may_be_given_by_its_text(write):
  path = write({**RIGHT, "choices": ["red", "blue"], "answer": "blue"})
  assert check(path) == []


def test_empty_files(write, tmp_path):
  for path in (write(), write("", "  ")):
    with pytest.raises(SophiaError, match=r"p\.jsonl:1: the file holds no"):
      load_problems(path)
  with pytest.raises(SophiaError, match=r"none\.jsonl: No such file.*; check"):
    load_problems(tmp_path / "none.jsonl")
  with pytest.raises(SophiaError, match="Is a directory"):
    check(tmp_path)


def test_a_byte_order_mark_is_no_error(write):
  path = write(b"\xef\xbb\xbf" + json.dumps(RIGHT).encode())
  assert load_problems(path)[0].id == "1"


def test_only_the_check_decodes(write, tmp_path):
  """A truncated JPEG has a good header."""
  whole = (FIXTURES / "mathvision/766.jpg").read_bytes()
  (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
  path = write({**RIGHT, "images": ["cut.jpg"]})
  assert len(load_problems(path)) == 1
  assert "cut.jpg: cannot read this image" in check(path)[0][1]
  with pytest.raises(SophiaError, match=r"p\.jsonl:1: image .*cut\.jpg"):
    load_problems(path, decode=True)


text = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1)
words = text.filter(str.strip).filter(lambda t: "<" not in t)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_what_is_written_is_read(pairs):
  path = what_is_written.path
  records = [
    {"id": str(i), "question": q, "answer": a} for i, (q, a) in enumerate(pairs)
  ]
  assert write_jsonl(path, records) == len(records)
  assert load_problems(path) == [Problem(**r) for r in records]


class what_is_written:  # hypothesis and function fixtures do not mix
  path: object


@pytest.fixture(autouse=True, scope="module")
def _share(tmp_path_factory):
  what_is_written.path = tmp_path_factory.mktemp("written") / "p.jsonl"


@given(
  st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: (
      st.lists(x, max_size=3)
      | st.dictionaries(
        st.sampled_from([*schema_of(False), "x"]), x, max_size=6
      )
    ),
  )
)
def test_no_json_makes_it_crash(value):
  path = what_is_written.path
  path.write_text(json.dumps(value), encoding="utf-8")
  for line, message in check(path):
    assert line == 1
    assert "\n" not in message


# --------------------------------------------------------------------- writing
def test_nothing_is_half_written(tmp_path):
  path = tmp_path / "out" / "p.jsonl"
  write_jsonl(path, [RIGHT])

  def broken():
    yield {"id": "2"}
    raise RuntimeError

  with pytest.raises(RuntimeError):
    write_jsonl(path, broken())
  with pytest.raises(ValueError, match="JSON"):
    write_jsonl(path, [{"x": float("nan")}])
  assert json.loads(path.read_text()) == RIGHT
  assert os.listdir(path.parent) == ["p.jsonl"]


# ---------------------------------------------------------------- command line
def test_the_command_prints_every_error(write):
  path = write(RIGHT, {"id": "1", "question": 3}, "{")
  done = command("check", path)
  assert done.returncode == 1
  lines = done.stdout.splitlines()
  assert len(lines) == 4
  assert all(line.startswith(f"{path}:") for line in lines)
  assert [line.split(":")[1] for line in lines] == ["2", "2", "2", "3"]
  assert "Traceback" not in done.stderr
  assert done.stderr.strip() == f"error: {path}: 4 errors"


def test_the_command_on_a_right_file(write):
  path = write({**RIGHT, "images": ["a.png"]}, {**RIGHT, "id": "2"})
  done = command("check", path)
  assert done.returncode == 0
  assert done.stdout == f"{path}: 2 problems, 1 images, no errors\n"
  assert not done.stderr


def test_the_command_reads_examples_and_helps(write, tmp_path):
  path = write({"id": "1", "question": "Q", "response": "R"})
  assert command("check", path).returncode == 1
  assert "1 examples" in command("check", "--examples", path).stdout
  done = command("check", tmp_path / "none.jsonl")
  assert done.returncode == 1
  assert "none.jsonl: No such file or directory; check the path" in done.stderr
  assert "example: python -m sophia_jax.datasets check" in (
    command("--help").stdout
  )
  assert command().returncode == 1
