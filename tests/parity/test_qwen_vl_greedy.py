"""Qwen2.5-VL from pictures on disk: batches and the embedded engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from sophia_jax.checkpoints import load_params, read_config, save_params
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.models import InternVL
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.types import Prompt, Request, Role, Sampling
from tests.parity import packed
from tests.parity import tiny_qwen as tiny

NEW = 6
IMAGES = ImageConfig(
  method="native", tile_size=tiny.SIDE, min_tiles=4, max_tiles=30
)
SIZES = ((170, 140), (30, 90), (300, 28))
GREEDY = Sampling(temperature=0.0, max_new_tokens=NEW)


@dataclasses.dataclass
class Asked:
  ref: torch.nn.Module
  module: InternVL
  params: dict
  words: Renderer
  prompts: list[Prompt]

  def sequence(self, prompt: Prompt, more: tuple[int, ...] = ()):
    cut = TileCache(IMAGES)
    images = tuple(map(cut, prompt.images, prompt.tiles))
    ids = np.append(prompt.token_ids, np.int32(more))
    return tiny.Sequence(ids.astype(np.int64), images)

  @torch.no_grad()
  def logits(self, prompt: Prompt, more: tuple[int, ...] = ()) -> np.ndarray:
    inputs = self.sequence(prompt, more).inputs(self.words.image_id)
    return self.ref(**inputs).logits[0].numpy()

  def greedy(self, prompt: Prompt) -> tuple[int, ...]:
    """Decodes without a cache, a whole forward pass a token."""
    never = [*self.words.banned_ids]
    never += range(self.words.vocab_size, self.module.cfg.decoder.vocab)
    out: list[int] = []
    while len(out) < NEW and self.words.end_id not in out:
      last = self.logits(prompt, tuple(out))[-1]
      last[never] = -np.inf
      out.append(int(last.argmax()))
    return tuple(out)


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Asked:
  directory = tmp_path_factory.mktemp("asked")
  ref = tiny.build(directory, **tiny.words(directory))
  cfg = read_config(directory)
  rng, paths = np.random.default_rng(2), []
  for i, size in enumerate(SIZES):
    noise = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
    paths.append(str(directory / f"{i}.png"))
    Image.fromarray(noise).save(paths[-1])
  words = Renderer(str(directory), IMAGES, cfg.tokens_per_tile)
  prompts = [
    words.prompt("Which?"),
    words.prompt("Red?", paths[:1]),
    words.prompt("Ink?", [paths[1], paths[0], paths[1]]),
    words.prompt("a<image>b<image>", paths[1:]),
  ]
  params = load_params(directory, cfg)
  return Asked(ref, InternVL(cfg), params, words, prompts)


def test_a_prompt_is_qwens_template_word_for_word(asked):
  marks = asked.words.vocabulary.marks
  prompt = asked.prompts[2]
  names = {i: mark for mark, i in marks.items()}
  spelt = "".join(
    names.get(i) or asked.words.decode([i]) for i in prompt.token_ids.tolist()
  )
  images = "".join(
    "<|vision_start|>" + "<|image_pad|>" * tiles + "<|vision_end|>"
    for tiles in prompt.tiles
  )
  assert spelt == (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n{images}Ink?<|im_end|>\n<|im_start|>assistant\n"
  )
  assert prompt.tiles == (8, 30, 8)
  assert (prompt.roles == Role.IMAGE).sum() == 46


def test_a_packed_batch_gives_the_logits_of_transformers(asked):
  """Two rows, two shards, an image in both, and tiles to spare."""
  packed.assert_logits(asked, [[0, 1], [2, 3]], IMAGES, tiles=100)


def test_greedy_tokens(asked):
  """Also of a second turn, which continues in the caches of the first."""
  config = EngineConfig(slots=2, length=256, prefill_rows=2, chunk=3)
  engine = EmbeddedEngine(
    asked.module, asked.params, asked.words, config, TileCache(IMAGES)
  )
  requests = [
    Request(id=str(i), prompt=prompt, sampling=GREEDY)
    for i, prompt in enumerate(asked.prompts)
  ]
  found = {c.request_id: c.token_ids for c in engine.generate(requests)}
  for i in (0, 2, 3):
    assert found[str(i)] == asked.greedy(asked.prompts[i])
  first = asked.prompts[1]
  engine.submit(Request(id="first", prompt=first, sampling=GREEDY))
  engine.submit(Request(id="other", prompt=asked.prompts[0], sampling=GREEDY))
  while engine.busy:
    engine.tick()
  more = np.concatenate([np.int32(found["1"]), asked.words.encode("Why?")])
  second = dataclasses.replace(
    first,
    token_ids=np.append(first.token_ids, more).astype(np.int32),
    roles=np.append(first.roles, np.zeros(len(more), np.int8)),
  )
  engine.submit(Request(id="second", prompt=second, sampling=GREEDY))
  assert engine._lanes[0].waiting  # the caches are used
  done = []
  while engine.busy:
    done += engine.tick()
  assert done[0][1].token_ids == asked.greedy(second)


def test_an_export_has_processor_and_template(asked, tmp_path):
  cfg = asked.module.cfg
  directory = tmp_path / "words"
  tiny.words(directory)
  save_params(asked.params, cfg, tmp_path / "out", directory)
  assert read_config(tmp_path / "out") == cfg
  template = (tmp_path / "out" / "chat_template.jinja").read_text()
  assert "You are a helpful assistant." in template
  assert "<|vision_start|><|image_pad|><|vision_end|>" in template
