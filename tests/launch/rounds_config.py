"""Three rounds of GRPO with a model so small that a round takes a second."""

from configs.digits import world
from sophia_jax.runs.stage import stage
from tests.rollout.little import SIDE

TRAIN = {
  "rows": 4,
  "length": 64,
  "tiles": 8,
  "block": 32,
  "learning_rate": 3e-3,
  "schedule": "constant",
  "checkpoint_every": 1,
  "log_every": 1,
}


def get_config():
  c = world.get_config()
  c.prepare = None
  c.reward.workers = 1
  c.reasoners = {}
  c.images.update(tile_size=SIDE, max_tiles=1)
  c.prompts.update(slow_thinking="Look.")
  c.answering.max_new_tokens = 4
  c.eval.update(temperature=1.0, top_p=1.0, max_new_tokens=4, samples=2)
  c.engine.update(slots=8, length=64, prefill_rows=4, chunk=2)
  c.packing.shards = 2
  c.stages = {
    "grpo": stage(
      "grpo",
      n=6,
      kl=0.01,
      rounds=3,
      groups=4,
      draws=2,
      minibatches=2,
      evaluate_every=2,
      train=TRAIN,
    )
  }
  c.order = ("grpo",)
  return c
