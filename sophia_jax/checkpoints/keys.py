"""One table of tensor names, read in both directions.

A row pairs one of our parameters with its name in the two InternVL formats, or in
Qwen2.5-VL's; the other namings are those names under other prefixes. Rows whose
parameter a model lacks (say, the bias of an RMSNorm) do not apply to it.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flax.traverse_util import flatten_dict

from sophia_jax.models import (
  InternVLConfig,
  QwenVisionConfig,
  abstract_params,
)
from sophia_jax.types import SophiaError

X = TypeVar("X", bound=Any)
"""Arrays of numpy and of jax alike."""


class Kind(enum.Enum):
  """Layouts of a tensor on disk, by how it becomes a parameter."""

  SAME = enum.auto()
  LINEAR = enum.auto()  # [out, in] <-> [in, out]
  ROW = enum.auto()  # [1, ...] <-> [...]
  PATCH = enum.auto()  # conv [out, c, h, w] <-> [h * w * c, out]
  FRAMES = enum.auto()  # conv [out, c, t, h, w] <-> [t * h * w * c, out]


class Naming(enum.Enum):
  """Conventions by which tensors are named, one for each writer."""

  HF = "hf"  # transformers' InternVLForConditionalGeneration, on disk
  HF_MEMORY = "hf_memory"  # the same, as a v5 state dict names it
  CHAT = "internvl_chat"  # OpenGVLab's InternVLChatModel around Qwen2 or 3
  CHAT_INTERNLM2 = "internvl_chat_internlm2"  # the same around InternLM2
  QWEN_VL = "qwen2_5_vl"  # transformers' Qwen2_5_VL..., on disk
  QWEN_VL_MEMORY = "qwen2_5_vl_memory"  # the same, as a v5 state dict names it
  TEXT = "text"  # plain Qwen2-, Qwen3- or LlamaForCausalLM


class Row(NamedTuple):
  param: str
  kind: Kind
  hf: str
  """{i} is the layer."""
  chat: str | None
  """Name in InternVLChatModel; [q] names a part of a fused tensor. The language
  model's names are InternLM2's: around Qwen they equal `hf`."""


_S, _L, _R, _P = Kind.SAME, Kind.LINEAR, Kind.ROW, Kind.PATCH

# Prefixes (ours, HF, InternVLChatModel) of the rows that follow.
GROUPS = (
  (
    ("vision/", "vision_tower.embeddings.", "vision_model.embeddings."),
    (
      ("cls", _R, "cls_token", "class_embedding"),
      ("position", _R, "position_embeddings", "position_embedding"),
      (
        "patch/kernel",
        _P,
        "patch_embeddings.projection.weight",
        "patch_embedding.weight",
      ),
      (
        "patch/bias",
        _S,
        "patch_embeddings.projection.bias",
        "patch_embedding.bias",
      ),
    ),
  ),
  (
    (
      "vision/layers/",
      "vision_tower.encoder.layer.{i}.",
      "vision_model.encoder.layers.{i}.",
    ),
    (
      ("norm1/scale", _S, "layernorm_before.weight", "norm1.weight"),
      ("norm1/bias", _S, "layernorm_before.bias", "norm1.bias"),
      ("attn/q/kernel", _L, "attention.q_proj.weight", "attn.qkv.weight[q]"),
      ("attn/k/kernel", _L, "attention.k_proj.weight", "attn.qkv.weight[k]"),
      ("attn/v/kernel", _L, "attention.v_proj.weight", "attn.qkv.weight[v]"),
      ("attn/q/bias", _S, "attention.q_proj.bias", "attn.qkv.bias[q]"),
      ("attn/k/bias", _S, "attention.k_proj.bias", "attn.qkv.bias[k]"),
      ("attn/v/bias", _S, "attention.v_proj.bias", "attn.qkv.bias[v]"),
      (
        "attn/q_norm/scale",
        _S,
        "attention.q_norm.weight",
        "attn.q_norm.weight",
      ),
      (
        "attn/k_norm/scale",
        _S,
        "attention.k_norm.weight",
        "attn.k_norm.weight",
      ),
      (
        "attn/out/kernel",
        _L,
        "attention.projection_layer.weight",
        "attn.proj.weight",
      ),
      (
        "attn/out/bias",
        _S,
        "attention.projection_layer.bias",
        "attn.proj.bias",
      ),
      ("ls1", _S, "lambda_1", "ls1"),
      ("norm2/scale", _S, "layernorm_after.weight", "norm2.weight"),
      ("norm2/bias", _S, "layernorm_after.bias", "norm2.bias"),
      ("mlp/fc1/kernel", _L, "mlp.fc1.weight", "mlp.fc1.weight"),
      ("mlp/fc1/bias", _S, "mlp.fc1.bias", "mlp.fc1.bias"),
      ("mlp/fc2/kernel", _L, "mlp.fc2.weight", "mlp.fc2.weight"),
      ("mlp/fc2/bias", _S, "mlp.fc2.bias", "mlp.fc2.bias"),
      ("ls2", _S, "lambda_2", "ls2"),
    ),
  ),
  (
    ("projector/", "multi_modal_projector.", "mlp1."),
    (
      ("norm/scale", _S, "layer_norm.weight", "0.weight"),
      ("norm/bias", _S, "layer_norm.bias", "0.bias"),
      ("fc1/kernel", _L, "linear_1.weight", "1.weight"),
      ("fc1/bias", _S, "linear_1.bias", "1.bias"),
      ("fc2/kernel", _L, "linear_2.weight", "3.weight"),
      ("fc2/bias", _S, "linear_2.bias", "3.bias"),
    ),
  ),
  (
    ("language/", "language_model.", "language_model."),
    (
      (
        "embedding",
        _S,
        "model.embed_tokens.weight",
        "model.tok_embeddings.weight",
      ),
      ("norm/scale", _S, "model.norm.weight", "model.norm.weight"),
      ("head", _L, "lm_head.weight", "output.weight"),
    ),
  ),
  (
    (
      "language/layers/",
      "language_model.model.layers.{i}.",
      "language_model.model.layers.{i}.",
    ),
    (
      (
        "attn_norm/scale",
        _S,
        "input_layernorm.weight",
        "attention_norm.weight",
      ),
      (
        "attn/q/kernel",
        _L,
        "self_attn.q_proj.weight",
        "attention.wqkv.weight[q]",
      ),
      (
        "attn/k/kernel",
        _L,
        "self_attn.k_proj.weight",
        "attention.wqkv.weight[k]",
      ),
      (
        "attn/v/kernel",
        _L,
        "self_attn.v_proj.weight",
        "attention.wqkv.weight[v]",
      ),
      ("attn/q/bias", _S, "self_attn.q_proj.bias", None),
      ("attn/k/bias", _S, "self_attn.k_proj.bias", None),
      ("attn/v/bias", _S, "self_attn.v_proj.bias", None),
      ("attn/q_norm/scale", _S, "self_attn.q_norm.weight", None),
      ("attn/k_norm/scale", _S, "self_attn.k_norm.weight", None),
      ("attn/o/kernel", _L, "self_attn.o_proj.weight", "attention.wo.weight"),
      (
        "mlp_norm/scale",
        _S,
        "post_attention_layernorm.weight",
        "ffn_norm.weight",
      ),
      ("mlp/gate/kernel", _L, "mlp.gate_proj.weight", "feed_forward.w1.weight"),
      ("mlp/up/kernel", _L, "mlp.up_proj.weight", "feed_forward.w3.weight"),
      ("mlp/down/kernel", _L, "mlp.down_proj.weight", "feed_forward.w2.weight"),
    ),
  ),
)
ROWS = tuple(
  Row(
    group[0] + param,
    kind,
    group[1] + hf,
    None if chat is None else group[2] + chat,
  )
  for group, rows in GROUPS
  for param, kind, hf, chat in rows
)

# The same of Qwen2.5-VL: prefixes (ours, on disk) of the rows that follow. [q]
# names a part of a fused tensor.
QWEN_VL_GROUPS = (
  (
    ("vision/", "visual."),
    (("patch/kernel", Kind.FRAMES, "patch_embed.proj.weight"),),
  ),
  (
    ("vision/layers/", "visual.blocks.{i}."),
    (
      ("norm1/scale", _S, "norm1.weight"),
      ("attn/q/kernel", _L, "attn.qkv.weight[q]"),
      ("attn/k/kernel", _L, "attn.qkv.weight[k]"),
      ("attn/v/kernel", _L, "attn.qkv.weight[v]"),
      ("attn/q/bias", _S, "attn.qkv.bias[q]"),
      ("attn/k/bias", _S, "attn.qkv.bias[k]"),
      ("attn/v/bias", _S, "attn.qkv.bias[v]"),
      ("attn/out/kernel", _L, "attn.proj.weight"),
      ("attn/out/bias", _S, "attn.proj.bias"),
      ("norm2/scale", _S, "norm2.weight"),
      ("mlp/gate/kernel", _L, "mlp.gate_proj.weight"),
      ("mlp/gate/bias", _S, "mlp.gate_proj.bias"),
      ("mlp/up/kernel", _L, "mlp.up_proj.weight"),
      ("mlp/up/bias", _S, "mlp.up_proj.bias"),
      ("mlp/down/kernel", _L, "mlp.down_proj.weight"),
      ("mlp/down/bias", _S, "mlp.down_proj.bias"),
    ),
  ),
  (
    ("projector/", "visual.merger."),
    (
      ("norm/scale", _S, "ln_q.weight"),
      ("fc1/kernel", _L, "mlp.0.weight"),
      ("fc1/bias", _S, "mlp.0.bias"),
      ("fc2/kernel", _L, "mlp.2.weight"),
      ("fc2/bias", _S, "mlp.2.bias"),
    ),
  ),
)
QWEN_VL_ROWS = tuple(
  Row(group[0] + param, kind, group[1] + hf, None)
  for group, rows in QWEN_VL_GROUPS
  for param, kind, hf in rows
) + tuple(row for row in ROWS if row.param.startswith("language/"))

_PREFIXES = {
  Naming.HF_MEMORY: (
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
  ),
  Naming.TEXT: (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
  ),
  Naming.QWEN_VL: (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
  ),
  Naming.QWEN_VL_MEMORY: (
    ("visual.", "model.visual."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
  ),
}
HEADS = (
  "language_model.lm_head.weight",
  "language_model.output.weight",
  "lm_head.weight",
)
"""Names of the output projection; absent where it is tied."""


def detect(names: Iterable[str]) -> Naming:
  """Returns the naming that `names` follow."""
  names = set(names)
  if any(name.startswith("vision_model.") for name in names):
    internlm2 = "language_model.model.tok_embeddings.weight" in names
    return Naming.CHAT_INTERNLM2 if internlm2 else Naming.CHAT
  if any(name.startswith("vision_tower.") for name in names):
    return Naming.HF
  if any(name.startswith("model.vision_tower.") for name in names):
    return Naming.HF_MEMORY
  if any(name.startswith("visual.") for name in names):
    return Naming.QWEN_VL
  if any(name.startswith("model.visual.") for name in names):
    return Naming.QWEN_VL_MEMORY
  return Naming.TEXT


def ignored(name: str) -> bool:
  """Tells buffers of old files, which are recomputed and never read."""
  return name.endswith("rotary_emb.inv_freq")


@dataclasses.dataclass(frozen=True)
class Part:
  """Place of a tensor on disk, or of a slice of it, among the parameters."""

  param: str
  layer: int | None
  kind: Kind
  shape: tuple[int, ...]
  """Shape on disk, unfused."""
  runs: Runs
  """Rows of the part in the tensor on disk."""


class Runs(NamedTuple):
  """Row r of a part is row offset + r // group * stride + r % group."""

  offset: int
  group: int
  stride: int

  def between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields (first, count) of the rows on disk that are [start, stop)."""
    while start < stop:
      group, row = divmod(start, self.group)
      count = min(stop - start, self.group - row)
      yield self.offset + group * self.stride + row, count
      start += count


def table(cfg: InternVLConfig, naming: Naming) -> dict[str, tuple[Part, ...]]:
  """Returns all tensors of a checkpoint of `cfg`, in order: key -> parts."""
  shapes = _shapes(cfg)
  parts: dict[str, list[Part]] = {}
  qwen = isinstance(cfg.vision, QwenVisionConfig)
  for row in QWEN_VL_ROWS if qwen else ROWS:
    if row.param not in shapes:
      continue
    shape = shapes[row.param]
    layers: Iterable[int | None] = (None,)
    if "/layers/" in row.param:
      layers, shape = range(shape[0]), shape[1:]
    template, fused = _template(row, naming)
    disk = _disk_shape(shape, row.kind, cfg)
    runs = _runs(row.param, fused, disk[0], cfg)
    for i in layers:
      part = Part(row.param, i, row.kind, disk, runs)
      parts.setdefault(template.format(i=i), []).append(part)
  return {key: tuple(of_key) for key, of_key in parts.items()}


@functools.cache
def _shapes(cfg: InternVLConfig) -> Mapping[str, tuple[int, ...]]:
  """Shapes by path; tracing the model for them takes a sixth of a second."""
  return {
    path: leaf.shape
    for path, leaf in flatten_dict(abstract_params(cfg), sep="/").items()
  }


def _runs(param: str, fused: str, rows: int, cfg: InternVLConfig) -> Runs:
  """Returns the rows of a tensor, or of "q", "k" or "v" in a fused one."""
  if not fused:
    return Runs(0, rows, rows)
  if param.startswith("vision/"):
    return Runs("qkv".index(fused) * rows, rows, 3 * rows)
  # Each kv head: the query heads it serves, then its key, then its value.
  d = cfg.decoder
  served = d.heads // d.kv_heads
  stride = (served + 2) * d.head_dim
  if fused == "q":
    return Runs(0, served * d.head_dim, stride)
  place = served + "kv".index(fused)
  return Runs(place * d.head_dim, d.head_dim, stride)


def _template(row: Row, naming: Naming) -> tuple[str, str]:
  """Returns the key with {i} in it, and the part of a fused tensor."""
  chat = naming is Naming.CHAT_INTERNLM2 or (
    naming is Naming.CHAT and not row.param.startswith("language/")
  )
  if chat:
    if row.chat is None:
      raise SophiaError(f"{row.param}: InternLM2 has no such parameter")
    key, _, fused = row.chat.partition("[")
    return key, fused.rstrip("]")
  key, _, fused = row.hf.partition("[")
  for old, new in _PREFIXES.get(naming, ()):
    if key.startswith(old):
      key = new + key.removeprefix(old)
      break
  return key, fused.rstrip("]")


def _disk_shape(
  shape: tuple[int, ...], kind: Kind, cfg: InternVLConfig
) -> tuple[int, ...]:
  if kind is Kind.LINEAR:
    return shape[::-1]
  if kind is Kind.ROW:
    # cls is [1, 1, D] on disk and [1, D] here: both kinds gain one axis.
    return (1, *shape)
  if kind is Kind.PATCH:
    assert cfg.vision is not None
    size = cfg.vision.patch_size
    return (shape[1], 3, size, size)
  if kind is Kind.FRAMES:
    assert isinstance(cfg.vision, QwenVisionConfig)
    size = cfg.vision.patch_size
    return (shape[1], 3, cfg.vision.frames, size, size)
  return shape


def tensor_shape(parts: tuple[Part, ...]) -> tuple[int, ...]:
  """Returns the shape of the tensor on disk that holds `parts`."""
  return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def to_param(x: np.ndarray, kind: Kind) -> np.ndarray:
  """Converts the layout on disk to ours."""
  if kind is Kind.LINEAR:
    return x.T
  if kind is Kind.ROW:
    return x[0]
  if kind is Kind.PATCH:
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])
  if kind is Kind.FRAMES:
    return x.transpose(2, 3, 4, 1, 0).reshape(-1, x.shape[0])
  return x


def from_param(x: X, kind: Kind, shape: tuple[int, ...]) -> X:
  """Inverts `to_param`; `shape` is the one on disk."""
  if kind is Kind.LINEAR:
    return x.T
  if kind is Kind.PATCH:
    out, channels, height, width = shape
    return x.reshape(height, width, channels, out).transpose(3, 2, 0, 1)
  if kind is Kind.FRAMES:
    out, channels, *block = shape
    return x.reshape(*block, channels, out).transpose(4, 3, 0, 1, 2)
  return x.reshape(shape)
