"""Packed rows against transformers, which sees each sequence alone."""

import jax
import numpy as np

from sophia_jax.data.images import TileCache
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.train.outputs import hidden_states
from tests.parity import tiny_qwen as tiny


def assert_logits(asked, rows, images, tiles):
  """Answers "Yes." to the prompts of each row and compares all logits.

  Args:
    rows: numbers of the prompts in each of two rows, one on each shard.
    tiles: tile budget of the batch.
  """
  sequences = [
    asked.words.sequence(prompt, "Yes.", id=str(i), streams={})
    for i, prompt in enumerate(asked.prompts)
  ]
  batch = pack(
    [[sequences[i] for i in row] for row in rows],
    PackConfig(rows=2, length=256, tile_budget=tiles, shards=2),
    tokens_per_tile=1,
    tile_size=tiny.SIDE,
    channels=images.channels,
    streams=(),
    load_tiles=TileCache(images),
  )

  @jax.jit
  def logits(params, batch):
    hidden = hidden_states(asked.module, params, batch)
    return asked.module.apply({"params": params}, hidden, method="logits")

  got = np.asarray(logits(asked.params, batch))
  for b, row in enumerate(rows):
    at = 0
    for i in row:
      prompt, ids = asked.prompts[i], sequences[i].token_ids
      want = asked.logits(prompt, tuple(ids[len(prompt) :]))
      assert np.abs(got[b, at : at + len(ids)] - want).max() < 5e-5
      at += len(ids)
