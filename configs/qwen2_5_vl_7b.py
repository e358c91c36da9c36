"""SOPHIA on Qwen2.5-VL-7B, with the paper's settings.

Paper:     arXiv 2507.16814 gives no row of this model
Run:       as configs/internvl3_8b.py, with --config=configs/qwen2_5_vl_7b.py and
           --config.policy.path=/models/Qwen2.5-VL-7B-Instruct
Hardware:  one node of 8 H100 for the update, or a TPU topology
Expect:    not run at this size yet
"""

from ml_collections import ConfigDict

from configs import internvl3_8b

TILES = 4096
"""Tiles of a row, on average: as many image tokens."""


def adopt(
  c: ConfigDict, tiles: int = TILES, least: int = 4, most: int = 1280
) -> ConfigDict:
  """Makes Qwen2.5-VL-7B the policy of a config that has InternVL3-8B.

  Args:
    tiles: image tokens of a row, on average.
    least, most: bounds of an image's tokens, each of which is 784 pixels.
  """
  c.size = "qwen2_5_vl_7b"
  c.images.update(
    method="native", tile_size=28, min_tiles=least, max_tiles=most
  )
  for stage in c.stages.values():
    if stage.train.tiles:
      stage.train.tiles = stage.train.rows * tiles
  for preset in c.topologies.values():
    rows = preset.train.rows
    # An image's tiles stay on the device that has its row.
    preset.train.tiles = rows * tiles
    preset.packing.shards = rows
  return c


def get_config() -> ConfigDict:
  return adopt(internvl3_8b.get_config())
