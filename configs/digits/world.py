"""The world of handwritten digits, and what every run in it begins with.

Scenes of two or three handwritten digits (UCI digits) and questions that need
reading them and then several steps. Two models of 1M parameters start from
random weights: a text-only reasoner learns worked examples, the policy learns
to see, to caption and to read. No run here needs a checkpoint or a network.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base
from sophia_jax.config import defaults
from sophia_jax.digits.corpus import CorpusConfig
from sophia_jax.digits.pretrain import VisionConfig
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.runs.policies import ReasonerConfig
from sophia_jax.runs.stage import stage

FIRST = ("reasoner", "warmup", "sophia")
"""Stages of the quickstart, which the other runs start from."""

# Rows are short and batches small: many updates count for more than few good
# ones when everything starts from random weights.
TRAIN = {
  "rows": 4,
  "length": 256,
  "learning_rate": 2e-3,
  "warmup_steps": 20,
  "b2": 0.98,
  "checkpoint_every": 250,
  "block": 128,
}
ROUND = {
  "rows": 8,
  "length": 256,
  "tiles": 24,
  "block": 128,
  "learning_rate": 2e-4,
  "warmup_steps": 10,
  "b2": 0.98,
  "weight_decay": 0.0,
  "log_every": 1,
}
"""Optimizer and shape of an update on the policy's own samples."""
PRACTICE = 4800
"""Problems that only stages of rounds see."""
ROUNDS = {
  "data": "data/practice.jsonl",
  "rounds": 100,
  "groups": 48,
  "minibatches": 2,
  "train": ROUND,
}
"""A stage of a method that learns from its own samples."""

PAIRS = {
  "n": 8,
  "train": {**ROUND, "learning_rate": 5e-5, "epochs": 1},
}
"""A stage of a method that learns from pairs of own answers, sampled once."""
IMITATION = {**TRAIN, "epochs": 3, "tiles": 16}
"""Optimizer of a stage that imitates chains, from the quickstart's result on."""

TOY = {
  "reward.workers": 1,
  "prepare.corpus.problems": 10,
  "prepare.corpus.heldout": 5,
  "prepare.corpus.warmup_scenes": 80,
  "prepare.corpus.reasoner_examples": 160,
  "prepare.vision.steps": 2,
  "prepare.vision.images": 8,
  "prepare.encoder.width": 16,
  "prepare.encoder.depth": 1,
  "prepare.encoder.heads": 2,
  "prepare.encoder.mlp": 32,
  "prepare.decoder.width": 32,
  "prepare.decoder.depth": 1,
  "prepare.decoder.heads": 2,
  "prepare.decoder.kv_heads": 1,
  "prepare.decoder.head_dim": 16,
  "prepare.decoder.mlp": 64,
  "captioning.max_new_tokens": 12,
  "reasoning.max_new_tokens": 20,
  "eval.max_new_tokens": 16,
  "engine.slots": 4,
  "engine.prefill_rows": 2,
  "engine.chunk": 2,
  "stages.sophia.captions": 2,
  "stages.sophia.trajectories": 3,
  "stages.sophia.random": "true",
  "stages.sophia.keep_n": 3,
  "stages.sophia.train.rows": 2,
}
"""Overrides that make the quickstart as small as it can be, for tests and dry
runs. Such a reasoner is never right: the ablation learns from any trajectory."""


def prepare() -> ConfigDict:
  """Returns what is made from nothing; other configs bring checkpoints."""
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
  return c


def get_config() -> ConfigDict:
  """Returns the quickstart: reasoner, warm-up, SOPHIA."""
  c = base.get_config()
  c.prepare = prepare()
  c.policy.update(path="models/policy", dtype="float32")
  c.reasoners = {
    "easy": defaults(
      ReasonerConfig, path="models/reasoner", start="models/reasoner_start"
    )
  }
  c.data.update(problems="data/problems.jsonl", heldout="data/heldout.jsonl")
  c.images.update(tile_size=48, max_tiles=1)
  c.prompts.update(
    system="Look.",
    slow_thinking="Think slowly, then answer.",
    caption="Describe the image.",
    reasoning="Visual information: {caption}\n{question}",
  )
  c.captioning.max_new_tokens = 30
  c.reasoning.max_new_tokens = c.answering.max_new_tokens = 128
  c.engine = defaults(
    EngineConfig, slots=256, length=192, prefill_rows=64, chunk=8
  )
  c.packing.drop_oversize = False
  c.eval.update(temperature=0.0, top_p=1.0, max_new_tokens=128)
  c.stages = {
    "reasoner": stage(
      "sft",
      model="easy",
      data="data/reasoner.jsonl",
      train={**TRAIN, "final_fraction": 0.05},
    ),
    "warmup": stage(
      "sft",
      data="data/warmup.jsonl",
      train={
        **TRAIN,
        "trained": ("projector", "language"),
        "epochs": 2,
        "tiles": 24,
        "final_fraction": 0.05,
      },
    ),
    # With N = 4, three right of four is 0.75: the paper's alpha would ask for
    # all of them.
    "sophia": stage(
      "sophia",
      captions=3,
      trajectories=4,
      alpha=0.7,
      train={**TRAIN, "epochs": 10, "tiles": 16},
    ),
  }
  c.order = FIRST
  return c


def followed_by(name: str, algorithm: str, **values: Any) -> ConfigDict:
  """Returns the quickstart with one stage more, which starts from its result.

  Args:
    name: the stage's name.
    algorithm: name in `algorithms.registry.ALGORITHMS`.
    values: as for `stage`.
  """
  c = get_config()
  c.prepare.corpus.practice = PRACTICE
  c.stages[name] = stage(algorithm, **values)
  c.order = (*FIRST, name)
  return c
