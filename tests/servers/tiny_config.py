"""A config for servers of tests/servers/served.py: everything is tiny."""

from ml_collections import ConfigDict

from configs import quickstart
from sophia_jax.config import defaults
from sophia_jax.servers.supervise import ServeConfig
from tests.rollout import little

CHUNK = 64
"""Prompt tokens that a server reads at a time: fewer than the longest prompt."""
LENGTH = 160


def get_config() -> ConfigDict:
  c = quickstart.get_config()
  c.policy.path, c.reasoners.easy.path = "policy", "reasoner"
  c.images.tile_size = little.IMAGES.tile_size
  c.images.max_tiles = little.IMAGES.max_tiles
  c.engine.length = LENGTH
  c.serve = defaults(
    ServeConfig,
    backend="sglang_jax",
    max_running=4,
    start_s=600.0,
    extra=(
      *("--chunked-prefill-size", str(CHUNK)),
      *("--precompile-token-paddings", str(CHUNK)),
    ),
  )
  return c
