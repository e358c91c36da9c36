"""SOPHIA on InternVL3-38B, as the paper sets it.

Paper:     arXiv 2507.16814, App. B.1 and Table 1, row "InternVL3.0-38B + SOPHIA":
           average of the eight benchmarks 47.01 -> 55.51, MathVision 32.93 ->
           49.08, OlympiadBench 25.50 -> 49.95
Run:       as configs/internvl3_8b.py, with --config=configs/internvl3_38b.py and
           --config.policy.path=/models/InternVL3-38B-hf
Hardware:  a pod: 64 chips of v5p, 64 of v6e, or four nodes of 8 H100
Expect:    not run at this size yet; the rows above are the paper's
"""

import functools

from ml_collections import ConfigDict

from configs import internvl3_8b
from configs.internvl3_8b import layout


def get_config() -> ConfigDict:
  c = internvl3_8b.get_config()
  c.size = "internvl3_38b"
  # Where tensor is 4, a host of four chips has a single row.
  single = functools.partial(layout, shard_rows=1)
  c.topologies = {
    # Eight chips share a row, so that all matrix products of it can be kept.
    "v5p:4x4x4": single(8, "dots", 8192, fsdp=8, context=8),
    "v5p:4x4x8": single(16, "dots", 8192, fsdp=16, context=8),
    # A row of 32,768 tokens does not fit one chip of 31 GiB. With 4,096 of them a
    # chip can keep a third of the matrix products; one of 64 chips has four times
    # the state, and with it half as many tokens.
    "v6e:8x8": single(4, "up", 4096, fsdp=4, context=4, tensor=4),
    "v6e:16x16": single(32, "up", 4096, fsdp=32, context=2, tensor=4),
    "h100:32": single(8, "attention", 4096, fsdp=8, tensor=4),
  }
  return c
