"""GRPO on a tiny Qwen2.5-VL: one round, a few updates."""

from configs import base
from sophia_jax.runs.stage import stage


def get_config():
  c = base.get_config()
  c.policy.update(path="vl", dtype="float32")
  c.data.update(problems="problems.jsonl", heldout="problems.jsonl")
  c.images.update(method="native", tile_size=28, min_tiles=4, max_tiles=12)
  c.prompts.update(system="Look.", slow_thinking="Look.")
  for asked in (c.answering, c.eval):
    asked.max_new_tokens = 4
  c.engine.update(slots=8, length=96, prefill_rows=2, chunk=2)
  c.reward.workers = 1
  c.stages = {
    "grpo": stage(
      "grpo",
      rounds=1,
      groups=4,
      n=4,
      kl=0.0,
      train={
        "rows": 2,
        "length": 96,
        "tiles": 24,
        "block": 32,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "warmup_steps": 0,
        "log_every": 1,
        "trained": ("vision", "projector", "language"),
      },
    )
  }
  c.order = ("grpo",)
  return c
