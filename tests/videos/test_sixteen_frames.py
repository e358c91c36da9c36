"""A video of sixteen frames through renderer, embedded engine and trainer."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from sophia_jax.data.images import TileCache
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.digits.clip_files import framed
from sophia_jax.train.outputs import response_logps
from sophia_jax.types import Request, Role, Sampling
from sophia_jax.videos.clips import read_frames
from tests.rollout import little
from tests.videos.making import write_video

LENGTH = 512
FRAMES = 16


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
  """Paths of the frames of a video, each of them another."""
  directory = tmp_path_factory.mktemp("video")
  video = write_video(directory / "a.mp4", range(10, 250, 10))
  paths = []
  for k, frame in enumerate(read_frames(video, FRAMES)):
    # The tiny model hardly sees a shade of grey; it does see where it begins.
    pixels = np.asarray(frame.image).copy()
    pixels[:, : 3 * k] = 255 - pixels[:, : 3 * k]
    paths.append(str(directory / f"{k}.png"))
    Image.fromarray(pixels).save(paths[-1])
  return paths


def test_sixteen_frames_are_tiles_like_any_others(frames, tmp_path):
  words = little.renderer(str(tmp_path / "words"), True)
  module = little.model(words)
  config = dataclasses.replace(little.ENGINE, length=LENGTH, slots=2)
  engine = little.engine(module, words, config=config)
  how = Sampling(max_new_tokens=6, seed=1)
  requests = [
    Request(
      id=name,
      prompt=words.prompt(framed("What do you see", FRAMES), shown),
      sampling=how,
    )
    for name, shown in (("forth", frames), ("back", frames[::-1]))
  ]
  prompt = requests[0].prompt
  assert prompt.tiles == (1,) * FRAMES
  assert (prompt.roles == Role.IMAGE).sum() == 4 * FRAMES
  answers = {c.request_id: c for c in engine.generate(requests)}
  for request in requests:
    answer = answers[request.id]
    sequence = words.sequence(request.prompt, answer.token_ids, id="")
    batch = pack(
      [[sequence]],
      PackConfig(rows=1, length=LENGTH, tile_budget=FRAMES),
      tokens_per_tile=4,
      tile_size=little.SIDE,
      streams=(),
      load_tiles=TileCache(little.IMAGES),
    )
    logps = jax.jit(response_logps, static_argnums=(0, 3))(
      module, little.params(module), batch, 64
    )
    places = np.flatnonzero(sequence.roles == Role.RESPONSE) - 1
    found = np.asarray(logps)[0][places]
    np.testing.assert_allclose(found, answer.logps, atol=1e-4)
  # Time is the order of the images.
  assert not np.allclose(
    answers["forth"].logps[0], answers["back"].logps[0], atol=1e-4
  )
