"""SEED-Bench-R1 as it is published: videos, images and annotations apart."""

import re

import pytest
from PIL import Image

from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.types import SophiaError
from tests.videos.making import write_video

CHOICES = {f"choice_{c}": f"do {c}" for c in "abcd"}


def row(number, source="Ego4D", video="a.mp4", progress=(1,), **rest):
  return {
    "sample_id": number,
    "video_source": source,
    "video_basename": video,
    "task_progress_metadata": list(progress),
    "current_observation_basename": "now.png",
    "question": "What should I do next?",
    **rest,
  }


@pytest.fixture
def laid_out(src, put):
  for source in ("Ego4D", "EpicKitchens"):
    put(f"images/{source}/now.png")
    folder = src / "videos" / source
    folder.mkdir(parents=True)
    write_video(folder / "a.mp4", range(20, 240, 11))
    write_video(folder / "short.mp4", [30, 90, 160])
    (folder / "broken.mp4").write_bytes(b"no video")
  return src


def test_the_levels(run, put, laid_out):
  for level in ("L1", "L2", "L3"):
    rows = [
      row(1, **CHOICES, golden_choice_idx="C"),
      row(2, video="short.mp4", **CHOICES, golden_choice_idx="A"),
      row(3, progress=(), **CHOICES, golden_choice_idx="B"),
    ]
    put(f"annotations/validation_{level}.jsonl", rows)
  put("annotations/training_6k.jsonl", ["not read: other questions"])
  problems, report, listed = run("seed_bench_r1")
  assert not listed and report.evaluation and report.written == 9
  assert [p.tags["level"] for p in problems] == ["L1"] * 3 + ["L2"] * 3 + [
    "L3"
  ] * 3
  first, short, still = problems[:3]
  assert first.id == "seed_bench_r1/L1-1" and first.answer == "C"
  assert first.choices == ("do a", "do b", "do c", "do d")
  assert [len(p.images) for p in (first, short, still)] == [17, 4, 1]
  assert first.question.startswith("Frame-1: <image>\nFrame-2: <image>\n")
  assert first.question.endswith(
    "Frame-16: <image>\nCurrent view: <image>\nWhat should I do next?"
  )
  assert still.question.startswith("Current view: <image>\n")
  shades = [
    Image.open(path).convert("L").getpixel((9, 9)) for path in first.images[:16]
  ]
  assert shades == sorted(shades) and len(set(shades)) == 16
  with pytest.raises(SophiaError, match="SEED-Bench-R1's levels"):
    refuse_evaluation(problems)


def test_training(run, put, laid_out):
  wrong = [f"wrong {i}" for i in range(6)]
  rows = [
    row(
      f"t{i}",
      "EpicKitchens",
      "short.mp4",
      answer="right",
      negative_answers=["right", *wrong],
    )
    for i in range(12)
  ]
  path = put("annotations/training_6k.jsonl", rows)
  problems, report, listed = run("seed_bench_r1_train")
  assert not listed and not report.evaluation
  for problem in problems:
    assert len(set(problem.choices)) == 4
    assert problem.choices[ord(problem.answer) - ord("A")] == "right"
    assert problem.source == "seed_bench_r1_train"
  assert {p.answer for p in problems} == set("ABCD")
  assert len({frozenset(p.choices) for p in problems}) > 3
  refuse_evaluation(problems)
  again, _, _ = run("seed_bench_r1_train", path)
  assert again == problems


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"video": "broken.mp4"}, "cannot decode this video"),
    ({"video": "none.mp4"}, "is not in .*videos; unpack the videos there"),
    ({"video": "../../secret.mp4"}, "leads out of .*videos; fix the path"),
    ({"source": "../../.."}, "leads out of .*videos; fix the path"),
    ({"golden_choice_idx": "E"}, "golden_choice_idx is no letter"),
  ],
)
def test_rows_that_are_broken(run, put, laid_out, change, message):
  good = {**CHOICES, "golden_choice_idx": "A"}
  rows = [row(1, **good), row(2, **{**good, **change})]
  put("annotations/validation_L1.jsonl", rows)
  problems, _, (line,) = run("seed_bench_r1")
  assert len(problems) == 1
  assert re.search(message, line) and "validation_L1.jsonl:2" in line


def test_too_few_wrong_answers(run, put, laid_out):
  rows = [
    row(1, answer="a", negative_answers=list("bcd")),
    row(2, answer="a", negative_answers=["a", "b", "b", "c"]),
  ]
  put("annotations/training_6k.jsonl", rows)
  _, _, (line,) = run("seed_bench_r1_train")
  assert "2 wrong answers; give 3 or more" in line
