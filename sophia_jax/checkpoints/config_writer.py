"""InternVLConfig -> config.json, in the keys of each format."""

from __future__ import annotations

import copy
import enum
from collections.abc import Mapping
from typing import Any

from sophia_jax.checkpoints.keys import Naming
from sophia_jax.checkpoints.tiling import Tiling
from sophia_jax.models import (
  DecoderConfig,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
)
from sophia_jax.types import SophiaError

Special = Mapping[str, int]
"""bos_token_id, eos_token_id, pad_token_id, as far as they are known."""

CHAT_SETTINGS = "internvl_chat"
"""Key of an -hf config.json that keeps what only the other format can say."""
_TEMPLATE = "internvl2_5"


class Format(enum.StrEnum):
  """Formats of a checkpoint directory."""

  HF = "hf"
  """transformers' own InternVL, Qwen2.5-VL, or plain Qwen2, Qwen3 or Llama; no
  remote code."""
  INTERNVL_CHAT = "internvl_chat"
  """OpenGVLab's InternVLChatModel, which SGLang serves."""
  ORBAX = "orbax"
  """Parameters in orbax's files, with config.json and tokenizer beside them."""


def words_of(
  cfg: InternVLConfig, format: Format, source: Mapping[str, Any]
) -> Format:
  """Returns the format whose config.json a directory has, hf or the other.

  An orbax directory keeps that of its source, which may say more.
  """
  if format is not Format.ORBAX:
    return format
  chat = source.get("model_type") == "internvl_chat"
  chat = chat or cfg.pixel_shuffle != "v2"
  return Format.INTERNVL_CHAT if chat and cfg.vision else Format.HF


def naming_of(cfg: InternVLConfig, format: Format) -> Naming:
  """Returns the naming of the tensors; orbax has none.

  Raises:
    SophiaError: another model as InternVLChatModel.
  """
  if format is not Format.INTERNVL_CHAT:
    if isinstance(cfg.vision, QwenVisionConfig):
      return Naming.QWEN_VL
    return Naming.TEXT if cfg.vision is None else Naming.HF
  if not isinstance(cfg.vision, VisionConfig):
    kind = "a text-only model" if cfg.vision is None else "Qwen2.5-VL"
    raise SophiaError(f"{kind} has no internvl_chat format; use hf")
  internlm2 = cfg.decoder.family == "llama"
  return Naming.CHAT_INTERNLM2 if internlm2 else Naming.CHAT


def write_config(
  cfg: InternVLConfig,
  dtype: str,
  special: Special | None = None,
  format: Format = Format.HF,
  source: Mapping[str, Any] | None = None,
  tiling: Tiling | None = None,
) -> dict[str, Any]:
  """Returns the content of config.json.

  Args:
    dtype: dtype of the tensors beside it.
    source: the config.json that the model came with. What a format says beyond
      the model itself (drop path, templates) is taken from there.
    tiling: tile limits of the model's own processor.

  Raises:
    SophiaError: a model that the format cannot express.
  """
  if isinstance(cfg.vision, QwenVisionConfig):
    return _qwen_vl(cfg, cfg.vision, dtype, special or {}, source or {})
  known = chat_settings(source or {})
  if format is not Format.HF:
    return _chat(cfg, dtype, special or {}, known, tiling or Tiling())
  config = _hf(cfg, dtype, special or {})
  if cfg.vision and known.get("template", _TEMPLATE) != _TEMPLATE:
    kept = {key: known[key] for key in _KEPT if key in known}
    config[CHAT_SETTINGS] = kept
  return config


# Without its template a model would be asked under another system prompt.
_KEPT = ("template", "system_message")


def chat_settings(source: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns what a config.json says in InternVLChatModel's own keys."""
  if source.get("model_type") == "internvl_chat":
    return source
  kept = source.get(CHAT_SETTINGS)
  return kept if isinstance(kept, Mapping) else {}


_CLASSES = {
  "qwen2": "Qwen2ForCausalLM",
  "qwen3": "Qwen3ForCausalLM",
  "llama": "LlamaForCausalLM",
}
"""transformers' class of each family."""


# -------------------------------------------------------------------------- hf
def _hf(cfg: InternVLConfig, dtype: str, special: Special) -> dict[str, Any]:
  text = _text(cfg.decoder, special)
  assert not isinstance(cfg.vision, QwenVisionConfig)
  if cfg.vision is None:
    name = _CLASSES[cfg.decoder.family]
    return {"architectures": [name], "dtype": dtype, **text}
  if cfg.pixel_shuffle != "v2":
    raise SophiaError("pixel_shuffle v1 has no equivalent in the -hf format")
  if cfg.image_token_id < 0:
    raise SophiaError("image_token_id is unknown; set it before exporting")
  return {
    "architectures": ["InternVLForConditionalGeneration"],
    "model_type": "internvl",
    "dtype": dtype,
    "downsample_ratio": cfg.downsample,
    "image_seq_length": cfg.tokens_per_tile,
    "image_token_id": cfg.image_token_id,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": cfg.decoder.tied_head,
    "text_config": text,
    "vision_config": _vision(cfg.vision),
  }


def _text(d: DecoderConfig, special: Special) -> dict[str, Any]:
  rope: dict[str, Any] = {"rope_type": "default", "rope_theta": d.rope_theta}
  if d.rope_scaling == "dynamic":
    rope |= {"rope_type": "dynamic", "factor": d.rope_factor}
  return {
    "model_type": d.family,
    **_sizes(d, special),
    "head_dim": d.head_dim,
    "rope_parameters": rope,
    # Readers older than transformers 5 know these two.
    "rope_theta": d.rope_theta,
    "rope_scaling": rope if d.rope_scaling else None,
    "tie_word_embeddings": d.tied_head,
  }


def _sizes(d: DecoderConfig, special: Special) -> dict[str, Any]:
  """Returns the language model's keys that all formats have in common."""
  return {
    "vocab_size": d.vocab,
    "hidden_size": d.width,
    "intermediate_size": d.mlp,
    "num_hidden_layers": d.depth,
    "num_attention_heads": d.heads,
    "num_key_value_heads": d.kv_heads,
    "hidden_act": "silu",
    "rms_norm_eps": d.norm_eps,
    "max_position_embeddings": d.max_positions,
    "use_cache": True,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    **special,
  }


_QWEN_TOKENS = {
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
  "video_token_id": 151656,
}
"""Ids that every published Qwen2.5-VL has."""


def _qwen_vl(
  cfg: InternVLConfig,
  v: QwenVisionConfig,
  dtype: str,
  special: Special,
  source: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns Qwen2.5-VL's config as it is published: text has no section."""
  if cfg.image_token_id < 0:
    raise SophiaError("image_token_id is unknown; set it before exporting")
  d = cfg.decoder
  tokens = {
    key: source.get(key, default) for key, default in _QWEN_TOKENS.items()
  }
  return {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "dtype": dtype,
    "torch_dtype": dtype,
    "image_token_id": cfg.image_token_id,
    **tokens,
    **_sizes(d, special),
    "rope_theta": d.rope_theta,
    "rope_scaling": {"type": "mrope", "mrope_section": list(d.mrope)},
    "tie_word_embeddings": d.tied_head,
    "use_sliding_window": False,
    "vision_config": {
      "model_type": "qwen2_5_vl",
      "depth": v.depth,
      "fullatt_block_indexes": list(v.full),
      "hidden_act": "silu",
      "hidden_size": v.width,
      "in_channels": 3,
      "in_chans": 3,
      "intermediate_size": v.mlp,
      "num_heads": v.heads,
      "out_hidden_size": d.width,
      "patch_size": v.patch_size,
      "spatial_merge_size": v.grid,
      "spatial_patch_size": v.patch_size,
      "temporal_patch_size": v.frames,
      "tokens_per_second": v.frame_rate,
      "window_size": v.window * v.image_size,
    },
  }


def _vision(v: VisionConfig) -> dict[str, Any]:
  return {
    "model_type": "internvl_vision",
    "hidden_size": v.width,
    "num_hidden_layers": v.depth,
    "num_attention_heads": v.heads,
    "intermediate_size": v.mlp,
    "image_size": [v.image_size, v.image_size],
    "patch_size": [v.patch_size, v.patch_size],
    "num_channels": 3,
    "hidden_act": "gelu",
    "attention_bias": v.qkv_bias,
    "use_qk_norm": v.qk_norm,
    "norm_type": v.norm,
    "layer_norm_eps": v.norm_eps,
    "layer_scale_init_value": v.layer_scale_init,
    "use_mean_pooling": True,
  }


# --------------------------------------------------------------- internvl_chat
def _chat(
  cfg: InternVLConfig,
  dtype: str,
  special: Special,
  source: Mapping[str, Any],
  tiling: Tiling,
) -> dict[str, Any]:
  """Returns the source's config, updated; defaults where there is none."""
  assert isinstance(cfg.vision, VisionConfig)
  defaults = {
    "pad2square": False,
    "template": _TEMPLATE,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    **tiling.chat(),
  }
  model = {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "downsample_ratio": cfg.downsample,
    "force_image_size": cfg.vision.image_size,
    "hidden_size": cfg.decoder.width,
    "ps_version": cfg.pixel_shuffle,
    "select_layer": -1,
    "tie_word_embeddings": False,
    "torch_dtype": dtype,
  }
  old = copy.deepcopy(dict(source))
  # The newer name of torch_dtype would contradict it; LoRA adapters are merged.
  for key in ("dtype", "use_backbone_lora", "use_llm_lora"):
    old.pop(key, None)
  text, vision = old.get("llm_config", {}), old.get("vision_config", {})
  return {
    **defaults,
    **old,
    **model,
    "llm_config": _chat_text(cfg.decoder, dtype, special, text),
    "vision_config": _chat_vision(cfg.vision, dtype, vision),
  }


def _chat_text(
  d: DecoderConfig, dtype: str, special: Special, source: dict[str, Any]
) -> dict[str, Any]:
  # InternLM2's own code takes these two keys and no third.
  scaling = {"type": "dynamic", "factor": d.rope_factor}
  kind: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "attn_implementation": source.get("attn_implementation", "eager"),
    "bias": False,
  }
  if d.family != "llama":
    scaling["rope_type"] = "dynamic"
    kind = {
      "architectures": [_CLASSES[d.family]],
      "model_type": d.family,
      "attention_dropout": 0.0,
      "use_sliding_window": False,
    }
  if d.family == "qwen3":
    kind["attention_bias"] = False
  for key in ("dtype", "rope_parameters"):
    source.pop(key, None)
  return {
    **source,
    **kind,
    **_sizes(d, special),
    "head_dim": d.head_dim,
    "rope_scaling": scaling if d.rope_scaling else None,
    # At the top of the section: there SGLang-JAX looks for it.
    "rope_theta": d.rope_theta,
    "tie_word_embeddings": False,
    "torch_dtype": dtype,
  }


def _chat_vision(
  v: VisionConfig, dtype: str, source: dict[str, Any]
) -> dict[str, Any]:
  source.pop("dtype", None)
  defaults = {
    "attention_dropout": 0.0,
    "drop_path_rate": 0.0,
    "dropout": 0.0,
    "initializer_range": 0.02,
    "use_flash_attn": False,
  }
  return {
    **defaults,
    **source,
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_size": v.width,
    "num_hidden_layers": v.depth,
    "num_attention_heads": v.heads,
    "intermediate_size": v.mlp,
    "image_size": v.image_size,
    "patch_size": v.patch_size,
    "num_channels": 3,
    "hidden_act": "gelu",
    "initializer_factor": v.layer_scale_init,
    "layer_norm_eps": v.norm_eps,
    "norm_type": v.norm,
    "qk_normalization": v.qk_norm,
    "qkv_bias": v.qkv_bias,
    "torch_dtype": dtype,
  }
