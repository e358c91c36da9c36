"""Key frames: the overlap rule on pans whose overlap is known."""

import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from sophia_jax.types import SophiaError
from sophia_jax.videos.keyframes import KeyFrameConfig, key_frames, overlap

pytest.importorskip("cv2")
SIDE = 192


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photograph(request):
  return load_sample_image(request.param)


def window(photograph, x, y, side=SIDE):
  return photograph[y : y + side, x : x + side]


def pan(photograph, places):
  return [window(photograph, x, y) for x, y in places]


@pytest.mark.parametrize("step", [0, 16, 32, 64, 96])
def test_the_overlap_of_a_pan_is_the_share_that_both_show(photograph, step):
  before, after = pan(photograph, [(160, 200), (160 + step, 200)])
  assert overlap(before, after) == pytest.approx(1 - step / SIDE, abs=0.02)
  assert overlap(after, before) == pytest.approx(1 - step / SIDE, abs=0.02)


def test_the_overlap_of_a_zoom_is_the_area_that_is_left(photograph):
  before = window(photograph, 160, 200)
  inner = Image.fromarray(window(photograph, 160 + 24, 200 + 24, 144))
  after = np.asarray(inner.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
  assert overlap(before, after) == pytest.approx((144 / SIDE) ** 2, abs=0.03)
  # All of the inner part is in the whole.
  assert overlap(after, before) == pytest.approx(1, abs=0.02)


def test_a_pan_has_a_key_frame_wherever_half_of_the_last_one_is_left(
  photograph,
):
  frames = pan(photograph, [(100 + 24 * i, 200) for i in range(11)])
  # Overlaps with the last key frame: 0.875, 0.75, 0.625, 0.5, 0.375; around a
  # half the estimate decides, so bounds are half a step away.
  half = KeyFrameConfig(overlap=0.4375)
  assert key_frames(frames, half) == [0, 5, 10]
  assert key_frames(frames, KeyFrameConfig(overlap=0.8125)) == [
    0,
    2,
    4,
    6,
    8,
    10,
  ]
  assert key_frames(frames[:5], half) == [0]


def test_a_still_video_has_one_key_frame(photograph):
  assert key_frames([window(photograph, 50, 50)] * 4) == [0]


def test_frames_that_match_nothing_are_kept(photograph):
  blank = np.full((SIDE, SIDE, 3), 128, np.uint8)
  shown = window(photograph, 160, 200)
  assert overlap(shown, blank) is None
  assert key_frames([blank, blank, shown, shown, blank]) == [0, 1, 2, 4]


def test_other_pictures_are_no_match():
  one, other = (load_sample_image(f"{n}.jpg") for n in ("china", "flower"))
  frames = [window(one, 100, 100), window(other, 100, 100)]
  assert overlap(*frames) is None
  assert key_frames(frames * 2) == [0, 1, 2, 3]


def test_a_video_without_frames_has_no_key_frames():
  assert key_frames([]) == []


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pan_and_its_mirror_have_the_same_key_frames(photograph, axis):
  frames = pan(photograph, [(120 + 40 * i, 200) for i in range(6)])
  mirrored = [np.ascontiguousarray(np.flip(f, axis)) for f in frames]
  assert key_frames(mirrored) == key_frames(frames) == [0, 3]


# --------------------------------------------------------------------- refusals
def test_frames_of_two_sizes_are_one_line(photograph):
  frames = [window(photograph, 0, 0), window(photograph, 0, 0, 96)]
  with pytest.raises(SophiaError) as error:
    key_frames(frames)
  assert str(error.value) == (
    "frame 1 is 96 x 96 pixels, those before it are 192 x 192; give frames of "
    "one size"
  )


def test_without_opencv_it_is_one_line(photograph, monkeypatch):
  monkeypatch.setitem(sys.modules, "cv2", None)
  with pytest.raises(SophiaError, match=r"pip install 'sophia-jax\[video\]'"):
    key_frames([window(photograph, 0, 0)])


@pytest.mark.parametrize(
  "settings", [{"overlap": 0.0}, {"overlap": 1.5}, {"share": 0}, {"inliers": 3}]
)
def test_a_rule_that_cannot_be_is_refused(settings):
  with pytest.raises(ValueError, match="use"):
    KeyFrameConfig(**settings)
