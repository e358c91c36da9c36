"""Odd data files that people reported elsewhere: what becomes of each."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sophia_jax.data.images import (
  ImageConfig,
  count_tiles,
  image_size,
  load_tiles,
  open_image,
  tile,
)
from sophia_jax.data.problems import check, load_examples, load_problems
from sophia_jax.datasets.importers.run import import_dataset
from sophia_jax.serving.images import read_tiles
from sophia_jax.types import SophiaError

CASES = Path(__file__).parent / "cases"
COLUMNS = {"question": "problem", "answer": "answer", "images": "images"}


@pytest.fixture
def run(tmp_path):
  """run(case, ...) -> (records, report, broken rows as listed)."""

  def import_from(case, name="columns", columns=COLUMNS, **options):
    dst, listed = tmp_path / "out.jsonl", []
    report = import_dataset(
      name, CASES / case, dst, columns=columns, say=listed.append, **options
    )
    examples = report.kind == "examples"
    assert check(dst, examples=examples) == []
    load = load_examples if examples else load_problems
    return load(dst), report, listed

  return import_from


# -------------------------------------------------------------------- data files
def test_a_macs_companions_are_passed_over(run):
  problems, report, listed = run("appledouble")
  assert len(problems) == 3 and not listed
  assert report.notes == {"hidden companion files passed over": 1}


def test_a_companion_given_by_name_is_named(run):
  file = "appledouble/data/._train-00000-of-00001.parquet"
  with pytest.raises(SophiaError, match="is a Mac's AppleDouble companion;"):
    run(file)


def test_splits_are_not_mixed(run):
  problems, report, _ = run("splits")
  assert [p.answer for p in problems] == ["0", "1", "2"]
  assert len(report.notes) == 2
  assert any("split test not read" in note for note in report.notes)
  problems, _, _ = run("splits", split="test")
  assert [p.answer for p in problems] == ["40", "41"]
  problems, _, _ = run("splits", split="dev")
  assert [p.answer for p in problems] == ["30"]
  with pytest.raises(SophiaError, match="choose from test, train, validation"):
    run("splits", split="dve")


@pytest.mark.parametrize("src", ["base64_tsv", "base64_tsv/bench.tsv"])
def test_a_table_with_images_in_base64(run, src):
  columns = {"question": "question", "answer": "answer", "images": "image"}
  problems, _, listed = run(src, columns=columns)
  assert [len(p.images) for p in problems] == [1, 2] and not listed


def test_a_missing_image_costs_its_row_alone(run):
  problems, _, (line,) = run("path_only")
  assert [p.answer for p in problems] == ["3"]
  assert "train.parquet: row 2: image 'images/missing.png' is not in" in line


def test_mmmu_options_and_accepted_answers(run):
  (first, second), _, _ = run("mmmu", "mmmu", {})
  assert first.choices == ("Ridge", "Lake", "Mesa", "None")
  assert first.answer == "D"
  assert (second.answer, second.accepted) == ("24/7", ("3.429",))


def test_messages_of_parts(run):
  """The question is a list of parts, its image a file:// address among them."""
  columns = {"question": "message.0.content", "answer": "answer"}
  (problem,), _, _ = run("messages", columns=columns)
  assert problem.question.startswith("<image>\nA cube loses a corner.")
  assert image_size(problem.images[0]) == (24, 16)
  columns = {
    "question": "message.0.content.1.text",
    "images": "message.0.content.0.image",
    "answer": "answer",
  }
  (problem,), _, _ = run("messages", columns=columns)
  assert len(problem.images) == 1 and "<image>" not in problem.question


def test_a_mark_at_the_end_of_a_question(run):
  (example,), _, (line,) = run("marks/conv.jsonl", "internvl", {})
  assert example.question == "What hangs there?\n<image>"
  assert "conv.jsonl:2: 1 <image> for 2 images; write one for each" in line


def test_numbers_beside_choices_are_no_guess(run):
  columns = {"question": "question", "choices": "choices", "images": "image"}
  with pytest.raises(SophiaError, match=r"no row can be used \(2 broken"):
    run("index_answers", columns={**columns, "answer": "answer"})
  for key, letters in (("answer_index", "CB"), ("answer_number", "BA")):
    problems, _, _ = run("index_answers", columns={**columns, key: "answer"})
    assert [p.answer for p in problems] == [*letters]
  problems, _, (line,) = run(
    "index_answers", columns={**columns, "answer_text": "answer"}
  )
  assert [p.answer for p in problems] == ["B"] and "row 2" in line


def test_null_is_absence():
  (problem,) = load_problems(CASES / "nulls/problems.jsonl")
  assert (problem.choices, problem.hint, problem.tags) == ((), "", {})
  assert problem.difficulty == "easy"


# ------------------------------------------------------------------------ images
def test_a_float_tiff_is_not_black():
  assert check(CASES / "float_tiff/problems.jsonl") == []
  pixels = np.asarray(open_image(str(CASES / "float_tiff/ramp.tif")))
  assert pixels.min() == 0 and pixels.max() == 255
  assert 100 < pixels.mean() < 155


@pytest.mark.parametrize("name", ["rgba", "la", "p"])
def test_black_on_transparent_is_not_black_on_black(name):
  pixels = np.asarray(open_image(str(CASES / f"transparent/{name}.png")))
  assert pixels[0, 0].tolist() == [255] * 3 and pixels.min() < 50


def test_a_photo_on_its_side_is_upright_in_trainer_and_server():
  path, config = CASES / "exif/photo.jpg", ImageConfig()
  image = open_image(str(path))
  assert image.size == image_size(str(path)) == (448, 1344)
  tiles = tile(image, config)
  source = base64.b64encode(path.read_bytes()).decode()
  served = read_tiles(source, len(tiles), config, "image 1")
  np.testing.assert_array_equal(served, tiles)


def test_a_jpeg_that_was_cut_off_is_named_with_its_line():
  ((line, error),) = check(CASES / "truncated/problems.jsonl")
  assert line == 1 and "cut.jpg: cannot read this image" in error


def test_one_tile_is_one_tile(tmp_path):
  Image.new("RGB", (448, 448)).save(tmp_path / "one.png")
  assert count_tiles(str(tmp_path / "one.png"), ImageConfig()) == 1


def test_check_and_server_take_the_same_formats():
  folder, config = CASES / "formats", ImageConfig(tile_size=56)
  wrong = dict(check(folder / "problems.jsonl"))
  lines = (folder / "problems.jsonl").read_text().splitlines()
  for number, line in enumerate(lines, start=1):
    path = folder / json.loads(line)["images"][0]
    source = base64.b64encode(path.read_bytes()).decode()
    if number not in wrong:
      count = len(tile(open_image(str(path)), config))
      served = read_tiles(source, count, config, "image 1")
      read = load_tiles(str(path), count, config)
      np.testing.assert_array_equal(served, read)
      continue
    with pytest.raises(SophiaError, match="not an image of JPEG, PNG"):
      read_tiles(source, 1, config, "image 1")
  assert {*wrong} == {1, 2}, "AVIF and JPEG 2000"
