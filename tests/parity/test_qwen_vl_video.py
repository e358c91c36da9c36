"""Videos for Qwen2.5-VL: pairs of frames, times, and the engine's caches.

What follows a video continues after the largest of its three positions, as in the
model's own code and in transformers before version 5; later ones leave the times
out of it in a prompt, and count them again in what is generated.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from sophia_jax.checkpoints import load_params, read_config
from sophia_jax.data import clips
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.models import InternVL
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.types import Prompt, Request, Role, Sampling, SophiaError
from tests.parity import packed
from tests.parity import tiny_qwen as tiny

NEW = 4
IMAGES = ImageConfig(
  method="native",
  tile_size=tiny.SIDE,
  min_tiles=4,
  max_tiles=30,
  video_rate=1.5,
)
GREEDY = Sampling(temperature=0.0, max_new_tokens=NEW)


@dataclasses.dataclass
class Asked:
  ref: torch.nn.Module
  module: InternVL
  params: dict
  words: Renderer
  prompts: list[Prompt]

  def inputs(self, prompt: Prompt, more: tuple[int, ...] = ()) -> dict:
    """What transformers' model is called with."""
    cut = TileCache(IMAGES)
    ids = np.append(prompt.token_ids, np.int32(more)).astype(np.int64)
    out = {"input_ids": torch.from_numpy(ids)[None]}
    films, stills, grids = [], [], []
    for name, count in zip(prompt.images, prompt.tiles):
      tiles, clip = cut(name, count), clips.read(name)
      pairs = tiles if clip else tiles[None]
      grids.append((pairs.shape[:3], clip))
      (films if clip else stills).append(pairs)
    for key, found in (("_videos", films), ("", stills)):
      if found:
        kind = "video" if key else "image"
        pixels = [two_frames(pair) for pairs in found for pair in pairs]
        shapes = [(t, 2 * r, 2 * c) for t, r, c in (x.shape[:3] for x in found)]
        out[f"pixel_values{key}"] = torch.cat(pixels)
        out[f"{kind}_grid_thw"] = torch.tensor(shapes)
    roles = np.append(prompt.roles, np.zeros(len(more), np.int8))
    places = positions(roles == Role.IMAGE, grids, self.rate)
    return {**out, "position_ids": torch.from_numpy(places)[:, None]}

  @property
  def rate(self) -> int:
    return self.ref.config.vision_config.tokens_per_second

  @torch.no_grad()
  def logits(self, prompt: Prompt, more: tuple[int, ...] = ()) -> np.ndarray:
    return self.ref(**self.inputs(prompt, more)).logits[0].numpy()

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


def two_frames(pair: np.ndarray) -> torch.Tensor:
  """Patches of a pair [rows, columns, S, S, 6] as the processor orders them."""
  first, second = (
    tiny.pixels(x).unflatten(1, (3, 2, 14, 14)) for x in np.split(pair, 2, -1)
  )
  return torch.stack([first[:, :, 0], second[:, :, 0]], 2).flatten(1)


def positions(shown: np.ndarray, grids: list, rate: int) -> np.ndarray:
  """Time, row and column of every token."""
  following, parts, left = 0, [], iter(grids)
  for is_picture, run in itertools.groupby(shown.tolist()):
    count = len(list(run))
    at = np.broadcast_to(np.arange(count), (3, count))
    if is_picture:
      grid, clip = next(left)
      at = np.indices(grid).reshape(3, -1)
      if clip:
        seconds = np.float32(clips.FRAMES / clip.rate * rate)
        at[0] = np.floor(at[0] * seconds)
    parts.append(at + following)
    following = parts[-1].max() + 1
  return np.concatenate(parts, axis=1)


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Asked:
  directory = tmp_path_factory.mktemp("asked")
  ref = tiny.build(directory, **tiny.words(directory))
  cfg = read_config(directory)
  rng, paths = np.random.default_rng(2), []
  for i in range(6):
    noise = rng.integers(0, 256, (90, 140, 3), np.uint8)
    paths.append(str(directory / f"{i}.png"))
    Image.fromarray(noise).save(paths[-1])
  words = Renderer(str(directory), IMAGES, cfg.tokens_per_tile)
  prompts = [
    words.prompt("Which?"),
    words.prompt("<video>Red?", paths[:5]),
    words.prompt("a<image>b<video 0.4>c", paths[:3]),
    words.prompt("Two: ", paths[:1]),
  ]
  params = load_params(directory, cfg)
  return Asked(ref, InternVL(cfg), params, words, prompts)


def test_a_prompt_has_a_token_for_two_frames(asked):
  _, video, both, image = asked.prompts
  tile = image.tiles[0]
  assert video.tiles == (3 * tile,)  # the fifth frame stands for two
  assert both.tiles == (tile, tile)
  marks = asked.words.vocabulary.marks
  start, pad, end = (
    marks[x] for x in ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>")
  )
  (at,) = np.nonzero(video.token_ids == pad)
  assert len(at) == 3 * tile == (video.roles == Role.IMAGE).sum()
  assert video.token_ids[at[0] - 1] == start
  assert video.token_ids[at[-1] + 1] == end


def test_positions_equal_transformers_where_a_video_is_short(asked):
  """Its times are no larger than its sides there."""
  prompt = asked.prompts[1]
  inputs = asked.inputs(prompt)
  kinds = torch.from_numpy(2 * (prompt.roles == Role.IMAGE).astype(np.int32))
  want, _ = asked.ref.model.get_rope_index(
    inputs["input_ids"],
    kinds[None],
    video_grid_thw=inputs["video_grid_thw"],
    second_per_grid_ts=torch.tensor([0.25]),
  )
  grid = tuple(inputs["video_grid_thw"][0].tolist())
  clip = clips.Clip(clips.FRAMES / 0.25, ())
  shape = (grid[0], grid[1] // 2, grid[2] // 2)
  found = positions(prompt.roles == Role.IMAGE, [(shape, clip)], asked.rate)
  np.testing.assert_array_equal(found, want[:, 0].numpy())


def test_a_packed_batch_gives_the_logits_of_transformers(asked):
  packed.assert_logits(asked, [[0, 1], [3, 2]], IMAGES, tiles=140)


def test_greedy_tokens(asked):
  config = EngineConfig(slots=2, length=256, prefill_rows=2, chunk=3)
  engine = EmbeddedEngine(
    asked.module, asked.params, asked.words, config, TileCache(IMAGES)
  )
  prompts = asked.prompts[1:3]  # read together: one program
  requests = [
    Request(id=str(i), prompt=prompt, sampling=GREEDY)
    for i, prompt in enumerate(prompts)
  ]
  found = {c.request_id: c.token_ids for c in engine.generate(requests)}
  for i, prompt in enumerate(prompts):
    assert found[str(i)] == asked.greedy(prompt)


def test_a_question_that_shows_a_video_in_no_sensible_way(asked):
  path = clips.read(asked.prompts[1].images[0]).paths[0]
  for question in ("<video><video>?", "<image><video>?", "<video 0>?"):
    with pytest.raises(SophiaError, match=r"<video> for \d frame"):
      asked.words.prompt(question, [path])
