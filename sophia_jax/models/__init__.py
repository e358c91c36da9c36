"""Models as pure functions of (params, arrays)."""

from sophia_jax.models.config import (
  SIZES,
  DecoderConfig,
  InternVLConfig,
  VisionConfig,
)
from sophia_jax.models.decoder import KVCache
from sophia_jax.models.internvl import (
  InternVL,
  Params,
  abstract_params,
  init_caches,
  init_params,
  logical_axes,
)
from sophia_jax.models.logprobs import STATISTICS, token_logps
from sophia_jax.models.vision import IMAGE_MEAN, IMAGE_STD

__all__ = [
  "IMAGE_MEAN",
  "IMAGE_STD",
  "SIZES",
  "STATISTICS",
  "DecoderConfig",
  "InternVL",
  "InternVLConfig",
  "KVCache",
  "Params",
  "VisionConfig",
  "abstract_params",
  "init_caches",
  "init_params",
  "logical_axes",
  "token_logps",
]
