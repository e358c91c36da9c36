"""Shapes and settings of models; every released one by name.

`InternVLConfig` with a `QwenVisionConfig` is a Qwen2.5-VL, with `vision=None` a
text-only Qwen2, Qwen3 or Llama.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

Remat = Literal["none", "dots", "up", "attention", "block", "offload"]
Family = Literal["qwen2", "qwen3", "llama"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
  """InternViT: pre-norm encoder with layer scale and no final norm."""

  width: int
  """Width of the residual connection."""
  depth: int
  """Number of blocks."""
  heads: int
  mlp: int
  """Width inside the MLP."""
  image_size: int = 448
  """Side of a tile, pixels."""
  patch_size: int = 14
  """Side of a patch, pixels."""
  norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
  norm_eps: float = 1e-6
  qkv_bias: bool = True
  qk_norm: bool = False
  """RMSNorm of q and k over the full width, before the heads are split."""
  layer_scale_init: float = 0.1
  """Initial value of both layer scales."""

  def __post_init__(self) -> None:
    if self.width % self.heads:
      raise ValueError(f"vision width {self.width} over {self.heads} heads")
    if self.image_size % self.patch_size:
      raise ValueError(f"image {self.image_size}, patch {self.patch_size}")

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  @property
  def grid(self) -> int:
    """Patches along a side of a tile."""
    return self.image_size // self.patch_size

  @property
  def cut(self) -> tuple[str, int]:
    """Method by which images become tiles (`ImageConfig`), and a tile's side."""
    return "grid", self.image_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
  """Qwen2.5-VL's encoder: windows, 2-D rotary positions, images of any shape.

  Its tile is the square of patches that becomes one image token.
  """

  width: int
  """Width of the residual connection."""
  depth: int
  """Number of blocks."""
  heads: int
  mlp: int
  """Width inside the MLP."""
  patch_size: int = 14
  """Side of a patch, pixels."""
  grid: int = 2
  """Patches along a side of a tile."""
  frames: int = 2
  """Frames that a patch spans; an image is repeated to fill them."""
  window: int = 4
  """Side of a window, tiles."""
  full: tuple[int, ...] = (7, 15, 23, 31)
  """Blocks that attend to the whole image; the others attend to windows."""
  frame_rate: int = 2
  """Positions in time for a second of video."""

  def __post_init__(self) -> None:
    if self.width % self.heads or self.head_dim % 4:
      raise ValueError(f"vision width {self.width} over {self.heads} heads")

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  @property
  def image_size(self) -> int:
    """Side of a tile, pixels."""
    return self.grid * self.patch_size

  @property
  def cut(self) -> tuple[str, int]:
    """Method by which images become tiles (`ImageConfig`), and a tile's side."""
    return "native", self.image_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """Qwen2 (`qkv_bias`), Qwen3 (`qk_norm`) or Llama / InternLM2 (neither)."""

  vocab: int
  """Rows of the embedding, unused ones included."""
  width: int
  """Width of the residual connection."""
  depth: int
  """Number of blocks."""
  heads: int
  """Query heads."""
  kv_heads: int
  """Key and value heads."""
  mlp: int
  """Width inside the MLP."""
  head_dim: int
  """Width of a head, whatever `width` and `heads` are."""
  norm_eps: float = 1e-6
  rope_theta: float = 1e6
  rope_scaling: Literal["dynamic"] | None = None
  """"dynamic": NTK-aware base for sequences beyond `max_positions`."""
  rope_factor: float = 1.0
  """Factor f of dynamic NTK scaling."""
  max_positions: int = 32768
  """Longest sequence without scaling, tokens."""
  mrope: tuple[int, ...] = ()
  """Angles of a head that turn with time, row and column, in this order; ():
  positions have one axis."""
  qkv_bias: bool = True
  qk_norm: bool = False
  """RMSNorm of q and k within each head, one weight for all heads."""
  tied_head: bool = False
  """Whether the head is the transposed embedding, without a parameter."""

  def __post_init__(self) -> None:
    if self.heads % self.kv_heads:
      raise ValueError(f"{self.heads} heads over {self.kv_heads} kv heads")
    if self.head_dim % 2:
      raise ValueError(f"head_dim {self.head_dim} must be even")
    if self.rope_scaling not in (None, "dynamic"):
      raise ValueError(f"rope_scaling {self.rope_scaling!r} is not known")
    if self.mrope and sum(self.mrope) * 2 != self.head_dim:
      raise ValueError(
        f"mrope {self.mrope} is not half of head_dim {self.head_dim}"
      )
    if self.mrope and self.rope_scaling:
      raise ValueError("mrope with rope_scaling: no known model has both")
    if self.qkv_bias and self.qk_norm:
      raise ValueError("qkv_bias with qk_norm: no known model has both")

  @property
  def family(self) -> Family:
    """Architecture that has these settings, by its name in transformers."""
    if self.qk_norm:
      return "qwen3"
    return "qwen2" if self.qkv_bias else "llama"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternVLConfig:
  """A model and the way that it computes."""

  decoder: DecoderConfig
  vision: VisionConfig | QwenVisionConfig | None = None
  """Vision encoder; None: a text-only model."""
  pixel_shuffle: Literal["v1", "v2"] = "v2"
  """Order of the image tokens (`vision.pixel_shuffle`)."""
  downsample: float = 0.5
  """Factor that the grid of patches shrinks by, along a side."""
  image_token_id: int = -1
  """Id of <IMG_CONTEXT> or <|image_pad|>; -1: none."""
  dtype: str = "bfloat16"
  """Dtype of activations and matmuls; norms, softmax and logits are fp32."""
  param_dtype: str = "float32"
  """Dtype of the parameters."""
  remat: Remat = "none"
  """Values that the decoder's backward pass recomputes: "none"; "dots": all but
  matmuls; "up": all but attention and the MLP's up projection; "attention": all
  but attention; "block": whole blocks; "offload": whole blocks, with their
  inputs kept in the host's memory."""
  scan_unroll: int = 1
  """Layers per scan iteration."""
  attention: str = "auto"
  """Implementation of causal attention (models/kernels.py)."""

  def __post_init__(self) -> None:
    if self.pixel_shuffle not in ("v1", "v2"):
      raise ValueError(f"pixel_shuffle {self.pixel_shuffle!r}: v1 or v2")
    if self.remat not in get_args(Remat):
      known = ", ".join(get_args(Remat))
      raise ValueError(f"remat {self.remat!r}: known: {known}")
    if self.vision is not None and self.vision.grid % self.shuffle:
      raise ValueError(f"{self.vision.grid} patches a side do not shuffle")

  @property
  def shuffle(self) -> int:
    """Side of the square of patches that makes one image token."""
    return round(1 / self.downsample)

  @property
  def tokens_per_tile(self) -> int:
    """Image tokens P of a tile; 0 for a text-only model."""
    if self.vision is None:
      return 0
    return (self.vision.grid // self.shuffle) ** 2


VIT_300M = VisionConfig(width=1024, depth=24, heads=16, mlp=4096)
VIT_6B = VisionConfig(
  width=3200,
  depth=45,
  heads=25,
  mlp=12800,
  norm="rms_norm",
  qkv_bias=False,
  qk_norm=True,
)


def _qwen(
  vision: VisionConfig,
  width: int,
  mlp: int,
  depth: int,
  heads: int,
  kv_heads: int,
  dynamic: float | None,
) -> InternVLConfig:
  decoder = DecoderConfig(
    vocab=151674,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
    mlp=mlp,
    head_dim=width // heads,
    rope_scaling="dynamic" if dynamic else None,
    rope_factor=dynamic or 1.0,
  )
  return InternVLConfig(vision=vision, decoder=decoder, image_token_id=151667)


def _internlm(
  vision: VisionConfig,
  width: int,
  mlp: int,
  depth: int,
  heads: int,
  theta: float,
  dynamic: float,
) -> InternVLConfig:
  decoder = DecoderConfig(
    vocab=92553,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=8,
    mlp=mlp,
    head_dim=128,
    norm_eps=1e-5,
    rope_theta=theta,
    rope_scaling="dynamic",
    rope_factor=dynamic,
    qkv_bias=False,
  )
  return InternVLConfig(vision=vision, decoder=decoder, image_token_id=92546)


def _qwen3(
  vision: VisionConfig | None,
  width: int,
  mlp: int,
  depth: int,
  heads: int,
  tied: bool = False,
) -> InternVLConfig:
  decoder = DecoderConfig(
    vocab=151936,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=8,
    mlp=mlp,
    head_dim=128,
    max_positions=40960,
    qkv_bias=False,
    qk_norm=True,
    tied_head=tied,
  )
  image_token = -1 if vision is None else 151671
  return InternVLConfig(
    vision=vision, decoder=decoder, image_token_id=image_token
  )


def _qwen_vl(
  width: int,
  mlp: int,
  depth: int,
  heads: int,
  kv_heads: int,
  vocab: int = 152064,
  vision_mlp: int = 3420,
) -> InternVLConfig:
  decoder = DecoderConfig(
    vocab=vocab,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
    mlp=mlp,
    head_dim=128,
    mrope=(16, 24, 24),
    max_positions=128000,
    tied_head=width == 2048,
  )
  vision = QwenVisionConfig(width=1280, depth=32, heads=16, mlp=vision_mlp)
  return InternVLConfig(vision=vision, decoder=decoder, image_token_id=151655)


# Shapes are exact. Norm eps and rope scaling of a released checkpoint come from
# its own config.json (checkpoints.config.read_config); these are the usual ones.
SIZES: dict[str, InternVLConfig] = {
  "internvl2_5_1b": _qwen(VIT_300M, 896, 4864, 24, 14, 2, None),
  "internvl2_5_2b": _internlm(VIT_300M, 2048, 8192, 24, 16, 1e6, 2.0),
  "internvl2_5_4b": _qwen(VIT_300M, 2048, 11008, 36, 16, 2, None),
  "internvl2_5_8b": _internlm(VIT_300M, 4096, 14336, 32, 32, 1e6, 2.0),
  "internvl2_5_26b": _internlm(VIT_6B, 6144, 16384, 48, 48, 5e7, 2.5),
  "internvl2_5_38b": _qwen(VIT_6B, 5120, 27648, 64, 40, 8, None),
  "internvl2_5_78b": _qwen(VIT_6B, 8192, 29568, 80, 64, 8, None),
  "internvl3_1b": _qwen(VIT_300M, 896, 4864, 24, 14, 2, 2.0),
  "internvl3_2b": _qwen(VIT_300M, 1536, 8960, 28, 12, 2, 2.0),
  "internvl3_8b": _qwen(VIT_300M, 3584, 18944, 28, 28, 4, 2.0),
  "internvl3_14b": _qwen(VIT_300M, 5120, 13824, 48, 40, 8, 2.0),
  "internvl3_38b": _qwen(VIT_6B, 5120, 27648, 64, 40, 8, 2.0),
  "internvl3_78b": _qwen(VIT_6B, 8192, 29568, 80, 64, 8, 2.0),
  # Their files hold a separate head, also where Qwen3's is tied.
  "internvl3_5_1b": _qwen3(VIT_300M, 1024, 3072, 28, 16),
  "internvl3_5_2b": _qwen3(VIT_300M, 2048, 6144, 28, 16),
  "internvl3_5_4b": _qwen3(VIT_300M, 2560, 9728, 36, 32),
  "internvl3_5_8b": _qwen3(VIT_300M, 4096, 12288, 36, 32),
  "internvl3_5_14b": _qwen3(VIT_300M, 5120, 17408, 40, 40),
  "internvl3_5_38b": _qwen3(VIT_6B, 5120, 25600, 64, 64),
  "qwen2_5_vl_3b": _qwen_vl(2048, 11008, 36, 16, 2, vocab=151936),
  "qwen2_5_vl_7b": _qwen_vl(3584, 18944, 28, 28, 4),
  "qwen2_5_vl_32b": _qwen_vl(5120, 27648, 64, 40, 8, vision_mlp=3456),
  "qwen2_5_vl_72b": _qwen_vl(8192, 29568, 80, 64, 8, vision_mlp=3456),
  "qwen3_0_6b": _qwen3(None, 1024, 3072, 28, 16, tied=True),
  "qwen3_1_7b": _qwen3(None, 2048, 6144, 28, 16, tied=True),
  "qwen3_4b": _qwen3(None, 2560, 9728, 36, 32, tied=True),
  "qwen3_8b": _qwen3(None, 4096, 12288, 36, 32),
  "qwen3_14b": _qwen3(None, 5120, 17408, 40, 40),
  "qwen3_32b": _qwen3(None, 5120, 25600, 64, 64),
}
