"""The whole road on a laptop: handwriting, reasoned about by a small InternVL.

Scenes of two or three handwritten digits (UCI digits) and questions that need
reading them and then several steps. An InternVL of 1M parameters starts from
random weights, is warmed up on captions and plain reading, and learns to reason
by SOPHIA from a text-only reasoner that never sees an image.

Run:       make quickstart
           python -m launch.run --config=configs/quickstart.py --workdir=W
Hardware:  two CPU cores, 4 GiB
Time:      8 minutes, compilation included
Expect:    held-out pass@1 from 2.5 % (the warmed-up policy) to 53 %; other seeds
           and libraries 51 % to 59 % (BUILD_NOTES.md)
"""

from ml_collections import ConfigDict

from sophia_jax.algorithms.legacy.sophia import SophiaConfig
from sophia_jax.config import defaults
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.digits.corpus import CorpusConfig
from sophia_jax.digits.pretrain import VisionConfig
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.rollout.collect import RolloutConfig
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs.policies import ReasonerConfig, RuntimeConfig
from sophia_jax.servers.supervise import ServeConfig
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.sharding import MeshConfig
from sophia_jax.train.trackers import LogConfig
from sophia_jax.types import Sampling

# Rows are short and batches small: many updates count for more than few good
# ones when everything starts from random weights.
BATCH = {
  "rows": 4,
  "length": 256,
  "learning_rate": 2e-3,
  "warmup_steps": 20,
  "b2": 0.98,
  "checkpoint_every": 250,
  "block": 128,
}


def prepare() -> ConfigDict:
  """Everything is made here, from nothing; other configs bring checkpoints."""
  c = ConfigDict()
  c.name = "digits"
  c.corpus = defaults(
    CorpusConfig,
    problems=1600,
    heldout=400,
    warmup_scenes=6000,
    reasoner_examples=16000,
  )
  c.encoder = {"width": 64, "depth": 2, "heads": 4, "mlp": 192}
  c.decoder = {
    "width": 128,
    "depth": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 32,
    "mlp": 384,
  }
  c.vision = defaults(VisionConfig)
  c.reasoner = defaults(TrainConfig, **BATCH, final_fraction=0.05)
  return c


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.seed = 0
  c.prepare = prepare()
  # Relative paths are inside the workdir.
  c.policy = defaults(RuntimeConfig, path="models/policy", dtype="float32")
  c.reasoners = {"easy": defaults(ReasonerConfig, path="models/reasoner")}
  c.client = defaults(ClientConfig)
  c.serve = defaults(ServeConfig)
  c.data = {
    "problems": "data/problems.jsonl",
    "heldout": "data/heldout.jsonl",
    "warmup": "data/warmup.jsonl",
    # Text trajectories and general questions are what a real run mixes in.
    "text": "",
    "general": "",
  }
  c.images = defaults(ImageConfig, tile_size=48, max_tiles=1)
  c.prompts = defaults(
    Prompts,
    system="Look.",
    slow_thinking="Think slowly, then answer.",
    caption="Describe the image.",
    reasoning="Visual information: {caption}\n{question}",
  )
  c.warmup = defaults(
    TrainConfig,
    **BATCH,
    trained=("projector", "language"),
    epochs=2,
    tiles=24,
    final_fraction=0.05,
  )
  c.rollout = defaults(RolloutConfig, captions=3, trajectories=4)
  c.captioning = defaults(Sampling, temperature=1.0, max_new_tokens=32)
  c.reasoning = defaults(Sampling, temperature=1.0, max_new_tokens=128)
  c.engine = defaults(
    EngineConfig, slots=256, length=192, prefill_rows=64, chunk=8
  )
  c.reward = {"workers": 2, "timeout_s": 10.0, "memory_mb": 1024}
  # With N = 4, three right of four is 0.75: the paper's alpha would ask for all.
  c.sophia = defaults(SophiaConfig, alpha=0.7)
  c.train = defaults(TrainConfig, **BATCH, epochs=10, tiles=16)
  c.mixture = defaults(MixtureConfig)
  c.filters = defaults(FilterConfig)
  # One shard for each host that is to take part.
  c.packing = {"shards": 1, "open_rows": 64, "drop_oversize": False}
  c.eval = defaults(EvalConfig, temperature=0.0, top_p=1.0, max_new_tokens=128)
  c.mesh = defaults(MeshConfig)
  c.log = defaults(LogConfig)
  return c
