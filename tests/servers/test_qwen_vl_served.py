"""Qwen2.5-VL in both servers, before and after new weights."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sophia_jax.data.images import ImageConfig
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangEngine
from sophia_jax.types import Prompt, Request, Sampling
from tests.rollout import little
from tests.servers import served
from tests.servers.served import NEW, TOLERANCE, Model
from tests.servers.tiny_config import CHUNK, LENGTH

pytestmark = pytest.mark.servers

IMAGES = ImageConfig(
  method="native", tile_size=little.SIDE, min_tiles=4, max_tiles=30
)
SIZES = ((170, 140), (30, 90), (200, 28))
OPTIONS = {
  "sglang_jax": (),
  "sglang": (
    "--backend=sglang",
    f"--config.serve.extra={('--chunked-prefill-size', str(CHUNK))}",
  ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
  """The encoder's MLP is no multiple of 8, as that of the 3B and the 7B."""
  directory = tmp_path_factory.mktemp("qwen_vl")
  module, words = little.qwen_vl(directory / "tokenizer", IMAGES, mlp=20)
  made = Model(directory, module, words)
  made.save("policy")
  made.save("other", seed=1)
  return made


@pytest.fixture(scope="module", params=OPTIONS)
def server(request, model):
  options = [f"--config.images.{k}={getattr(IMAGES, k)}" for k in
             ("method", "min_tiles", "max_tiles")]  # fmt: skip
  options += OPTIONS[request.param]
  with served.serving(model.directory, "policy", options=options) as found:
    yield found


@pytest.fixture(scope="module")
def asked(model) -> dict[str, Prompt]:
  """Images wider than a window, beside each other, and over a chunk's end."""
  rng, paths = np.random.default_rng(4), []
  for i, (width, height) in enumerate(SIZES):
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    paths.append(str(model.directory / f"{i}.png"))
    Image.fromarray(pixels).save(paths[-1])
  return {
    "no image": model.prompt("What do you see"),
    "one": model.prompt("red ink", paths[:1]),
    "several": model.prompt("red ink", [*paths, paths[0]]),
    "between": model.prompt("see <image> red <image> ink", paths[1:]),
  }


def answers_are_the_embedded_engines(
  model: Model, engine: SGLangEngine, asked: dict[str, Prompt], seed: int
) -> None:
  how = Sampling(temperature=0.0, max_new_tokens=NEW)
  requests = [
    Request(id=name, prompt=prompt, sampling=how)
    for name, prompt in asked.items()
  ]
  found = {c.request_id: c for c in engine.generate(requests)}
  for name, wanted in zip(asked, model.embedded(list(asked.values()), seed)):
    assert found[name].token_ids == wanted.token_ids, name
    np.testing.assert_allclose(
      found[name].logps, wanted.logps, atol=TOLERANCE, rtol=0
    )


def test_greedy_answers_of_both_weights(model, server, asked):
  assert len(asked["several"]) > CHUNK
  with SGLangEngine([server.url], ClientConfig(), model.words) as engine:
    engine.check(str(model.directory / "policy"), LENGTH)
    answers_are_the_embedded_engines(model, engine, asked, seed=0)
    status, said = server.post(
      "/update_weights_from_disk",
      {"model_path": str(model.directory / "other")},
    )
    assert status == 200, said
    answers_are_the_embedded_engines(model, engine, asked, seed=1)
