"""Tiny models of every kind, with random weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sophia_jax.models import (
  DecoderConfig,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
  abstract_params,
)

MARKS = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<img>",
  "</img>",
  "<IMG_CONTEXT>",
)
IMAGE_TOKEN = 256 + MARKS.index("<IMG_CONTEXT>")
VIT = VisionConfig(width=16, depth=2, heads=2, mlp=32, image_size=56)
VIT_6B = dataclasses.replace(VIT, norm="rms_norm", qkv_bias=False, qk_norm=True)
QWEN2 = DecoderConfig(
  vocab=264,
  width=32,
  depth=2,
  heads=4,
  kv_heads=2,
  mlp=48,
  head_dim=8,
  rope_scaling="dynamic",
  rope_factor=2.0,
  max_positions=128,
)
INTERNLM2 = dataclasses.replace(
  QWEN2, qkv_bias=False, norm_eps=1e-5, heads=8, kv_heads=2, head_dim=4
)
QWEN3 = dataclasses.replace(
  QWEN2,
  qkv_bias=False,
  qk_norm=True,
  head_dim=16,  # four heads of it are wider than the model
  rope_scaling=None,
  rope_factor=1.0,
)
VARIANTS = {
  f"{vision}-{language}": InternVLConfig(
    vision=encoder, decoder=decoder, image_token_id=IMAGE_TOKEN, dtype="float32"
  )
  for vision, encoder in (("300m", VIT), ("6b", VIT_6B))
  for language, decoder in (
    ("qwen2", QWEN2),
    ("qwen3", QWEN3),
    ("internlm2", INTERNLM2),
  )
}
CFG = VARIANTS["300m-qwen2"]
LLAMA = InternVLConfig(
  decoder=dataclasses.replace(
    QWEN2, qkv_bias=False, rope_scaling=None, rope_factor=1.0
  ),
  dtype="float32",
)
QWEN_VL = InternVLConfig(
  vision=QwenVisionConfig(
    width=16, depth=3, heads=2, mlp=24, patch_size=2, window=2, full=(1,)
  ),
  decoder=dataclasses.replace(
    QWEN2, mrope=(1, 1, 2), rope_scaling=None, rope_factor=1.0
  ),
  image_token_id=IMAGE_TOKEN,
  dtype="float32",
)
TEXT = {
  "llama": LLAMA,
  "qwen2": InternVLConfig(decoder=QWEN2, dtype="float32"),
  "qwen3": InternVLConfig(decoder=QWEN3, dtype="float32"),
}


def random_params(cfg, seed=0):
  rng = np.random.RandomState(seed)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype),
    abstract_params(cfg),
  )


def byte_tokenizer() -> PreTrainedTokenizerFast:
  """Bytes and the marks."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  base = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
  base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  base.decoder = decoders.ByteLevel()
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=base, eos_token="<|im_end|>", pad_token="<|endoftext|>"
  )
  tokenizer.add_tokens(list(MARKS), special_tokens=True)
  return tokenizer


def write_tokenizer(directory: Path) -> Path:
  byte_tokenizer().save_pretrained(directory)
  return directory


def assert_same(a, b):
  a, b = flatten_dict(a), flatten_dict(b)
  assert a.keys() == b.keys()
  for path, x in a.items():
    assert x.dtype == b[path].dtype
    np.testing.assert_array_equal(x, b[path], err_msg=str(path))


def edit(directory, **changes):
  """Changes keys of config.json; None removes one."""
  path = directory / "config.json"
  config = json.loads(path.read_text()) | changes
  config = {k: v for k, v in config.items() if v is not None}
  path.write_text(json.dumps(config))
