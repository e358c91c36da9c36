"""Broken rows, hostile text and large files: every row is accounted for."""

import json
import os
import re
import sys
import tracemalloc

import pytest

from sophia_jax.datasets.__main__ import main
from sophia_jax.datasets.importers import IMPORTERS, find_importer
from sophia_jax.datasets.importers.rows import read_rows
from sophia_jax.datasets.importers.text import (
  boxed,
  place_images,
  split_question,
  stated_answer,
)
from sophia_jax.types import SophiaError
from tests.data.data_samples import command

COLUMNS = {"question": "q", "answer": "a", "images": "i"}
TEXT = {"question": "q", "answer": "a"}


def many(count):
  return [{"q": f"Question {i}?", "a": i} for i in range(count)]


def left_behind(tmp_path):
  return sorted(os.listdir(tmp_path / "out"))


# ------------------------------------------------------------------ broken rows
def test_three_broken_lines_of_many(run, put, tmp_path):
  rows = many(3000)
  rows[9] = '{"q": "cut off'
  rows[999] = {"q": "", "a": 1}
  rows[2000] = "[1]"
  path = put("set.jsonl", rows)
  problems, report, listed = run("columns", columns=TEXT)
  assert len(problems) == 2997
  assert [line.split(": ")[0] for line in listed] == [
    f"{path}:{line}" for line in (10, 1000, 2001)
  ]
  assert all(";" in line for line in listed)
  assert report.broken.total() == 3
  assert report.broken["question is empty"] == 1
  assert left_behind(tmp_path) == ["columns.jsonl"]


def test_strict_lists_them_all_and_writes_nothing(run, put, png, tmp_path):
  image = {"bytes": png(1)}
  good = {"q": "Q", "a": "A", "i": image}
  put("set.parquet", [good, {**good, "q": ""}, good, {**good, "a": "\x00"}])
  listed = []
  with pytest.raises(SophiaError, match="2 broken rows, so nothing was wri"):
    run("columns", columns=COLUMNS, strict=True, listed=listed)
  assert left_behind(tmp_path) == []
  assert len(listed) == 2
  problems, _, listed = run("columns", columns=COLUMNS)
  assert (len(problems), len(listed)) == (2, 2)
  assert left_behind(tmp_path) == ["columns.jsonl", "columns_images"]


def test_a_failed_import_keeps_what_was_there(run, put, tmp_path):
  path = put("set.jsonl", many(3))
  run("columns", columns=TEXT)
  before = (tmp_path / "out" / "columns.jsonl").read_bytes()
  put("set.jsonl", [*many(2), "{"])
  with pytest.raises(SophiaError):
    run("columns", columns=TEXT, strict=True)
  path.write_text('{"q": ""}\n')
  with pytest.raises(SophiaError, match=r"no row can be used \(0 broken, 1"):
    run("columns", columns={"question": "q"})
  assert (tmp_path / "out" / "columns.jsonl").read_bytes() == before
  assert left_behind(tmp_path) == ["columns.jsonl"]


def test_an_id_is_taken_once(run, put):
  put("set.jsonl", [{"k": "x", **row} for row in many(2)])
  problems, report, (line,) = run("columns", columns={"id": "k", **TEXT})
  assert [p.id for p in problems] == ["src/x"]
  assert "set.jsonl:2: id 'src/x' is taken" in line
  assert report.broken == {"id": 1}


def test_only_so_many_are_listed(run, put, monkeypatch):
  monkeypatch.setattr("sophia_jax.datasets.importers.run.MAX_LISTED", 2)
  put("set.jsonl", [*many(1), *["x"] * 5])
  _, report, listed = run("columns", columns=TEXT)
  assert len(listed) == 2
  assert report.broken == {"bad JSON": 5}


# ----------------------------------------------------------------- hostile text
@pytest.mark.parametrize(
  ("question", "message"),
  [
    ("See <img>.", "question has the image token <img>"),
    ("See </img>.", "question has the image token </img>"),
    ("See <IMG_CONTEXT>.", "question has the image token <IMG_CONTEXT>"),
    ("A lone \ud800.", r"question has the character U\+D800"),
    ("A bell \x07.", r"question has the character U\+0007"),
    ("Delete \x7f.", r"question has the character U\+007F"),
    (["a", "list"], "has a list where text belongs"),
    ({"an": "object"}, "has a dict where text belongs"),
  ],
)
def test_hostile_text_breaks_its_row_alone(run, put, question, message):
  put("set.jsonl", [*many(1), {"q": question, "a": "1"}])
  problems, _, (line,) = run("columns", columns=TEXT)
  assert len(problems) == 1
  assert re.search(message, line)


def test_a_hostile_key_is_printed_harmlessly(run, put):
  key = "\x1b[2J" + "k" * 10_000
  put("set.jsonl", [*many(1), f'{{"{key}": 1, "{key}": 2}}', {key: "Q"}])
  _, report, listed = run("columns", columns=TEXT)
  assert report.broken.total() == len(listed) == 2
  assert all(len(line) < 500 and line.isprintable() for line in listed)


def test_right_if_unusual_text_is_kept(run, put):
  texts = ["x" * 10_000_000, "<|im_end|> is text", "\u202eRTL \U0001f600\t"]
  put("set.jsonl", [{"q": text, "a": "1"} for text in texts])
  problems, _, listed = run("columns", columns=TEXT)
  assert not listed
  assert [p.question for p in problems] == texts


def test_long_runs_take_no_longer_than_other_text():
  for run_of in ("\n", " ", "<image", "\\boxed{", "(A)", "Question:"):
    text = "Hint: " + run_of * 200_000 + "\nChoices:"
    split_question(text)
    stated_answer(text)
    place_images([text], 1)
    boxed(text)
  assert place_images(["<image" + "9" * 5000 + ">"], 1)


def test_bytes_that_are_no_text(run, src):
  path = src / "set.jsonl"
  path.write_bytes(b'{"q": "\xff", "a": 1}\n{"q": "Q", "a": 1}\n')
  problems, _, (line,) = run("columns", columns=TEXT)
  assert len(problems) == 1
  assert line == f"{path}:1: not UTF-8 at byte 7; save the file as UTF-8"


def test_bytes_that_are_no_text_in_parquet(run, src):
  import pyarrow as pa
  import pyarrow.parquet as pq

  raw = pa.array([b"ok", b"\xff", b"fine"], pa.binary())
  text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
  table = pa.table({"q": text, "a": ["1", "2", "3"]})
  pq.write_table(table, src / "set.parquet")
  problems, _, (line,) = run("columns", columns=TEXT)
  assert [p.question for p in problems] == ["ok", "fine"]
  assert "set.parquet: row 2: not UTF-8" in line


# ----------------------------------------------------------------------- images
@pytest.mark.parametrize(
  "name", ["../out.png", "a/../../out.png", "/etc/passwd", "~/x", "\x00"]
)
def test_no_path_leads_out(run, put, tmp_path, png, name):
  (tmp_path / "out.png").write_bytes(png(1))
  put("in.png")
  rows = [{"q": "Q", "a": "1", "i": i} for i in ("in.png", name)]
  put("set.jsonl", rows)
  problems, _, (line,) = run("columns", columns=COLUMNS)
  assert len(problems) == 1
  assert "image" in line and ";" in line


def test_bytes_that_are_no_image(run, put, png, tmp_path):
  cut = png(1)[:20]
  rows = [{"q": "Q", "a": "1", "i": b} for b in (png(1), b"GIF8?", cut, b"")]
  put("set.parquet", rows)
  problems, report, listed = run("columns", columns=COLUMNS)
  assert len(problems) == 1
  assert report.broken == {"image inside the data": 3}
  assert "image inside the data: cannot read this image" in listed[0]
  kept = [*(tmp_path / "out" / "columns_images").rglob("*.*")]
  assert [path.read_bytes() for path in kept] == [png(1)]


# ------------------------------------------------------------------------- JSON
def values(path):
  return [row.value for row in read_rows([path])]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_read_in_pieces(put, src, monkeypatch, indent):
  monkeypatch.setattr("sophia_jax.datasets.importers.rows._CHUNK", 7)
  rows = [{"a": "\\\"}]é😀" * i, "b": [1.5e10, True, None, {}]}
          for i in range(20)]  # fmt: skip
  path = src / "rows.json"
  path.write_text(json.dumps(rows, indent=indent))
  assert values(path) == rows
  named = {f"k{i}": row for i, row in enumerate(rows)}
  path.write_text(json.dumps(named, indent=indent))
  assert values(path) == rows
  assert [row.key for row in read_rows([path])] == [*named]
  path.write_text("\ufeff" + json.dumps(rows, ensure_ascii=True))
  assert values(path) == rows


def test_json_of_one_row_or_one_a_line(src):
  path = src / "x.json"
  path.write_text('{"problem": "P", "solution": "S"}')
  assert values(path) == [{"problem": "P", "solution": "S"}]
  path.write_text('{"a": 1}\n{"a": 2}\n')
  assert values(path) == [{"a": 1}, {"a": 2}]
  path.write_text("[]")
  assert values(path) == []
  path.write_text("{}")
  assert values(path) == []


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "the end of the file"),
    ("17", "'1' where one of"),
    ('[\n{"a": 1},\n{"a": }]', r":3: bad JSON: Expecting value"),
    ('[{"a": 1}', "the end of the file"),
    ('[{"a": "x', "Unterminated string"),
    ('[{"a": 1}]]', "after the end"),
    ('[{"a": 1} {"a": 2}]', "'{' where one of"),
    ('{"a": {}, 3: {}}', "'3' where one of"),
    ("[" * 100_000, "nested too deeply"),
    ("[" + "1" * 5000 + "]", "bad JSON"),
  ],
)
def test_a_syntax_error_ends_the_import(src, text, message):
  path = src / "x.json"
  path.write_text(text)
  with pytest.raises(SophiaError, match=message) as e:
    values(path)
  assert str(e.value).startswith(f"{path}:")
  assert "\n" not in str(e.value)


def test_an_item_that_is_no_object(run, src):
  path = src / "x.json"
  path.write_text('[{"q": "Q", "a": "A"},\n3]')
  _, _, (line,) = run("columns", columns=TEXT)
  assert line == f"{path}:2 (item 2): must be an object; write {{...}}"


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.csv", "x.xlsx"])
def test_files_that_are_something_else(src, name):
  path = src / name
  path.write_bytes(b"a\n\x00\xffPK")
  with pytest.raises(SophiaError, match=name) as e:
    values(path)
  assert ";" in str(e.value)


@pytest.mark.parametrize("name", ["set.json", "set.jsonl", "set.parquet"])
def test_memory_does_not_grow_with_the_file(put, name):
  path = put(name, [{"q": "x" * 50_000, "n": i} for i in range(600)])
  tracemalloc.start()
  assert [row.value["n"] for row in read_rows([path])] == [*range(600)]
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 10 << 20, "of 30 MB"


# ------------------------------------------------------------------ the command
def test_the_command(put, tmp_path):
  path = put("set.jsonl", [*many(2), {"q": "Q", "a": ""}, "{"])
  dst = tmp_path / "p.jsonl"
  args = ("import", "--from=columns", "--columns=question=q, answer=a")
  done = command(*args, path, dst)
  assert done.returncode == 0
  assert done.stdout.splitlines() == [
    f"{dst}: 2 problems of set (training)",
    "  broken: 1 bad JSON",
    "  left out: 1 no final answer",
  ]
  (line,) = done.stderr.splitlines()
  assert line.startswith(f"{path}:4: bad JSON")
  dst.unlink()
  done = command(*args, "--strict", path, dst)
  assert done.returncode == 1
  assert "error: " in done.stderr and "1 broken rows" in done.stderr
  assert not dst.exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--from=mathvison"], "did you mean 'mathvision'? Known: amc_aime, "),
    (["--from=?"], "no such data set; known: amc_aime, chat, columns"),
    (["--from=columns", "--columns=q"], "is no KEY=COLUMN"),
    (["--from=columns", "--columns=anwser=a"], "did you mean 'answer'?"),
    (["--from=math", "--as=examples"], "no such file or folder"),
    (["--from=rlaif-v", "--as=problems"], "gives examples, not problems"),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
  src, dst = str(tmp_path / "none"), str(tmp_path / "p.jsonl")
  assert main(["import", *options, src, dst]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and message in line


def test_an_empty_folder_says_what_it_lacks(run):
  with pytest.raises(
    SophiaError, match=r"holds none of test\.jsonl, data/test"
  ):
    run("mathvision")


def test_every_importer_has_a_run_card():
  for name, module in IMPORTERS.items():
    assert find_importer(name).source in (name, "mathverse", "")
    card = sys.modules[module].__doc__
    for heading in ("Command:", "Gives:", "icence", f"--from={name} "):
      assert heading in card or (name, heading) in {
        ("chat", "icence"),
        ("columns", "icence"),
        ("verl", "icence"),
        ("internvl", "icence"),
      }
