"""Three rounds of GRPO with a served policy; a round takes seconds."""

from ml_collections import ConfigDict

from tests.launch import rounds_config
from tests.servers import tiny_config


def get_config() -> ConfigDict:
  c = rounds_config.get_config()
  c.policy.engine = "sglang"
  c.serve = tiny_config.get_config().serve
  c.engine.length = tiny_config.LENGTH
  c.client.concurrency = 8
  return c
