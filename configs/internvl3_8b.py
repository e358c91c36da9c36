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

from sophia_jax.algorithms.legacy.sophia import SophiaConfig
from sophia_jax.config import defaults
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.rollout.collect import RolloutConfig
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs.policies import ReasonerConfig, RuntimeConfig
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.sharding import MeshConfig
from sophia_jax.train.trackers import LogConfig
from sophia_jax.types import Sampling

TILES = 48
"""Of a row, on average; the bound InternVL's own packing has."""


ROWS = 512
"""Of an update, as the paper has it."""


def layout(
  rows: int, remat: str, block: int = 1024, shard_rows: int = 2, **mesh: int
) -> dict:
  """How an update lies on a topology; `for_topology` of launch/cli.py sets it.

  Args:
    rows: of a microbatch, over all devices.
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
  c = ConfigDict()
  c.seed = 0
  c.size = "internvl3_8b"  # what is planned where there is no checkpoint
  c.policy = defaults(
    RuntimeConfig, path="", dtype="bfloat16", remat="block", engine="sglang"
  )
  served = {"engine": "sglang"}
  c.reasoners = {
    "easy": defaults(ReasonerConfig, **served),
    "difficult": defaults(ReasonerConfig, **served),
  }
  c.client = defaults(ClientConfig)
  c.data = {
    "problems": "",
    "heldout": "",
    "warmup": "",
    "text": "",
    "general": "",
  }
  c.images = defaults(ImageConfig)  # 448-pixel tiles, at most 12, a thumbnail
  c.prompts = defaults(Prompts)
  c.warmup = None
  c.rollout = defaults(RolloutConfig)  # K = N = 8
  c.captioning = defaults(Sampling, max_new_tokens=32768)
  c.reasoning = defaults(Sampling, max_new_tokens=32768)
  c.engine = defaults(EngineConfig, slots=64, length=40960)
  c.reward = {"workers": 8, "timeout_s": 10.0, "memory_mb": 1024}
  c.sophia = defaults(SophiaConfig)  # alpha = 0.75
  # 512 rows of 32,768 tokens an update; learning rate, decay and schedule are
  # the paper's and the defaults.
  c.train = defaults(
    TrainConfig,
    rows=8,
    microbatches=64,
    tiles=8 * TILES,
    length=32768,
    block=1024,
  )
  c.mixture = defaults(MixtureConfig)
  c.filters = defaults(FilterConfig)
  c.packing = {"shards": 1, "open_rows": 64, "drop_oversize": True}
  c.eval = defaults(EvalConfig)
  c.mesh = defaults(MeshConfig)
  c.log = defaults(LogConfig)
  c.topology = ""
  c.topologies = {
    "v5p:4x4x4": layout(32, "dots", 2048, fsdp=32, context=2),
    "v5p:4x4x8": layout(64, "dots", 2048, fsdp=64, context=2),
    "v6e:8x8": layout(32, "attention", 2048, fsdp=32, context=2),
    "v6e:16x16": layout(128, "attention", 2048, fsdp=128, context=2),
    "h100:8": layout(8, "attention", fsdp=8),
    "h100:32": layout(32, "attention", fsdp=32),
  }
  return c
