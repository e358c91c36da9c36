"""Models as pure functions of (params, arrays)."""

from sophia_jax.models.config import (
  SIZES,
  DecoderConfig,
  InternVLConfig,
  QwenVisionConfig,
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
from sophia_jax.models.qwen_vision import CLIP_MEAN, CLIP_STD
from sophia_jax.models.vision import IMAGE_MEAN, IMAGE_STD

__all__ = [
  "CLIP_MEAN",
  "CLIP_STD",
  "IMAGE_MEAN",
  "IMAGE_STD",
  "SIZES",
  "STATISTICS",
  "DecoderConfig",
  "InternVL",
  "InternVLConfig",
  "KVCache",
  "Params",
  "QwenVisionConfig",
  "VisionConfig",
  "abstract_params",
  "init_caches",
  "init_params",
  "logical_axes",
  "token_logps",
]
