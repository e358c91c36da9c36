"""Model FLOPs: the operations of the mathematics, without recomputation.

Two per multiply-add. Norms, activations and rotary positions are left out. So
is every query-key pair that causality or a segment's border excludes: packed
rows count by their pairs, never by their length.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.models.config import (
  DecoderConfig,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
)


@dataclasses.dataclass(frozen=True)
class Work:
  """Input of a pass, as far as its cost depends on it.

  Example: one row of 32,768 tokens in two segments that shows 13 tiles:
    Work(tokens=32768, pairs=2 * 16384 * 16385 // 2, tiles=13)
  """

  tokens: float
  """Tokens, padding excluded."""
  pairs: float
  """Query-key pairs: the sum of n (n + 1) / 2 over segments of n tokens."""
  tiles: float
  """Distinct image tiles."""


def forward(cfg: InternVLConfig, work: Work) -> dict[str, float]:
  """Counts FLOPs of a forward pass by top-level part.

  The head belongs to "language".
  """
  parts = {"language": _decoder(cfg.decoder, work)}
  if isinstance(cfg.vision, QwenVisionConfig):
    parts["vision"] = _windowed_encoder(cfg.vision, work.tiles)
    width = cfg.vision.width * cfg.vision.grid**2
    parts["projector"] = 2.0 * width * (width + cfg.decoder.width) * work.tiles
  elif cfg.vision is not None:
    width = cfg.vision.width * cfg.shuffle**2
    matrices = width * cfg.decoder.width + cfg.decoder.width**2
    image_tokens = work.tiles * cfg.tokens_per_tile
    parts["vision"] = _encoder(cfg.vision, work.tiles)
    parts["projector"] = 2.0 * matrices * image_tokens
  return parts


def update(
  cfg: InternVLConfig,
  work: Work,
  trained: tuple[str, ...],
  adapted: bool = False,
) -> float:
  """Counts FLOPs of a forward and backward pass that trains the parts `trained`.

  A trained part costs three times its forward pass: the gradients of its
  weights and of its input (even where no other part needs the latter, as in the
  usual 6 N per token). A frozen part between a trained one and the loss costs
  twice its forward pass, any other frozen part once.

  Args:
    adapted: whether only adapters of these parts are trained, whose own work is
      left out: no gradient of a weight is needed.
  """
  costs, total, below = forward(cfg, work), 0.0, False
  for part in ("vision", "projector", "language"):  # in the order of the data
    below |= part in trained
    times = 3 if part in trained and not adapted else 2 if below else 1
    total += times * costs.get(part, 0.0)
  return total


def _decoder(cfg: DecoderConfig, work: Work) -> float:
  heads = cfg.heads * cfg.head_dim
  attention = cfg.width * (2 * heads + 2 * cfg.kv_heads * cfg.head_dim)
  block = attention + 3 * cfg.width * cfg.mlp
  matrices = cfg.depth * block + cfg.width * cfg.vocab
  scores = 2 * cfg.depth * heads  # q k and weights v
  return 2.0 * (matrices * work.tokens + scores * work.pairs)


def _windowed_encoder(cfg: QwenVisionConfig, tiles: float) -> float:
  """Counts every block's attention within full windows: how large the images
  are, to which some blocks attend whole, is not known here."""
  patches = cfg.grid**2 * tiles
  block = 4 * cfg.width**2 + 3 * cfg.width * cfg.mlp
  embedding = 3 * cfg.frames * cfg.patch_size**2 * cfg.width
  scores = 2 * cfg.depth * cfg.width * (cfg.window * cfg.grid) ** 2
  return 2.0 * (cfg.depth * block + embedding + scores) * patches


def _encoder(cfg: VisionConfig, tiles: float) -> float:
  tokens = cfg.grid**2 + 1
  block = 4 * cfg.width**2 + 2 * cfg.width * cfg.mlp
  patches = 3 * cfg.patch_size**2 * cfg.width
  scores = 2 * cfg.depth * cfg.width * tokens**2
  return 2.0 * tiles * ((cfg.depth * block + patches) * tokens + scores)
