"""A whole round on Qwen2.5-VL, and where it is refused."""

import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from sophia_jax.checkpoints import load_params, read_config, save_params
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.vocabulary import QWEN_IMAGE_MARKS
from sophia_jax.digits import tokenizer
from sophia_jax.files import write_jsonl
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  QwenVisionConfig,
)
from sophia_jax.runs import policies, scoring
from sophia_jax.servers import supervise
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
  tokens = tokenizer.build(little.WORDS * 9, vision=False)
  tokens.add_tokens(list(QWEN_IMAGE_MARKS), special_tokens=True)
  tokenizer.save(tokens, workdir / "words")
  words = Renderer(str(workdir / "words"), IMAGES, 1, "Look.")
  cfg = InternVLConfig(
    vision=QwenVisionConfig(width=16, depth=2, heads=2, mlp=24, full=(1,)),
    decoder=DecoderConfig(
      vocab=words.vocab_size + 5,
      width=32,
      depth=2,
      heads=4,
      kv_heads=2,
      mlp=48,
      head_dim=8,
      mrope=(1, 1, 2),
    ),
    image_token_id=words.image_id,
    dtype="float32",
  )
  favourites = [*(words.encode(w)[0] for w in "AB"), words.end_id]
  weights = little.indifferent(InternVL(cfg), favourites)
  save_params(weights, cfg, workdir / "vl", workdir / "words")
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


def test_no_server_serves_it(workdir):
  config = qwen_vl_config.get_config()
  with pytest.raises(SophiaError, match=r"Qwen2\.5-VL is not served here"):
    supervise.spec_of(config, "policy", workdir / "vl")
