"""What overlaps a benchmark goes, what only looks like it stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sophia_jax.datasets import decontaminate as module
from sophia_jax.datasets import overlap, perceptual
from sophia_jax.datasets.__main__ import main
from sophia_jax.datasets.decontaminate import decontaminate
from sophia_jax.files import write_jsonl
from sophia_jax.types import SophiaError
from tests.data.data_samples import FIXTURES

ROOT = Path(__file__).parents[2]
MATHVISION = ROOT.parent / "shared/data/mathvision"
LONG = (
  "A ladder of length 13 m leans against a vertical wall so that its foot is "
  "5 m away from the wall on level ground. How high up the wall does the top "
  "of the ladder reach?"
)
SHORT = "What is the value of x?"


@pytest.fixture
def photos():
  """Upright pictures of the fixtures, by name."""
  return {
    path.stem: Image.open(path).convert("RGB")
    for path in sorted((FIXTURES / "mathvision").glob("*.jpg"))
  }


@pytest.fixture
def run(tmp_path):
  """run(train, known, **options) -> {id: row of the report}."""

  def go(train, known, **options):
    write_jsonl(tmp_path / "train.jsonl", map(problem, train))
    write_jsonl(tmp_path / "bench.jsonl", map(problem, known))
    out, report = tmp_path / "clean.jsonl", tmp_path / "dropped.jsonl"
    kept, counts = decontaminate(
      tmp_path / "train.jsonl",
      [tmp_path / "bench.jsonl"],
      out,
      report,
      **options,
    )
    rows = {row["id"]: row for row in read(report)}
    assert kept + counts.total() == len(train)
    assert {r["id"] for r in read(out)} | rows.keys() == {
      t["id"] for t in train
    }
    return rows

  return go


def problem(fields):
  return {"answer": "1", **fields}


def read(path):
  return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def save(folder, name, image, **how):
  folder.mkdir(exist_ok=True)
  image.save(folder / name, **how)
  return f"{folder.name}/{name}"


# ------------------------------------------------------------------------- text
@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("What is  2+3 ?", "what IS 2 + 3"),
    (r"Find $\frac{1}{2}$ of $x$.", "find 1/2 of x"),
    (r"\(\dfrac{a}{b}\times c\)", "a/b × c"),
    (r"the angle is 30^{\circ}", "The angle is 30°"),
    (r"$x^{2} \le 4$", "x² ≤ 4"),
    (r"\left( x - 1 \right)", "(x−1)"),
    (r"$\alpha + \pi$", "α + π"),
    ("Look: <image1>\nA pays 1,000 dollars", "look A pays 1000 dollars"),
    (r"\text{area of } \triangle ABC", "Area of △ABC"),
    ("Ｗｉｄｅ text", "wide text"),
    ("½ of it", "1/2 of it"),
  ],
)
def test_copies_are_normalised_alike(one, other):
  assert overlap.words(one) == overlap.words(other)


@pytest.mark.parametrize(
  ("one", "other"),
  [("x + 3 = 5", "x - 3 = 5"), ("3.5 m", "35 m"), ("AB = 4", "AB = 5")],
)
def test_other_numbers_are_another_question(one, other):
  assert overlap.words(one) != overlap.words(other)


def test_chinese_signs_are_words():
  assert overlap.words("求x的值。") == ["求", "x", "的", "值"]


def test_plain_questions(run):
  known = [
    {"id": "b1", "question": LONG},
    {"id": "b2", "question": "What is 6 times 7?"},
    {"id": "b3", "question": "Which is true?", "choices": ["p", "q"]},
  ]
  rows = run(
    [
      with_choice(r)
      for r in (
        {"id": "same", "question": LONG.upper().replace(" ", "  ")},
        {"id": "part", "question": f"Think first. {LONG} Explain your steps."},
        {"id": "short", "question": r"What is $6$ times $7$"},
        {"id": "start", "question": "A ladder of length 13 m is painted red."},
        {"id": "choices", "question": "Which is true?", "choices": ["q", "p"]},
        {"id": "others", "question": "Which is true?", "choices": ["r", "s"]},
        {"id": "none", "question": "Name the seven colours of the rainbow."},
      )
    ],
    map(with_choice, known),
  )
  assert {i: (r["why"], r["match"]) for i, r in rows.items()} == {
    "same": ("text", "b1"),
    "part": ("ngrams", "b1"),
    "short": ("text", "b2"),
    "choices": ("text", "b3"),
  }
  assert rows["same"] == {
    "id": "same",
    "line": 1,
    "why": "text",
    "score": 1.0,
    "benchmark": "bench.jsonl",
    "match": "b1",
  }
  assert rows["part"]["score"] == 1.0


def with_choice(record):
  return {**record, "answer": "A"} if "choices" in record else record


def test_an_instruction_that_all_carry_is_no_overlap(run):
  order = (
    "Please answer the question with a single number and put the final answer "
    "at the very end of your reply on a line of its own."
  )
  nouns = ["apples", "bricks", "coins", "dogs", "eggs", "frogs", "goats"]
  nouns += ["hens", "inks", "jars", "kites"]
  known = [
    {"id": f"b{n}", "question": f"{order} How many {n} do you count here?"}
    for n in nouns
  ]
  train = [
    {"id": "t", "question": f"{order} How tall is the tower of this church?"}
  ]
  assert not run(train, known)


# ----------------------------------------------------------------------- images
def altered(image):
  """Ways in which a picture comes back from another source."""
  w, h = image.size
  frame = Image.new("RGB", (w + 40, h + 60), "white")
  frame.paste(image, (20, 10))
  return {
    "quality.jpg": (image, {"quality": 40}),
    "half.png": (image.resize((w // 2, h // 2)), {}),
    "double.png": (image.resize((w * 2, h * 2)), {}),
    "grey.png": (image.convert("L"), {}),
    "frame.png": (frame, {}),
    "crop.png": (image.crop((w // 50, h // 50, w - w // 50, h - h // 50)), {}),
  }


def test_altered_pictures_are_recognised_and_others_are_not(
  run, photos, tmp_path
):
  stems = sorted(photos)
  half = stems[: len(stems) // 2]
  known, train = [], []
  for stem in half:
    path = save(tmp_path / "known", f"{stem}.png", photos[stem])
    known.append({"id": stem, "question": SHORT, "images": [path]})
    for name, (image, how) in altered(photos[stem]).items():
      path = save(tmp_path / "train", f"{stem}-{name}", image, **how)
      train.append({"id": f"{stem}-{name}", "question": "Q?", "images": [path]})
  for stem in stems[len(half) :]:
    path = save(tmp_path / "train", f"{stem}.png", photos[stem])
    train.append({"id": stem, "question": SHORT, "images": [path]})
  rows = run(train, known)
  wrong = [i for i, r in rows.items() if r["match"] != i.partition("-")[0]]
  assert not wrong
  missed = {t["id"] for t in train if "-" in t["id"]} - rows.keys()
  assert not missed
  assert all(row["why"] == "image" for row in rows.values())


def test_text_alone_must_be_long_for_a_visual_problem(run, photos, tmp_path):
  one, two = (photos[s] for s in sorted(photos)[:2])
  known = [
    {
      "id": "b-short",
      "question": f"<image>{SHORT}",
      "images": [save(tmp_path / "k", "1.png", one)],
    },
    {
      "id": "b-long",
      "question": LONG,
      "images": [save(tmp_path / "k", "1.png", one)],
    },
  ]
  path = [save(tmp_path / "t", "2.png", two)]
  rows = run(
    [
      {"id": "template", "question": SHORT, "images": path},
      {"id": "distinctive", "question": LONG.lower(), "images": path},
      {"id": "plain-template", "question": SHORT},
      {"id": "plain-long", "question": LONG},
    ],
    known,
  )
  assert {i: (r["why"], r["match"]) for i, r in rows.items()} == {
    "distinctive": ("text", "b-long"),
    "plain-long": ("text", "b-long"),
  }


def test_the_same_picture_may_stay_if_asked_otherwise(run, photos, tmp_path):
  image = photos[min(photos)]
  known = [
    {
      "id": "b",
      "question": SHORT,
      "images": [save(tmp_path / "k", "1.png", image)],
    }
  ]
  path = [save(tmp_path / "t", "1.jpg", image, quality=60)]
  train = [
    {"id": "same", "question": "what is the value of X", "images": path},
    {"id": "other", "question": "Name the colours.", "images": path},
  ]
  assert run(train, known).keys() == {"same", "other"}
  assert run(train, known, keep_same_image=True).keys() == {"same"}


def test_processes_find_the_same(run, photos, tmp_path, monkeypatch):
  paths = [save(tmp_path / "k", f"{s}.png", photos[s]) for s in sorted(photos)]
  known = [
    {"id": str(i), "question": SHORT, "images": [path]}
    for i, path in enumerate(paths)
  ]
  train = [{**row, "id": f"t{row['id']}"} for row in known]
  alone = run(train, known[::2])
  monkeypatch.setattr(module, "_IMAGES", 4)
  assert run(train, known[::2], workers=2) == alone
  assert len(alone) == len(known[::2])


def test_plain_pictures_show_nothing(run, tmp_path):
  white = Image.new("RGB", (60, 40), "white")
  known = [
    {
      "id": "b",
      "question": SHORT,
      "images": [save(tmp_path / "k", "w.png", white)],
    }
  ]
  path = save(tmp_path / "t", "w.png", white)
  assert not run([{"id": "t", "question": SHORT, "images": [path]}], known)


def test_an_unreadable_picture_cannot_be_called_clean(run, tmp_path):
  (tmp_path / "bad.png").write_bytes(b"no image")
  train = [{"id": "t", "question": SHORT, "images": ["bad.png"]}]
  assert run(train, [{"id": "b", "question": LONG}])["t"] == {
    "id": "t",
    "line": 1,
    "why": "unreadable",
    "score": None,
    "benchmark": None,
    "match": None,
  }
  with pytest.raises(SophiaError, match=r"bad\.png: cannot read"):
    run([{"id": "t", "question": SHORT}], [t | {"id": "b"} for t in train])


def test_the_index_finds_what_comparing_all_finds():
  rng = np.random.default_rng(0)
  known = rng.integers(0, 2**63, (3000, 2), dtype=np.uint64)
  flips = np.zeros((500, 2), np.uint64)
  for i in range(500):  # up to 14 bits off, in any band
    for bit in rng.choice(64, i % 15, replace=False):
      flips[i] ^= np.uint64(1) << np.uint64(bit)
  queries = known[:500] ^ flips

  def all_alike(hashes):
    n = len(hashes)
    return perceptual.Signatures(
      hashes, np.ones((n, 2, 256), np.int8), np.ones((n, 2), np.float32)
    )

  index = perceptual.Index(all_alike(known))
  found = {(hit.query, hit.known) for hit in index(all_alike(queries))}
  bits = np.bitwise_count(queries[:, None] ^ known[None]).min(axis=2)
  expected = {*map(tuple, np.argwhere(bits <= perceptual.RADIUS).tolist())}
  assert found == expected
  assert len(expected) > 300


@pytest.mark.skipif(not MATHVISION.is_dir(), reason="needs shared/data")
def test_mathvision_against_itself_finds_the_one_picture_it_has_twice(run):
  rows = [
    json.loads(line)
    for line in (MATHVISION / "testmini.jsonl").read_text("utf-8").splitlines()
  ]
  made = [
    {
      "id": row["id"],
      "question": row["question"].replace("<image1>", ""),
      "images": [str(MATHVISION / row["image"])],
    }
    for row in rows
  ]
  found = run(made[::2], made[1::2])
  assert {i: r["match"] for i, r in found.items()} == {"773": "1050"}


# ----------------------------------------------------------------- command line
def command(*args, cwd):
  return subprocess.run(
    [sys.executable, "-m", "sophia_jax.datasets", "decontaminate", *args],
    capture_output=True,
    text=True,
    check=False,
    cwd=cwd,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )


def test_the_command(tmp_path, photos):
  (tmp_path / "sub").mkdir()
  one, two = (photos[s] for s in sorted(photos)[:2])
  kept = save(tmp_path / "img", "two.png", two)
  train = [
    {
      "id": "a",
      "question": SHORT,
      "images": [save(tmp_path / "img", "1.png", one)],
    },
    {"id": "b", "question": SHORT, "images": [kept], "response": "7"},
  ]
  train[0]["answer"] = "1"
  write_jsonl(tmp_path / "train.jsonl", train)
  write_jsonl(tmp_path / "bench.jsonl", [problem({**train[0], "id": "known"})])
  arguments = ["train.jsonl", "--against", "bench.jsonl", "--out"]
  rest = ["--report", "sub/dropped.jsonl"]
  done = command(*arguments, "sub/clean.jsonl", *rest, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout == (
    "sub/clean.jsonl: 1 kept, 1 dropped (1 by image); see sub/dropped.jsonl\n"
  )
  assert "questions 2/2" in done.stderr
  # Paths are relative to the file they stand in.
  assert read(tmp_path / "sub/clean.jsonl") == [
    {**train[1], "images": ["../img/two.png"]}
  ]
  done = command(*arguments, "train.jsonl", *rest, cwd=tmp_path)
  assert done.returncode == 1
  assert done.stderr == (
    "error: train.jsonl: is an input; write to another file\n"
  )


def test_help_and_errors(tmp_path, capsys, run):
  with pytest.raises(SystemExit):
    main(["decontaminate", "--help"])
  assert "example: python -m sophia_jax" in capsys.readouterr().out
  (tmp_path / "bad.jsonl").write_text('{"id": "1", "question": 3}\n')
  (tmp_path / "good.jsonl").write_text(
    '{"id": "1", "question": "Q", "answer": "1"}\n'
  )
  for train, known, message in (
    ("bad.jsonl", "good.jsonl", "bad.jsonl:1: question must be a string"),
    ("good.jsonl", "bad.jsonl", "bad.jsonl:1: question must be a string"),
    ("none.jsonl", "good.jsonl", "none.jsonl: No such file"),
  ):
    code = main(
      [
        "decontaminate",
        str(tmp_path / train),
        "--against",
        str(tmp_path / known),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--report",
        str(tmp_path / "report.jsonl"),
      ]
    )
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1
    assert said.startswith("error: ") and message in said
    assert not (tmp_path / "out.jsonl").exists()
