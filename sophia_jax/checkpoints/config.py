"""config.json of the five kinds of checkpoint <-> InternVLConfig."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from sophia_jax.checkpoints.keys import HEADS
from sophia_jax.checkpoints.orbax_dir import PARAMS
from sophia_jax.checkpoints.shards import Shards, read_json
from sophia_jax.models import DecoderConfig, InternVLConfig, VisionConfig
from sophia_jax.types import SophiaError

Section = Mapping[str, Any]
CONFIG = "config.json"
IMAGE_TOKEN = "<IMG_CONTEXT>"
TEXT_MODELS = ("qwen2", "llama", "internlm2")


def read_config(directory: str | pathlib.Path) -> InternVLConfig:
  """The model that a checkpoint directory holds.

  `dtype` is the checkpoint's own; parameters are fp32 unless the caller
  replaces `param_dtype`. Whether the head is tied is decided by the tensors
  that are there: published configs do not say it reliably.

  Raises:
    SophiaError: a file that is absent, or a setting this model does not have.
  """
  directory = pathlib.Path(directory)
  path = directory / CONFIG
  top = read_json(path)
  kind = top.get("model_type")
  tied = _tied(directory, top)
  try:
    if kind == "internvl":
      return _read_hf(top, tied)
    if kind == "internvl_chat":
      return _read_chat(top, tied, image_token_id(directory))
    if kind in ("qwen2", "llama"):
      return InternVLConfig(decoder=_read_text(top, tied), dtype=_dtype(top))
  except KeyError as e:
    raise SophiaError(f"{path}: {e.args[0]} is missing") from e
  except ValueError as e:
    raise SophiaError(f"{path}: {e}") from e
  raise SophiaError(
    f"{path}: model_type {kind!r}; known: internvl, internvl_chat, qwen2, llama"
  )


def is_orbax(directory: pathlib.Path) -> bool:
  """Whether parameters are in orbax's files there, not in safetensors."""
  return (directory / PARAMS).is_dir()


def _tied(directory: pathlib.Path, top: Section) -> bool:
  if is_orbax(directory):  # written here, where the flag is right
    return bool(top.get("tie_word_embeddings", False))
  names = Shards(directory).tensors
  return not any(head in names for head in HEADS)


def image_token_id(directory: pathlib.Path) -> int:
  """Id of the image token by the tokenizer's files; -1 if they do not say."""
  return added_tokens(directory).get(IMAGE_TOKEN, -1)


def added_tokens(directory: pathlib.Path) -> dict[str, int]:
  """Tokens that a tokenizer's files add to its vocabulary, with their ids."""
  found: dict[str, int] = {}
  path = directory / "added_tokens.json"
  if path.is_file():
    found |= read_json(path)
  path = directory / "tokenizer_config.json"
  if path.is_file():
    decoder = read_json(path).get("added_tokens_decoder", {})
    found |= {token["content"]: int(i) for i, token in decoder.items()}
  path = directory / "tokenizer.json"
  if path.is_file():
    tokens = read_json(path).get("added_tokens", [])
    found |= {token["content"]: int(token["id"]) for token in tokens}
  return found


def _read_hf(top: Section, tied: bool) -> InternVLConfig:
  v = top["vision_config"]
  _require(top, "vision_feature_layer", -1)
  _require(top, "vision_feature_select_strategy", "default")
  _require(top, "projector_hidden_act", "gelu")
  _require(v, "use_mean_pooling", True)
  _require(v, "use_mask_token", False)
  _require(v, "use_absolute_position_embeddings", True)
  return InternVLConfig(
    decoder=_read_text(top["text_config"], tied),
    vision=_vision(
      v,
      kind=v.get("norm_type", "layer_norm"),
      bias=v.get("attention_bias", False),
      qk=v.get("use_qk_norm", False),
    ),
    pixel_shuffle="v2",
    downsample=top.get("downsample_ratio", 0.5),
    image_token_id=top["image_token_id"],
    dtype=_dtype(top),
  )


def _read_chat(top: Section, tied: bool, image_token: int) -> InternVLConfig:
  v = top["vision_config"]
  _require(top, "select_layer", -1)
  size = _side(v["image_size"])
  if (top.get("force_image_size") or size) != size:
    raise ValueError(f"force_image_size is not the encoder's {size}")
  return InternVLConfig(
    decoder=_read_text(top["llm_config"], tied),
    vision=_vision(
      v, kind=v["norm_type"], bias=v["qkv_bias"], qk=v["qk_normalization"]
    ),
    pixel_shuffle=top.get("ps_version", "v1"),
    downsample=top.get("downsample_ratio", 0.5),
    image_token_id=image_token,
    dtype=_dtype(top),
  )


def _vision(v: Section, kind: str, bias: bool, qk: bool) -> VisionConfig:
  _require(v, "hidden_act", "gelu")
  if kind not in ("layer_norm", "rms_norm"):
    raise ValueError(f"norm_type {kind!r}: expected layer_norm or rms_norm")
  return VisionConfig(
    width=v["hidden_size"],
    depth=v["num_hidden_layers"],
    heads=v["num_attention_heads"],
    mlp=v["intermediate_size"],
    image_size=_side(v["image_size"]),
    patch_size=_side(v["patch_size"]),
    norm="layer_norm" if kind == "layer_norm" else "rms_norm",
    norm_eps=v.get("layer_norm_eps", 1e-6),
    qkv_bias=bias,
    qk_norm=qk,
    layer_scale_init=v.get(
      "layer_scale_init_value", v.get("initializer_factor", 0.1)
    ),
  )


def _read_text(t: Section, tied: bool) -> DecoderConfig:
  kind = t["model_type"]
  if kind not in TEXT_MODELS:
    raise ValueError(
      f"language model {kind!r}: expected one of {', '.join(TEXT_MODELS)}"
    )
  _require(t, "hidden_act", "silu")
  for key in ("use_sliding_window", "attention_bias", "mlp_bias", "bias"):
    _require(t, key, False)
  heads = t["num_attention_heads"]
  theta, scaling, factor = _rope(t)
  return DecoderConfig(
    vocab=t["vocab_size"],
    width=t["hidden_size"],
    depth=t["num_hidden_layers"],
    heads=heads,
    kv_heads=t.get("num_key_value_heads") or heads,
    mlp=t["intermediate_size"],
    head_dim=t.get("head_dim") or t["hidden_size"] // heads,
    norm_eps=t["rms_norm_eps"],
    rope_theta=theta,
    rope_scaling="dynamic" if scaling == "dynamic" else None,
    rope_factor=factor,
    max_positions=t["max_position_embeddings"],
    qkv_bias=kind == "qwen2",
    tied_head=tied,
  )


def _rope(t: Section) -> tuple[float, str, float]:
  """Base, type and factor, by v5's `rope_parameters` or by the older keys."""
  rope: Section = t.get("rope_parameters") or t.get("rope_scaling") or {}
  theta = rope.get("rope_theta", t.get("rope_theta", 10000.0))
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in ("default", "dynamic"):
    raise ValueError(f"rope type {kind!r}: expected default or dynamic")
  return float(theta), kind, float(rope.get("factor", 1.0))


def _require(section: Section, key: str, only: object) -> None:
  if section.get(key, only) != only:
    raise ValueError(f"{key} is {section[key]!r}; only {only!r} is supported")


def _side(size: int | list[int]) -> int:
  if isinstance(size, int):
    return size
  if len(set(size)) != 1:
    raise ValueError(f"size {size}: expected a square")
  return size[0]


def _dtype(top: Section) -> str:
  text = top.get("text_config") or top.get("llm_config") or {}
  for section in (top, text):
    for key in ("dtype", "torch_dtype"):
      if section.get(key):
        return str(section[key]).removeprefix("torch.")
  return "bfloat16"
