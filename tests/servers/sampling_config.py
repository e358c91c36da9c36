"""A config to sample with, from checkpoints that are there already."""

from ml_collections import ConfigDict

from tests.servers import tiny_config


def get_config() -> ConfigDict:
  c = tiny_config.get_config()
  c.prepare = None
  c.order = ("sophia",)
  c.data.problems = c.data.heldout = "problems.jsonl"
  c.policy.engine = c.reasoners.easy.engine = "sglang"
  c.prompts.caption = c.prompts.system = "What do you see"
  c.prompts.reasoning = "{caption}\n{question}"
  c.stages.sophia.update(captions=2, trajectories=3)
  c.captioning.max_new_tokens = 8
  c.reasoning.max_new_tokens = 24
  c.client.concurrency = 8
  c.client.backoff_s = 0.1
  c.client.max_backoff_s = 2.0
  return c
