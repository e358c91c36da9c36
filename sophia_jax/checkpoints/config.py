"""config.json of the six kinds of checkpoint <-> InternVLConfig.

A config that contradicts what lies beside it is refused, here and not where the
model fails: a head that is neither there nor tied, an image token that the
tokenizer numbers otherwise.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sophia_jax.checkpoints import sections
from sophia_jax.checkpoints.keys import HEADS
from sophia_jax.checkpoints.orbax_dir import PARAMS
from sophia_jax.checkpoints.sections import Section
from sophia_jax.checkpoints.shards import Shards, read_json
from sophia_jax.models import (
  DecoderConfig,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
)
from sophia_jax.types import SophiaError, quoted

CONFIG = "config.json"
IMAGE_TOKEN = "<IMG_CONTEXT>"
QWEN_IMAGE_TOKEN = "<|image_pad|>"
DTYPES = ("float32", "bfloat16", "float16")
TEXT_MODELS = ("qwen2", "qwen3", "llama", "internlm2")

_IMAGE_IDS = ("image_token_id", "image_token_index", "img_context_token_id")
"""Names under which configs have had the id of the image token."""
_UNSUPPORTED = {
  "qwen3_moe": "qwen3_moe is a mixture of experts, which is not supported",
  "gpt_oss": "gpt_oss (GPT-OSS) is not supported",
}
"""Families that InternVL3.5 is published with beside the dense ones."""
_ROUTER = re.compile(r"^(?:model\.)?(?:mlp2|gating|pooling_before_gating)\.")
"""Tensors of InternVL3.5-Flash beyond those of InternVL3.5."""
_ADAPTER = re.compile(r"\blora_|\.base_layer\.|\bbase_model\.")


def read_config(directory: str | pathlib.Path) -> InternVLConfig:
  """Reads the config of the model that a checkpoint directory holds.

  `dtype` is the checkpoint's own; parameters are fp32 unless the caller
  replaces `param_dtype`. A head that is among the tensors is used, even where
  the config says tied; without one the config must say so.

  Raises:
    SophiaError: a file that is absent, a setting this model does not have, or
      one that contradicts the tensors or the tokenizer.
  """
  directory = pathlib.Path(directory)
  path = directory / CONFIG
  if not path.is_file():
    missing = f"{path}: no such file"
    if not directory.is_dir():
      missing = f"{directory}: no such directory"
    raise SophiaError(
      f"{missing}; give the folder of a checkpoint, or its name on the Hub"
    )
  top = read_json(path)
  kind = top.get("model_type")
  if kind is None and "stages" in top:
    raise SophiaError(
      f"{directory}: the workdir of a run, no checkpoint; give "
      f"{directory / 'export'}"
    )
  try:
    tied = _tied(directory, top)
    if kind == "internvl":
      return _read_hf(top, tied, _image_token(directory, top))
    if kind == "internvl_chat":
      return _read_chat(top, tied, _image_token(directory, top))
    if kind == "qwen2_5_vl":
      image_token = _image_token(directory, top, QWEN_IMAGE_TOKEN)
      return _read_qwen_vl(top, tied, image_token)
    if kind in ("qwen2", "qwen3", "llama"):
      return InternVLConfig(decoder=_read_text(top, tied), dtype=_dtype(top))
  except ValueError as e:
    raise SophiaError(f"{path}: {e}") from e
  raise SophiaError(
    f"{path}: {_UNSUPPORTED.get(str(kind)) or f'model_type {quoted(kind)}'}; "
    "known: internvl, internvl_chat, qwen2_5_vl, qwen2, qwen3, llama"
  )


def is_orbax(directory: pathlib.Path) -> bool:
  """Tells whether a directory's parameters are orbax's, not safetensors."""
  return (directory / PARAMS).is_dir()


def _tied(directory: pathlib.Path, top: Section) -> bool:
  """Tells whether the head is the embedding.

  Published configs say so unreliably, so a head that is there decides.

  Raises:
    ValueError: there is no head and the config does not say that it is tied.
  """
  said = _said_tied(top)
  if is_orbax(directory):  # written here, where the flag is right
    return said
  names = Shards(directory).tensors
  _check_names(names)
  if any(head in names for head in HEADS):
    return False
  if not said:
    raise ValueError(
      f"no tensor is the head ({' or '.join(HEADS[:2])}), and the config does "
      "not say tie_word_embeddings; fetch the weights again, or set it to true"
    )
  return True


def _check_names(names: Iterable[str]) -> None:
  """Refuses tensors that are not a whole model's, and says what they are.

  Raises:
    ValueError: adapters that are not merged, a wrapper around the model, or a
      router of image tokens.
  """
  names = list(names)
  if router := next((n for n in names if _ROUTER.search(n)), None):
    raise ValueError(
      f"{router} belongs to the router of InternVL3.5-Flash, which is not "
      "supported; take the InternVL3.5 of the same size"
    )
  if adapter := next((n for n in names if _ADAPTER.search(n)), None):
    raise ValueError(
      f"{adapter} is an adapter's tensor; merge the adapters and save again"
    )
  for prefix in ("module.", "_orig_mod.", "_fsdp_wrapped_module."):
    if names and all(name.startswith(prefix) for name in names):
      raise ValueError(
        f"the names of all tensors begin with {prefix}, a wrapper's; save the "
        "model without it"
      )


def _said_tied(top: Section) -> bool:
  """Returns tie_word_embeddings as transformers reads it.

  The outer flag wins where it stands; InternVL's own default is true.
  InternVLChatModel looks into its language model's section, and always writes
  false on the outside; of Qwen2.5-VL's flags either counts.
  """
  kind = top.get("model_type")
  inner = top.get("llm_config" if kind == "internvl_chat" else "text_config")
  inner = inner if isinstance(inner, Mapping) else {}
  flags = [top.get("tie_word_embeddings"), inner.get("tie_word_embeddings")]
  if kind in ("internvl_chat", "qwen2_5_vl"):
    return True in flags
  given = [flag for flag in flags if flag is not None]
  return given[0] is True if given else kind == "internvl"


def _image_token(
  directory: pathlib.Path, top: Section, token: str = IMAGE_TOKEN
) -> int:
  """Returns the image token's id; -1 if neither config nor tokenizer says it.

  Raises:
    ValueError: they contradict each other.
  """
  own = added_tokens(directory).get(token, -1)
  for key in _IMAGE_IDS:
    if top.get(key) is None:
      continue
    said = sections.whole(top, key, least=0)
    if own not in (-1, said):
      raise ValueError(
        f"{key} is {said}, but {token} is {own} in the tokenizer beside "
        f"it; set it to {own}"
      )
    own = said
  return own


def image_token(cfg: InternVLConfig) -> str:
  """Returns the token that image embeddings replace."""
  qwen = isinstance(cfg.vision, QwenVisionConfig)
  return QWEN_IMAGE_TOKEN if qwen else IMAGE_TOKEN


def added_tokens(directory: pathlib.Path) -> dict[str, int]:
  """Returns the tokens that a tokenizer's files add, with their ids.

  Raises:
    SophiaError: a file that is damaged.
  """
  found: dict[str, int] = {}
  for name, read in _ADDED.items():
    path = directory / name
    if not path.is_file():
      continue
    try:
      found |= {str(token): int(i) for token, i in read(read_json(path))}
    except (AttributeError, KeyError, TypeError, ValueError):
      raise SophiaError(
        f"{path}: its added tokens cannot be read; fetch the file again"
      ) from None
  return found


_ADDED: Mapping[str, Callable[[Section], Iterable[tuple[Any, Any]]]] = {
  "added_tokens.json": lambda file: file.items(),
  "tokenizer_config.json": lambda file: (
    (token["content"], i)
    for i, token in file.get("added_tokens_decoder", {}).items()
  ),
  "tokenizer.json": lambda file: (
    (token["content"], token["id"]) for token in file.get("added_tokens", [])
  ),
}
"""File of a tokenizer -> its added tokens; the last that has one counts."""


# --------------------------------------------------------------------- sections
def _read_hf(top: Section, tied: bool, image_token: int) -> InternVLConfig:
  v = sections.section(top, "vision_config")
  if image_token < 0:
    raise ValueError("image_token_id is missing")
  sections.require(top, "vision_feature_layer", -1)
  sections.require(top, "vision_feature_select_strategy", "default")
  sections.require(top, "projector_hidden_act", "gelu")
  sections.require(v, "use_mean_pooling", True)
  sections.require(v, "use_mask_token", False)
  sections.require(v, "use_absolute_position_embeddings", True)
  vision = _vision(
    v,
    kind=v.get("norm_type", "layer_norm"),
    bias=sections.flag(v, "attention_bias", False),
    qk=sections.flag(v, "use_qk_norm", False),
  )
  return _model(top, "text_config", tied, image_token, vision, "v2")


def _read_chat(top: Section, tied: bool, image_token: int) -> InternVLConfig:
  v = sections.section(top, "vision_config")
  sections.require(top, "select_layer", -1)
  sections.require(top, "pad2square", False)
  size = sections.side(v, "image_size")
  if (top.get("force_image_size") or size) != size:
    raise ValueError(f"force_image_size is not the encoder's {size}")
  vision = _vision(
    v,
    kind=v.get("norm_type"),
    bias=sections.flag(v, "qkv_bias"),
    qk=sections.flag(v, "qk_normalization"),
  )
  shuffle = top.get("ps_version", "v1")
  return _model(top, "llm_config", tied, image_token, vision, shuffle)


def _read_qwen_vl(top: Section, tied: bool, image_token: int) -> InternVLConfig:
  """Reads Qwen2.5-VL's config; published ones have no section for text."""
  vision = _qwen_vision(sections.section(top, "vision_config"))
  inner = top.get("text_config") or top
  text: dict[str, Any] = {"rope_theta": 1e6, **inner, "model_type": "qwen2"}
  name = "rope_parameters" if text.get("rope_parameters") else "rope_scaling"
  rope = {**sections.section(text, name)} if text.get(name) else {}
  for key in ("type", "rope_type"):
    if rope.get(key) == "mrope":
      rope[key] = "default"
  mrope = rope.get("mrope_section", [16, 24, 24])
  if not isinstance(mrope, list) or len(mrope) != 3:
    raise ValueError(
      f"mrope_section is {quoted(mrope)}; expected three numbers"
    )
  angles = tuple(
    sections.whole({"mrope_section": n}, "mrope_section") for n in mrope
  )
  decoder = dataclasses.replace(
    _read_text({**text, name: rope}, tied), mrope=angles
  )
  said = sections.section(top, "vision_config").get("out_hidden_size")
  if said != decoder.width:
    raise ValueError(
      f"out_hidden_size is {quoted(said)}; expected the language model's "
      f"{decoder.width}"
    )
  if not 0 <= image_token < decoder.vocab:
    raise ValueError(
      f"image_token_id is {image_token}; expected an id below {decoder.vocab}"
    )
  return InternVLConfig(
    decoder=decoder,
    vision=vision,
    downsample=1 / vision.grid,
    image_token_id=image_token,
    dtype=_dtype(top),
  )


def _qwen_vision(v: Section) -> QwenVisionConfig:
  sections.require(v, "hidden_act", "silu")
  for key in ("in_channels", "in_chans"):
    sections.require(v, key, 3)
  rope = (
    sections.section(v, "rope_parameters") if v.get("rope_parameters") else {}
  )
  sections.require(rope, "rope_type", "axial")
  sections.require(rope, "rope_theta", 10000.0)
  patch, grid = (
    sections.side(v, "patch_size"),
    sections.whole(v, "spatial_merge_size", 2),
  )
  window = sections.whole(v, "window_size", 112)
  if window % (patch * grid):
    raise ValueError(
      f"window_size is {window}; expected a multiple of {patch * grid}"
    )
  full = v.get("fullatt_block_indexes", [7, 15, 23, 31])
  if not isinstance(full, list):
    raise ValueError(
      f"fullatt_block_indexes is {quoted(full)}; expected a list"
    )
  key = "num_heads" if "num_heads" in v else "num_attention_heads"
  return QwenVisionConfig(
    width=sections.whole(v, "hidden_size"),
    depth=sections.whole(v, "depth" if "depth" in v else "num_hidden_layers"),
    heads=sections.whole(v, key),
    mlp=sections.whole(v, "intermediate_size"),
    patch_size=patch,
    grid=grid,
    frames=sections.side(v, "temporal_patch_size"),
    window=window // (patch * grid),
    full=tuple(sections.whole({"block": i}, "block", least=0) for i in full),
    frame_rate=sections.whole(v, "tokens_per_second", 4),
  )


def _model(
  top: Section,
  text: str,
  tied: bool,
  image_token: int,
  vision: VisionConfig,
  pixel_shuffle: Any,
) -> InternVLConfig:
  decoder = _read_text(sections.section(top, text), tied)
  if image_token >= decoder.vocab:
    raise ValueError(
      f"image token {image_token} is outside of the vocabulary of "
      f"{decoder.vocab}; the tokenizer is of another model"
    )
  downsample = sections.real(top, "downsample_ratio", 0.5)
  if not 0.01 < downsample <= 1:
    raise ValueError(f"downsample_ratio is {downsample:g}; expected 1 or less")
  return InternVLConfig(
    decoder=decoder,
    vision=vision,
    pixel_shuffle=pixel_shuffle,
    downsample=downsample,
    image_token_id=image_token,
    dtype=_dtype(top),
  )


def _vision(v: Section, kind: Any, bias: bool, qk: bool) -> VisionConfig:
  sections.require(v, "hidden_act", "gelu")
  sections.require(v, "num_channels", 3)
  if kind not in ("layer_norm", "rms_norm"):
    raise ValueError(
      f"norm_type {quoted(kind)}: expected layer_norm or rms_norm"
    )
  scale = "layer_scale_init_value"
  scale = scale if scale in v else "initializer_factor"
  return VisionConfig(
    width=sections.whole(v, "hidden_size"),
    depth=sections.depth(v),
    heads=sections.whole(v, "num_attention_heads"),
    mlp=sections.whole(v, "intermediate_size"),
    image_size=sections.side(v, "image_size"),
    patch_size=sections.side(v, "patch_size"),
    norm=kind,
    norm_eps=sections.real(v, "layer_norm_eps", 1e-6),
    qkv_bias=bias,
    qk_norm=qk,
    layer_scale_init=sections.real(v, scale, 0.1),
  )


def _read_text(t: Section, tied: bool) -> DecoderConfig:
  kind = t.get("model_type")
  if kind not in TEXT_MODELS:
    what = _UNSUPPORTED.get(str(kind)) or f"language model {quoted(kind)}"
    raise ValueError(f"{what}: expected one of {', '.join(TEXT_MODELS)}")
  sections.require(t, "hidden_act", "silu")
  for key in ("use_sliding_window", "attention_bias", "mlp_bias", "bias"):
    sections.require(t, key, False)
  layers = t.get("layer_types") or []
  if any(layer != "full_attention" for layer in layers):
    raise ValueError("layer_types: only full_attention is supported")
  heads, width = (
    sections.whole(t, "num_attention_heads"),
    sections.whole(t, "hidden_size"),
  )
  theta, scaling, factor = _rope(t)
  return DecoderConfig(
    vocab=sections.whole(t, "vocab_size"),
    width=width,
    depth=sections.depth(t),
    heads=heads,
    kv_heads=sections.whole(t, "num_key_value_heads", heads),
    mlp=sections.whole(t, "intermediate_size"),
    head_dim=sections.whole(
      t, "head_dim", 128 if kind == "qwen3" else width // heads
    ),
    norm_eps=sections.real(t, "rms_norm_eps"),
    rope_theta=theta,
    rope_scaling="dynamic" if scaling == "dynamic" else None,
    rope_factor=factor,
    max_positions=sections.whole(t, "max_position_embeddings"),
    qkv_bias=kind == "qwen2",
    qk_norm=kind == "qwen3",
    tied_head=tied,
  )


def _rope(t: Section) -> tuple[float, str, float]:
  """Returns base, type and factor, by v5's `rope_parameters` or older keys."""
  name = "rope_parameters" if t.get("rope_parameters") else "rope_scaling"
  rope = sections.section(t, name) if t.get(name) else {}
  base = rope if rope.get("rope_theta") is not None else t
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in ("default", "dynamic"):
    raise ValueError(f"rope type {quoted(kind)}: expected default or dynamic")
  return (
    sections.real(base, "rope_theta", 10000.0),
    kind,
    sections.real(rope, "factor", 1.0),
  )


# ----------------------------------------------------------------------- values
def _dtype(top: Section) -> str:
  """Returns the dtype of the tensors by any of its names, or bfloat16."""
  inner = (top.get("text_config"), top.get("llm_config"))
  for section in (top, *inner):
    for key in ("dtype", "torch_dtype"):
      if isinstance(section, Mapping) and section.get(key):
        name = str(section[key]).removeprefix("torch.")
        if name not in DTYPES:
          raise ValueError(f"{key} {quoted(name)}: known: {', '.join(DTYPES)}")
        return name
  return "bfloat16"
