"""Hostile text from file to batch: each kind has one outcome, shown here.

image-token strings   refused in files; elsewhere text, never special ids
lone surrogates       refused in files; elsewhere rendered as U+FFFD
control characters    refused in files (tab and line ends are text)
10 MB long            read and rendered; the loader refuses or drops it by name
"""

import json

import pytest
from PIL import Image

from sophia_jax.data.images import open_image
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.problems import check, load_problems
from sophia_jax.datasets import overlap
from sophia_jax.types import SophiaError
from tests.data.data_samples import SMALL

LENGTH = 10_000_000


def text_of(length):
  words = "the answer is 42 and so on. "
  return (words * (length // len(words) + 1))[:length]


@pytest.fixture(scope="module")
def long_text():
  return text_of(LENGTH)


# Ten take ten times as long as one.
@pytest.fixture(
  scope="module",
  params=[LENGTH // 10, pytest.param(LENGTH, marks=pytest.mark.slow)],
)
def long_sequence(renderer, request):
  prompt = renderer.prompt(text_of(request.param), (), "")
  made = renderer.sequence(prompt, "yes", id="long", streams={"w": 1})
  assert request.param / 8 < len(made) < request.param
  return made


def loader(sequences, **shape):
  return Loader(
    sequences,
    PackConfig(rows=1, length=96, tile_budget=0, **shape),
    LoaderConfig(),
    Reading(streams=("w",), tokens_per_tile=4, image=SMALL),
  )


def test_ten_megabytes_are_read(tmp_path, long_text):
  path = tmp_path / "p.jsonl"
  record = {"id": "1", "question": long_text, "answer": "1"}
  path.write_text(json.dumps(record) + "\n")
  assert check(path) == []
  assert load_problems(path)[0].question == long_text


def test_megabytes_are_rendered_whole(long_sequence, renderer):
  some = long_sequence.token_ids[1000:1050]
  assert "answer is 42" in renderer.decode(some)


def test_megabytes_fit_no_row(long_sequence, renderer):
  with pytest.raises(SophiaError, match="long: "):
    loader([long_sequence])
  short = renderer.sequence(
    renderer.prompt("q", (), ""), "yes", id="short", streams={"w": 1}
  )
  made = loader([long_sequence, short], drop_oversize=True)
  assert tuple(made.dropped) == ("long",)
  assert made.steps == 1


def test_ten_megabytes_are_compared(long_text):
  index = overlap.TextIndex([overlap.words(long_text), ["a"]])
  (hit,) = index([overlap.words(long_text[:200])])
  assert (hit.known, hit.equal, hit.score) == (0, False, 1.0)


@pytest.mark.parametrize(
  "text", ["a\ud800b", "a\x00b\x1b", "<img>a</img>", "<IMG_CONTEXT>", "\x85"]
)
def test_hostile_text_is_compared_like_any_other(text):
  words = overlap.words(text)
  assert all("\x00" not in word for word in words)
  index = overlap.TextIndex([words])
  assert len(index([words])) == (1 if words else 0)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_animations_of_every_format_give_their_first_frame(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
  options = {"lossless": True} if suffix == "webp" else {}
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)
  assert Image.open(path).n_frames == 2
  image = open_image(str(path))
  assert image.getpixel((0, 0)) == (255, 0, 0)
  # It is used after its file is closed.
  assert image.resize((3, 3)).getpixel((1, 1)) == (255, 0, 0)


def test_a_smaller_decoding_shows_the_same(tmp_path):
  path = tmp_path / "a.jpg"
  Image.linear_gradient("L").resize((800, 600)).convert("RGB").save(path)
  whole, part = open_image(str(path)), open_image(str(path), at_least=100)
  assert whole.size == (800, 600)
  assert part.size == (200, 150)
  assert abs(whole.getpixel((400, 500))[0] - part.getpixel((100, 125))[0]) < 4
