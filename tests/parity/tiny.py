"""Tiny random InternVLs written by transformers, in both published formats.

Facts about the formats come from OpenGVLab's InternVLChatModel; the fusing here
is in torch and knows nothing of `sophia_jax.checkpoints`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
  InternVLConfig,
  InternVLForConditionalGeneration,
  InternVLVisionConfig,
  LlamaConfig,
  LlamaForCausalLM,
  PreTrainedModel,
  Qwen2Config,
  Qwen2ForCausalLM,
  Qwen3Config,
  Qwen3ForCausalLM,
)

from tests.checkpoints.toy import byte_tokenizer

SIDE, PATCH, TOKENS_PER_TILE = 56, 14, 4
IMAGE_TOKEN = "<IMG_CONTEXT>"
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}


@dataclasses.dataclass(frozen=True)
class Spec:
  """A variant: which encoder, which language model, how heads are grouped."""

  vision: str
  llm: str
  heads: int
  kv_heads: int

  def __str__(self) -> str:
    return f"{self.vision}-{self.llm}-{self.heads}over{self.kv_heads}"


SPECS = (
  Spec("300m", "qwen2", 4, 2),
  Spec("300m", "internlm2", 4, 4),
  Spec("6b", "qwen2", 2, 2),
  Spec("6b", "internlm2", 6, 2),
  Spec("300m", "qwen3", 6, 2),
)
TEXT = {
  "qwen2": (Qwen2Config, Qwen2ForCausalLM),
  "qwen3": (Qwen3Config, Qwen3ForCausalLM),
  "llama": (LlamaConfig, LlamaForCausalLM),
  "internlm2": (LlamaConfig, LlamaForCausalLM),
}


@dataclasses.dataclass(frozen=True)
class Reference:
  """A transformers model and the directories that hold its weights."""

  spec: Spec
  model: InternVLForConditionalGeneration
  hf: pathlib.Path
  chat: pathlib.Path

  @property
  def image_token(self) -> int:
    return self.model.config.image_token_id

  def logits(self, ids: np.ndarray, tiles: np.ndarray | None) -> torch.Tensor:
    """Of one unpadded sequence, by eager attention."""
    return self.model(
      input_ids=torch.from_numpy(ids)[None],
      pixel_values=None if tiles is None else pixels(tiles),
    ).logits[0]


def pixels(tiles: np.ndarray) -> torch.Tensor:
  """uint8 tiles as the model card normalises them."""
  x = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
  mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
  std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
  return (x - mean) / std


def randomise(model: torch.nn.Module, seed: int) -> None:
  """Every tensor random: fresh models have zero biases and unit norms."""
  rng = np.random.RandomState(seed)
  with torch.no_grad():
    for name, p in sorted(model.named_parameters()):
      x = rng.standard_normal(tuple(p.shape)).astype(np.float32)
      if p.ndim == 1:
        one = 0.5 if "lambda" in name else 1.0
        scale = name.endswith("weight") or "lambda" in name
        x = one + 0.1 * x if scale else 0.1 * x
      else:
        x *= min(0.5, p[0].numel() ** -0.5)
      p.copy_(torch.from_numpy(x))


def text_config(llm: str, heads: int, kv_heads: int, vocab: int, **settings):
  """A two-layer Qwen2, Qwen3 or Llama."""
  if llm != "qwen2":
    # Query width 16 * heads is not the model's width.
    settings = {"head_dim": 16, **settings}
  return TEXT[llm][0](
    vocab_size=vocab,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=heads,
    num_key_value_heads=kv_heads,
    rms_norm_eps=1e-6 if llm.startswith("qwen") else 1e-5,
    bos_token_id=None,
    **{
      "eos_token_id": None,
      "max_position_embeddings": 128,
      "tie_word_embeddings": False,
      "rope_parameters": dict(DYNAMIC),
      **settings,
    },
  )


def build(spec: Spec, directory: pathlib.Path) -> Reference:
  """Writes `directory`/hf and `directory`/chat, the same weights twice."""
  tokenizer = byte_tokenizer()
  image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
  big = spec.vision == "6b"
  vision = InternVLVisionConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=[SIDE, SIDE],
    patch_size=[PATCH, PATCH],
    attention_bias=not big,
    use_qk_norm=big,
    norm_type="rms_norm" if big else "layer_norm",
  )
  text = text_config(
    spec.llm,
    spec.heads,
    spec.kv_heads,
    len(tokenizer),
    eos_token_id=tokenizer.eos_token_id,
  )
  config = InternVLConfig(
    vision_config=vision,
    text_config=text,
    image_token_id=image_token,
    image_seq_length=TOKENS_PER_TILE,
    tie_word_embeddings=False,
  )
  model = InternVLForConditionalGeneration(config).eval()
  model.set_attn_implementation("eager")
  randomise(model, seed=len(str(spec)) + spec.heads)
  hf, chat = directory / "hf", directory / "chat"
  model.save_pretrained(hf)
  chat.mkdir()
  save_file(chat_tensors(model, spec), chat / "model.safetensors")
  (chat / "config.json").write_text(json.dumps(chat_config(config, spec)))
  for path in (hf, chat):
    tokenizer.save_pretrained(path)
  return Reference(spec, model, hf, chat)


def build_text(
  llm: str, directory: pathlib.Path, **settings
) -> PreTrainedModel:
  """A text-only model, saved in `directory`."""
  config = text_config(llm, 4, 2, 64, **settings)
  model = TEXT[llm][1](config).eval()
  model.set_attn_implementation("eager")
  randomise(model, seed=7)
  model.save_pretrained(directory)
  return model


# ------------------------------------------------------------- original format
VISION_NAMES = (
  ("model.vision_tower.", "vision_model."),
  ("embeddings.cls_token", "embeddings.class_embedding"),
  ("position_embeddings", "position_embedding"),
  ("patch_embeddings.projection", "patch_embedding"),
  ("encoder.layer.", "encoder.layers."),
  ("attention.projection_layer", "attn.proj"),
  ("attention.", "attn."),
  ("layernorm_before", "norm1"),
  ("layernorm_after", "norm2"),
  ("lambda_", "ls"),
)
PROJECTOR_NAMES = (
  ("model.multi_modal_projector.", "mlp1."),
  ("layer_norm", "0"),
  ("linear_1", "1"),
  ("linear_2", "3"),
)
QWEN_NAMES = (
  ("model.language_model.", "language_model.model."),
  ("lm_head", "language_model.lm_head"),
)
INTERNLM2_NAMES = (
  ("model.language_model.", "language_model.model."),
  ("lm_head", "language_model.output"),
  ("embed_tokens", "tok_embeddings"),
  ("self_attn.o_proj", "attention.wo"),
  ("self_attn", "attention"),
  ("mlp.gate_proj", "feed_forward.w1"),
  ("mlp.up_proj", "feed_forward.w3"),
  ("mlp.down_proj", "feed_forward.w2"),
  ("input_layernorm", "attention_norm"),
  ("post_attention_layernorm", "ffn_norm"),
)


def chat_tensors(
  model: InternVLForConditionalGeneration, spec: Spec
) -> dict[str, torch.Tensor]:
  """The model's weights as InternVLChatModel names and fuses them."""
  language = INTERNLM2_NAMES if spec.llm == "internlm2" else QWEN_NAMES
  out, fused = {}, {}
  for name, x in model.state_dict().items():
    table = language
    if "vision_tower" in name:
      table = VISION_NAMES
    elif "multi_modal_projector" in name:
      table = PROJECTOR_NAMES
    for old, new in table:
      name = name.replace(old, new)
    fuses = name.startswith("vision_model.") or spec.llm == "internlm2"
    for letter in "qkv":
      if fuses and f".{letter}_proj." in name:
        fused.setdefault(name.replace(f".{letter}_proj.", ".@."), []).append(x)
        break
    else:
      out[name] = x.contiguous().clone()
  for name, (q, k, v) in fused.items():
    if name.startswith("vision_model."):
      out[name.replace("@", "qkv")] = torch.cat([q, k, v])
      continue
    # Grouped by kv head: its query heads, its key, its value.
    rows = zip(*(x.chunk(spec.kv_heads) for x in (q, k, v)), strict=True)
    out[name.replace("@", "wqkv")] = torch.cat([x for row in rows for x in row])
  return out


def chat_config(config: InternVLConfig, spec: Spec) -> dict:
  """config.json of the original format, with the older rope keys."""
  v, t = config.vision_config, config.text_config
  internlm2 = spec.llm == "internlm2"
  llm = {
    "architectures": [
      "InternLM2ForCausalLM" if internlm2 else TEXT[spec.llm][1].__name__
    ],
    "model_type": spec.llm,
    "rope_theta": DYNAMIC["rope_theta"],
    "rope_scaling": {"type": "dynamic", "factor": DYNAMIC["factor"]},
    "hidden_act": "silu",
    "torch_dtype": "float32",
  }
  for key in (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
  ):
    llm[key] = getattr(t, key)
  if internlm2:
    llm["bias"] = False
  if spec.llm != "qwen2":
    llm["head_dim"] = t.head_dim
  vision = {
    "model_type": "intern_vit_6b",
    "hidden_size": v.hidden_size,
    "intermediate_size": v.intermediate_size,
    "num_hidden_layers": v.num_hidden_layers,
    "num_attention_heads": v.num_attention_heads,
    "image_size": SIDE,
    "patch_size": PATCH,
    "qkv_bias": v.attention_bias,
    "qk_normalization": v.use_qk_norm,
    "norm_type": v.norm_type,
    "layer_norm_eps": v.layer_norm_eps,
    "hidden_act": "gelu",
    "initializer_factor": 0.1,
  }
  return {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "downsample_ratio": 0.5,
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internvl2_5",
    "force_image_size": SIDE,
    "torch_dtype": "float32",
    "llm_config": llm,
    "vision_config": vision,
  }


# ----------------------------------------------------------------------- inputs
@dataclasses.dataclass(frozen=True)
class Sequence:
  ids: np.ndarray
  tiles: np.ndarray | None


def sequence(seed: int, length: int, images: tuple[int, ...], image_token: int):
  """Random text with images of so many tiles each in it."""
  rng = np.random.RandomState(seed)
  ids = rng.randint(0, 60, length)
  start = 2
  for tiles in images:
    ids[start : start + tiles * TOKENS_PER_TILE] = image_token
    start += tiles * TOKENS_PER_TILE + 3
  assert start <= length
  count = sum(images)
  tiles = rng.randint(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
  return Sequence(ids, tiles if count else None)


def pack(rows: list[list[Sequence]], length: int, image_token: int) -> dict:
  """Rows of sequences as the model's packed arrays, padded to `length`."""
  shape = (len(rows), length)
  out = {k: np.zeros(shape, np.int32) for k in ("tokens", "segments", "places")}
  slots, tiles, used = np.full(shape, -1, np.int32), [], 0
  for b, row in enumerate(rows):
    at = 0
    for n, seq in enumerate(row, 1):
      here = slice(at, at + len(seq.ids))
      out["tokens"][b, here] = seq.ids
      out["segments"][b, here] = n
      out["places"][b, here] = np.arange(len(seq.ids))
      image = seq.ids == image_token
      slots[b, here][image] = used + np.arange(image.sum())
      used += image.sum()
      if seq.tiles is not None:
        tiles.append(seq.tiles)
      at = here.stop
  args = (out["tokens"], out["segments"], out["places"], slots)
  return {"args": args, "tiles": np.concatenate(tiles) if tiles else None}
