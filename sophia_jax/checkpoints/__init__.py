"""Checkpoints of InternVL, Qwen2.5-VL, Qwen2, Qwen3 and Llama; orbax."""

from sophia_jax.checkpoints.config import read_config
from sophia_jax.checkpoints.config_writer import Format, write_config
from sophia_jax.checkpoints.directories import (
  load_params,
  load_sharded,
  save_params,
)

__all__ = [
  "Format",
  "load_params",
  "load_sharded",
  "read_config",
  "save_params",
  "write_config",
]
