"""SOPHIA on InternVL3-8B, as the paper sets it.

Paper:     arXiv 2507.16814, App. B.1 and Table 1, row "InternVL3.0-8B + SOPHIA":
           average of the eight benchmarks 37.55 -> 44.71, MathVision 25.66 ->
           37.89, OlympiadBench 19.40 -> 38.67
Run:       python -m launch.run --config=configs/internvl3_8b.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.reasoners.easy.path=/models/QwQ-32B-Preview \\
             --config.reasoners.difficult.path=/models/DeepSeek-R1 \\
             --config.data.problems=/data/mathv360k.jsonl
Hardware:  one node of 8 H100 for the update; `launch.plan` says what a TPU
           topology makes of it
Expect:    not run at this size yet; the rows above are the paper's
"""

from ml_collections import ConfigDict

from configs import base
from sophia_jax.config import defaults
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.runs.policies import ReasonerConfig
from sophia_jax.runs.stage import stage

TILES = 48
"""Tiles of a row, on average; the bound that InternVL's own packing has."""


ROWS = 512
"""Rows of an update, as in the paper."""


def layout(
  rows: int, remat: str, block: int = 1024, shard_rows: int = 2, **mesh: int
) -> dict:
  """Returns how an update lies on a topology, for `runs.run.for_topology`.

  Args:
    rows: rows of a microbatch, over all devices.
    block: tokens of a row whose logits exist at the same time. The head's
      gradient is summed over the devices for each: where several devices share
      a row, larger blocks are as little memory and fewer sums.
    shard_rows: rows that are packed together. A host takes whole shards, and a
      run may go on on another topology with as many rows to a shard.
  """
  return {
    "train": {
      "rows": rows,
      "microbatches": ROWS // rows,
      "tiles": rows * TILES,
      "block": block,
    },
    "packing": {"shards": rows // shard_rows},
    "policy": {"remat": remat},
    "mesh": mesh,
  }


def get_config() -> ConfigDict:
  c = base.get_config()
  c.size = "internvl3_8b"  # what is planned where there is no checkpoint
  c.policy.update(remat="block", engine="sglang")
  c.reasoners = {
    "easy": defaults(ReasonerConfig, engine="sglang"),
    "difficult": defaults(ReasonerConfig, engine="sglang"),
  }
  for how in (c.captioning, c.reasoning, c.answering):
    how.max_new_tokens = 32768
  c.engine = defaults(EngineConfig, slots=64, length=40960)
  c.reward.workers = 8
  # 512 rows of 32,768 tokens an update; alpha, K, N, learning rate, decay and
  # schedule are the paper's and the defaults.
  c.stages = {
    "sophia": stage(
      "sophia",
      train={
        "rows": 8,
        "microbatches": 64,
        "tiles": 8 * TILES,
        "length": 32768,
        "block": 1024,
      },
    )
  }
  c.order = ("sophia",)
  c.topologies = {
    "v5p:4x4x4": layout(32, "dots", 2048, fsdp=32, context=2),
    "v5p:4x4x8": layout(64, "dots", 2048, fsdp=64, context=2),
    "v6e:8x8": layout(32, "attention", 2048, fsdp=32, context=2),
    "v6e:16x16": layout(128, "attention", 2048, fsdp=128, context=2),
    "h100:8": layout(8, "attention", fsdp=8),
    "h100:32": layout(32, "attention", fsdp=32),
  }
  return c
