"""SOPHIA on Qwen2.5-VL-7B, with the paper's settings.

Paper:     arXiv 2507.16814 gives no row of this model
Run:       as configs/internvl3_8b.py, with --config=configs/qwen2_5_vl_7b.py and
           --config.policy.path=/models/Qwen2.5-VL-7B-Instruct
Hardware:  one node of 8 H100 for the update, or a TPU topology; the policy is
           sampled by the embedded engine
Expect:    not run at this size yet
"""

from ml_collections import ConfigDict

from configs import internvl3_8b

TILES = 4096
"""Tiles of a row, on average: as many image tokens."""


def get_config() -> ConfigDict:
  c = internvl3_8b.get_config()
  c.size = "qwen2_5_vl_7b"
  c.policy.engine = "embedded"
  c.images.update(method="native", tile_size=28, min_tiles=4, max_tiles=1280)
  train = c.stages.sophia.train
  train.tiles = train.rows * TILES
  for preset in c.topologies.values():
    rows = preset.train.rows
    # An image's tiles stay on the device that has its row.
    preset.train.tiles = rows * TILES
    preset.packing.shards = rows
  return c
