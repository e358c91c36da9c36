"""Which files of a folder are a data set: kinds, splits, generations."""

import csv
import json
import os

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.datasets.importers.files import (
  SUFFIXES,
  find_files,
  select_files,
  split_of,
)
from sophia_jax.datasets.importers.rows import _READERS
from sophia_jax.datasets.importers.run import import_dataset
from sophia_jax.datasets.importers.text import accepted_answers, quoted_list
from sophia_jax.types import SophiaError

TEXT = {"question": "q", "answer": "a"}
ROWS = [{"q": "Q?", "a": "1"}]


def save_arrow(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.Table.from_pylist(rows)
  with (
    pa.OSFile(str(path), "wb") as file,
    pa.ipc.new_stream(file, table.schema) as writer,
  ):
    writer.write_table(table)


def test_every_kind_that_is_read_is_looked_for():
  assert {*SUFFIXES} == {*_READERS}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("upper", [False, True])
def test_every_kind_is_found_in_a_folder(run, put, src, suffix, upper):
  path = src / f"rows{suffix}"
  if suffix == ".arrow":
    save_arrow(path, ROWS)
  elif suffix in (".csv", ".tsv"):
    with path.open("w", newline="") as file:
      writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
      writer.writerows([["q", "a"], ["Q?", "1"]])
  else:
    put(path.name, ROWS)
  if upper:
    path = path.rename(src / path.name.upper())
  problems, report, _ = run("columns", columns=TEXT)
  assert len(problems) == 1 and report.files == (path.name,)


@pytest.mark.parametrize(
  "name",
  [
    "._set.jsonl",
    ".cache/huggingface/set.jsonl",
    "__MACOSX/set.jsonl",
    "__MACOSX/._set.jsonl",
    "_metadata.jsonl",
    ".ipynb_checkpoints/set.jsonl",
    "dataset_info.json",
  ],
)
def test_companions_are_no_data(run, put, src, name):
  put("set.jsonl", ROWS)
  put(name, ROWS)
  problems, report, listed = run("columns", columns=TEXT)
  assert report.files == ("set.jsonl",) and not listed
  assert len(problems) == 1


@pytest.mark.parametrize(
  ("start", "what"),
  [
    (b"\x00\x05\x16\x07\x00\x02\x00\x00", "a Mac's AppleDouble companion"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (b"<!doctype html>", "an HTML page"),
    (b"", "an empty file"),
  ],
)
def test_files_that_only_look_like_data(run, put, src, start, what):
  put("set-1.parquet", ROWS)
  path = src / "set-2.parquet"
  path.write_bytes(start)
  problems, report, _ = run("columns", columns=TEXT)
  assert len(problems) == 1
  assert report.notes == {f"file passed over, being {what}": 1}
  with pytest.raises(SophiaError, match=f"set-2.parquet: is {what};"):
    run("columns", path, columns=TEXT)


def test_other_kinds_are_named(run, put):
  put("set.parquet", ROWS)
  put("more.jsonl", ROWS)
  problems, report, _ = run("columns", columns=TEXT)
  assert len(problems) == 1
  assert report.notes == {"files of another kind not read (.jsonl)": 1}


def test_what_was_read_is_printed(run, put):
  put("a.jsonl", ROWS)
  put("b/c.jsonl", ROWS)
  _, report, _ = run("columns", columns=TEXT)
  assert report.lines()[1] == "  read: 2 files (a.jsonl, b/c.jsonl)"


# ------------------------------------------------------------------------ splits
@pytest.mark.parametrize(
  ("path", "split"),
  [
    ("data/train-00000-of-00001.parquet", "train"),
    ("train-00000-of-00001-a09b74b3ef9c3b56.parquet", "train"),
    ("train_sft-00000-of-00001.parquet", "train_sft"),
    ("test/data-00000-of-00001.arrow", "test"),
    ("split=val/part-0.parquet", "validation"),
    ("MathVista_testmini.json", "testmini"),
    ("dev.jsonl", "validation"),
    ("algebra/1.json", ""),
    ("contest.jsonl", ""),
    ("en-00000-of-00001.parquet", ""),
  ],
)
def test_split_of(tmp_path, path, split):
  assert split_of((tmp_path / path).relative_to(tmp_path)) == split


@pytest.mark.parametrize(
  ("names", "read"),
  [
    (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
    (["train/a.jsonl", "val/a.jsonl"], ["train/a.jsonl"]),
    (["train/a.jsonl", "train/b.jsonl"], ["train/a.jsonl", "train/b.jsonl"]),
    (["split=train/x.jsonl", "split=test/x.jsonl"], ["split=train/x.jsonl"]),
    (["test.jsonl"], ["test.jsonl"]),
    (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
    (["test.jsonl", "validation.jsonl"], None),
    (["a.jsonl", "test.jsonl"], None),
    (
      ["train_sft-00000-of-00001.jsonl", "test_sft-00000-of-00001.jsonl"],
      ["train_sft-00000-of-00001.jsonl"],
    ),
    (
      ["train_sft-00000-of-00001.jsonl", "train_dpo-00000-of-00001.jsonl"],
      None,
    ),
  ],
)
def test_one_split_is_read(run, put, names, read):
  for name in names:
    put(name, ROWS)
  if read is None:
    with pytest.raises(SophiaError, match="holds several splits"):
      run("columns", columns=TEXT)
    return
  _, report, _ = run("columns", columns=TEXT)
  assert report.files == tuple(read)


def test_a_benchmark_has_no_obvious_split(put, src):
  put("train.jsonl", ROWS)
  put("test.jsonl", ROWS)
  with pytest.raises(SophiaError, match="several splits"):
    select_files(src, ("*.jsonl",), None, False, {})


def test_a_column_that_names_the_split(run, put):
  splits = ("train", "val", "test", "test")
  path = put("set.jsonl", [{**ROWS[0], "split": split} for split in splits])
  problems, report, _ = run("columns", columns=TEXT)
  assert len(problems) == 4
  assert report.notes["rows of the split test read, too (--split=train)"] == 2
  problems, report, _ = run("columns", path, columns=TEXT, split="train")
  assert len(problems) == 1
  assert report.skipped == {
    "of the split validation": 1,
    "of the split test": 2,
  }
  put("set.jsonl", ROWS)
  with pytest.raises(SophiaError, match="has no column split"):
    run("columns", path, columns=TEXT, split="train")


# ------------------------------------------------------------------- generations
@pytest.mark.parametrize(
  "names",
  [
    ("train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl"),
    ("train-00000-of-00001-abc.jsonl", "train-00000-of-00001-def.jsonl"),
    (f"snapshots/{'a' * 40}/x.jsonl", f"snapshots/{'b' * 40}/x.jsonl"),
    ("0.0.0/x.jsonl", "1.0.0/x.jsonl"),
  ],
)
def test_two_versions_of_the_same_rows(run, put, names):
  for name in names:
    put(name, ROWS)
  with pytest.raises(SophiaError, match="are two versions of the same rows;"):
    run("columns", columns=TEXT)


def test_subjects_are_no_versions(src, put):
  for subject in ("algebra", "geometry"):
    put(f"{subject}/train-00000-of-00001.jsonl", ROWS)
  assert len(find_files(src, ("**/*.jsonl",))) == 2


def test_missing_shards_are_noted(run, put):
  put("train-00000-of-00003.jsonl", ROWS)
  _, report, _ = run("columns", columns=TEXT)
  assert report.notes == {"shards missing, by the names of the others": 2}


def test_the_hubs_cache_gives_its_current_revision(run, put, src):
  for revision in ("a" * 40, "b" * 40):
    put(f"snapshots/{revision}/x.jsonl", ROWS)
  put("refs/main", None)
  (src / "refs/main").write_text("b" * 40)
  _, report, _ = run("columns", columns=TEXT)
  assert report.files == (f"snapshots/{'b' * 40}/x.jsonl",)


@pytest.mark.parametrize("listed", [True, False])
def test_what_map_and_filter_left_is_not_read(run, src, listed):
  """`datasets` caches results beside what was saved: rows would double."""
  save_arrow(src / "data-00000-of-00001.arrow", ROWS)
  for name in ("cache-1a2b3c.arrow", "cache-1a2b3c_00000_of_00002.arrow"):
    save_arrow(src / name, ROWS)
  if listed:
    save_arrow(src / "odd.arrow", ROWS)
    files = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (src / "state.json").write_text(json.dumps(files))
  problems, report, _ = run("columns", columns=TEXT)
  assert len(problems) == 1
  assert report.notes == {"cache files of `datasets` passed over": 2 + listed}


@pytest.mark.parametrize("name", ["set.csv", "set.parquet", "set.arrow"])
def test_two_columns_of_one_name(run, src, name):
  import pyarrow.parquet as pq

  path = src / name
  table = pa.table([["Q?"], ["1"], ["2"]], names=["q", "a", "a"])
  if path.suffix == ".csv":
    path.write_text("q,a,a\nQ?,1,2\n")
  elif path.suffix == ".parquet":
    pq.write_table(table, path)
  else:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
      writer.write_table(table)
  with pytest.raises(SophiaError, match="has the column 'a' twice"):
    run("columns", columns=TEXT)


def test_an_import_does_not_read_what_it_wrote(put, src):
  path = put("set.jsonl", ROWS)
  for _ in range(2):
    report = import_dataset("columns", src, src / "out.jsonl", columns=TEXT)
    assert report.written == 1
  before = path.read_bytes()
  with pytest.raises(SophiaError, match="is the data set itself"):
    import_dataset("columns", path, path, columns=TEXT)
  assert path.read_bytes() == before


# ------------------------------------------------------------------------ values
@pytest.mark.parametrize(
  ("value", "answers"),
  [
    (["a", "b", "a"], ("a", ("b",))),
    ("['a', 'b']", ("a", ("b",))),
    ('["it\'s", "b"]', ("it's", ("b",))),
    ("[1, 2]", ("[1, 2]", ())),
    (["3", 3.0, None, " "], ("3", ())),
  ],
)
def test_accepted_answers(run, put, value, answers):
  put("set.jsonl", [{"q": "Q?", "a": value}])
  columns = {"question": "q", "accepted": "a"}
  (problem,), _, _ = run("columns", columns=columns)
  assert (problem.answer, problem.accepted) == answers


@pytest.mark.parametrize("value", [["x", "y"], "['x', 'y']"])
def test_several_answers_are_no_guess(run, put, value):
  put("set.jsonl", [*ROWS, {"q": "Q?", "a": value}, {"q": "Q?", "a": ["7"]}])
  problems, _, (line,) = run("columns", columns=TEXT)
  assert [p.answer for p in problems] == ["1", "7"]
  assert "has 2 answers; map accepted= if each is right alone" in line


@given(st.lists(st.text(st.characters(blacklist_characters="\\"), max_size=6)))
def test_lists_that_python_wrote_are_read_back(items):
  assert quoted_list(repr(items)) == (items or None)
  assert accepted_answers(items) == [
    item for item in dict.fromkeys(items) if item.strip()
  ]


@pytest.mark.parametrize(
  ("choices", "answer", "takes"),
  [
    (["1", "2", "3"], 2, False),
    (["1", "2", "3"], "2", False),
    (["cat", "dog"], 1, False),
    (["cat", "dog"], 0, False),
    (["12", "15"], 15, True),
    (["1", "2"], 2.0, True),
    (["cat", "dog"], "dog", True),
    (["cat", "dog"], "B", True),
    (["0.5", "2"], 0.5, True),
  ],
)
def test_a_number_beside_choices(run, put, choices, answer, takes):
  put(
    "set.jsonl",
    [{**ROWS[0], "c": ["1"]}, {"q": "Q", "c": choices, "a": answer}],
  )
  columns = {**TEXT, "choices": "c"}
  columns = {**columns, "answer": "a"}
  put("set.jsonl", [{"q": "Q", "c": choices, "a": answer}])
  if takes:
    assert len(run("columns", columns=columns)[0]) == 1
    return
  with pytest.raises(SophiaError, match="no row can be used"):
    run("columns", columns=columns)


@pytest.mark.parametrize("value", [-1, 2, "x", None, True, 0.5, [0, 1]])
def test_places_that_are_none(run, put, value):
  good = {"q": "Q", "c": ["x", "y"], "a": 0}
  put("set.jsonl", [good, {**good, "a": value}])
  columns = {"question": "q", "choices": "c", "answer_index": "a"}
  problems, _, (line,) = run("columns", columns=columns)
  assert [p.answer for p in problems] == ["A"] and "set.jsonl:2: " in line


def test_images_in_base64(run, put, png):
  import base64

  plain = base64.b64encode(png(1)).decode()
  url = f"data:image/png;base64,{plain}"
  parts = [{"type": "image_url", "image_url": {"url": url}},
           {"type": "text", "text": "How many?"}]  # fmt: skip
  put("set.jsonl", [{"q": "Q", "a": "1", "i": i} for i in (plain, url)])
  columns = {**TEXT, "images": "i"}
  one, other = run("columns", columns=columns)[0]
  assert one.images == other.images
  put("set.jsonl", [{"q": parts, "a": "1"}])
  (problem,), _, _ = run("columns", columns=TEXT)
  assert problem.question == "<image>\nHow many?"
  assert [os.path.basename(i) for i in problem.images] == [
    os.path.basename(i) for i in one.images
  ]
