"""Model FLOPs against XLA's count of the same mathematics."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  abstract_params,
  flops,
)

CFG = InternVLConfig(
  vision=VisionConfig(width=256, depth=3, heads=4, mlp=1024, image_size=112),
  decoder=DecoderConfig(
    vocab=512, width=128, depth=3, heads=4, kv_heads=2, mlp=512, head_dim=32
  ),
  dtype="float32",
  scan_unroll=3,  # the body of a loop is counted once
  attention="xla",
)
WORK = flops.Work(tokens=2 * 64, pairs=2 * 64 * 64, tiles=4)


def counted(function, *args) -> float:
  """Returns XLA's count of all operations."""
  return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_the_decoder_is_counted_as_xla_counts_it():
  """XLA computes every pair of the square; so does this work, by its pairs."""
  text = dataclasses.replace(CFG, vision=None)
  ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)

  def logits(params, ids):
    apply = lambda *args, **kw: InternVL(text).apply(
      {"params": params}, *args, **kw
    )
    return apply(apply(ids, ids, ids), method="logits")

  found = counted(logits, abstract_params(text), ids)
  wanted = flops.forward(text, WORK)["language"]
  # Norms, activations, softmax and rotations are counted by XLA alone.
  assert wanted < found < 1.04 * wanted


def test_the_encoder_is_counted_as_xla_counts_it():
  pixels = jax.ShapeDtypeStruct((4, 112, 112, 3), jnp.uint8)
  encode = lambda params, pixels: InternVL(CFG).apply(
    {"params": params}, pixels, method="encode"
  )
  found = counted(encode, abstract_params(CFG), pixels)
  parts = flops.forward(CFG, WORK)
  wanted = parts["vision"] + parts["projector"]
  assert wanted < found < 1.08 * wanted


@pytest.mark.parametrize(
  ("trained", "times"),
  [
    (("language",), (1, 1, 3)),
    (("projector",), (1, 3, 2)),
    (("projector", "language"), (1, 3, 3)),
    (("vision",), (3, 2, 2)),
    (("vision", "projector", "language"), (3, 3, 3)),
  ],
)
def test_frozen_parts_cost_less(trained, times):
  parts = flops.forward(CFG, WORK)
  wanted = sum(
    n * parts[part]
    for n, part in zip(times, ("vision", "projector", "language"))
  )
  assert flops.update(CFG, WORK, trained) == wanted


def test_a_packed_row_is_counted_by_its_pairs():
  whole = flops.Work(tokens=1024, pairs=1024 * 1025 / 2, tiles=0)
  packed = flops.Work(tokens=1024, pairs=8 * 128 * 129 / 2, tiles=0)
  scores = 4 * CFG.decoder.depth * 4 * 32  # q k and weights v, N H wide
  difference = (
    flops.forward(CFG, whole)["language"]
    - flops.forward(CFG, packed)["language"]
  )
  assert difference == scores * (whole.pairs - packed.pairs)
