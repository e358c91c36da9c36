"""The config of a new user, as guides/own-data.md shows it, and tiny."""

from configs import base
from sophia_jax.config import defaults
from sophia_jax.runs.policies import ReasonerConfig
from sophia_jax.runs.stage import stage
from tests.rollout.little import SIDE


def get_config():
  c = base.get_config()
  c.policy.dtype = "float32"
  c.reasoners = {"easy": defaults(ReasonerConfig)}
  c.images.update(tile_size=SIDE, max_tiles=2)
  c.prompts.update(
    system="Look.",
    caption="Look.",
    slow_thinking="Look.",
    reasoning="{caption} {question}",
  )
  for asked in (c.captioning, c.reasoning, c.eval):
    asked.max_new_tokens = 4
  c.engine.update(slots=8, length=96, prefill_rows=4, chunk=2)
  c.stages = {
    "sophia": stage(
      "sophia",
      captions=2,
      trajectories=2,
      alpha=0.0,
      train={
        "rows": 2,
        "length": 96,
        "tiles": 8,
        "block": 32,
        "epochs": 2,
        "checkpoint_every": 1,
        "log_every": 1,
      },
    )
  }
  c.order = ("sophia",)
  return c
