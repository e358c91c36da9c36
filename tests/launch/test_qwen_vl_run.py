"""A whole round on Qwen2.5-VL, what servers take, and where it is refused."""

import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from sophia_jax.checkpoints import load_params, read_config, save_params
from sophia_jax.data.images import ImageConfig
from sophia_jax.files import write_jsonl
from sophia_jax.runs import policies, scoring
from sophia_jax.servers import backends, supervise
from sophia_jax.types import SophiaError
from tests.launch import qwen_vl_config
from tests.rollout import little

CONFIG = "tests/launch/qwen_vl_config.py"
IMAGES = ImageConfig(method="native", tile_size=28, min_tiles=4, max_tiles=12)
SIZES = ((60, 90), (28, 140), (100, 40), (56, 56))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A policy that says "A", "B" or nothing, and problems to which "A" is right."""
  workdir = tmp_path_factory.mktemp("qwen_vl")
  module, words = little.qwen_vl(workdir / "words", IMAGES)
  favourites = [*(words.encode(w)[0] for w in "AB"), words.end_id]
  weights = little.indifferent(module, favourites)
  save_params(weights, module.cfg, workdir / "vl", workdir / "words")
  rng, rows = np.random.default_rng(0), []
  for i, size in enumerate(SIZES):
    pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(workdir / f"{i}.png")
    row = {"id": f"p{i}", "question": "What do you see", "answer": "A"}
    options = {"answer_type": "choice", "choices": ["red", "ink"]}
    rows.append({**row, **options, "images": [f"{i}.png"]})
  write_jsonl(workdir / "problems.jsonl", rows)
  return workdir


def test_a_round_samples_learns_and_exports(command, workdir):
  done = command("launch.run", f"--config={CONFIG}", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  report = json.loads((workdir / "report.json").read_text())
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert report["stages"][0]["updates"] == rows[-1]["step"] > 0
  assert max(row["actor/grad_norm"] for row in rows) > 0
  cfg = read_config(workdir / "export")
  assert cfg == read_config(workdir / "vl")
  before, after = (
    flatten_dict(load_params(workdir / name, cfg), sep="/")
    for name in ("vl", "export")
  )
  moved = {path for path, x in after.items() if (x != before[path]).any()}
  assert "language/head" in moved
  write_jsonl(
    workdir / "examples.jsonl",
    [{"id": "e", "images": ["0.png"], "question": "What", "response": "A"}],
  )
  out = workdir / "scores.jsonl"
  args = workdir / "examples.jsonl", out, "float32", 12
  assert scoring.score(workdir / "export", *args) == 1
  score = json.loads(out.read_text())
  assert len(score["logprobs"]) == 2 and max(score["logprobs"]) < 0


def test_images_that_are_cut_for_another_model(workdir):
  with pytest.raises(
    SophiaError,
    match=r"method=native .*tile_size=28 .*min_tiles=4 .*max_tiles=1280",
  ):
    policies.load_words(workdir / "vl", ImageConfig())


def test_servers_take_it_as_it_is(workdir):
  """In transformers' format; not where images would be cut for another model."""
  config = qwen_vl_config.get_config()
  spec = supervise.spec_of(config, "policy", workdir / "vl", port=1)
  for backend in backends.BACKENDS.values():
    assert str(workdir / "vl") in backend.command(workdir / "python", spec)
  with pytest.raises(SophiaError, match="sees images; a reasoner is"):
    supervise.spec_of(config, "reasoner", workdir / "vl", port=1)
  config.images.video_rate = 2.0
  with pytest.raises(SophiaError, match="servers see no videos"):
    supervise.spec_of(config, "policy", workdir / "vl", port=1)
  config.images.video_rate = 0.0
  config.images.method = "grid"
  with pytest.raises(SophiaError, match="cut by method 'native'"):
    supervise.spec_of(config, "policy", workdir / "vl", port=1)
