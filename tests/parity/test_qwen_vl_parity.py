"""Qwen2.5-VL against transformers' eager fp32 forward and torch autograd."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from sophia_jax.checkpoints import load_params, read_config, save_params
from sophia_jax.models import InternVL
from sophia_jax.models.positions import spatial_positions
from tests.parity import tiny_qwen as tiny

TOLERANCE = 5e-5
GRADIENT_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
  """The reference, its directory, and our model of it."""
  directory = tmp_path_factory.mktemp("qwen_vl")
  model = tiny.build(directory)
  cfg = read_config(directory)
  return model, directory, cfg, load_params(directory, cfg)


@functools.partial(jax.jit, static_argnums=0)
def forward(cfg, params, args, tiles, tile_places):
  model, variables = InternVL(cfg), {"params": params}
  embeds = model.apply(variables, tiles, tile_places, method="encode")
  hidden = model.apply(variables, *args, embeds, tile_places)
  return model.apply(variables, hidden, method="logits")


ROWS = [
  # Wider than a window; two images, the second beside nothing but its marks.
  [tiny.sequence(1, 50, ((5, 6),)), tiny.sequence(2, 20, ())],
  [
    tiny.sequence(3, 12, ()),
    tiny.sequence(4, 40, ((1, 3), (9, 2))),
    tiny.sequence(5, 20, ((4, 4),)),
  ],
  [tiny.sequence(6, 60, ())],
]


def test_features_equal_hf(loaded):
  """Of images in a window, longer than one, and of odd sides."""
  ref, _, cfg, params = loaded
  grids = ((1, 1), (4, 4), (5, 6), (1, 9), (9, 1), (3, 7))
  seq = tiny.sequence(7, 110, grids)
  batch = tiny.pack([[seq]], 110)
  encode = jax.jit(functools.partial(InternVL(cfg).apply, method="encode"))
  got = encode({"params": params}, batch["tiles"], batch["tile_places"])
  inputs = seq.inputs()
  with torch.no_grad():
    features = ref.model.get_image_features(
      inputs["pixel_values"], inputs["image_grid_thw"]
    )
  want = torch.cat(features.pooler_output).numpy()
  worst = np.abs(np.asarray(got)[: len(want)] - want).max()
  print(f"features {worst:.1e} of {np.abs(want).max():.1f}")
  assert worst < TOLERANCE


def test_positions_equal_hf(loaded):
  """Also where rows are packed, and where an image follows itself."""
  ref = loaded[0]
  batch = tiny.pack(ROWS, 80)
  _, _, columns, slots = map(jnp.asarray, batch["args"])
  got, _ = spatial_positions(columns, slots, jnp.asarray(batch["tile_places"]))
  for b, row in enumerate(ROWS):
    at = 0
    for seq in row:
      ours = got[b, at : at + len(seq.ids)].T
      want = np.broadcast_to(np.arange(len(seq.ids)), ours.shape)
      if seq.images:
        inputs = seq.inputs()
        want = ref.model.get_rope_index(
          inputs["input_ids"],
          inputs["mm_token_type_ids"],
          image_grid_thw=inputs["image_grid_thw"],
        )[0][:, 0]
      np.testing.assert_array_equal(ours, want)
      at += len(seq.ids)


def test_logits_of_packed_rows_equal_unpacked_hf(loaded):
  ref, _, cfg, params = loaded
  got = np.asarray(forward(cfg, params, **tiny.pack(ROWS, 80)))
  worst = 0.0
  for b, row in enumerate(ROWS):
    at = 0
    for seq in row:
      with torch.no_grad():
        want = ref(**seq.inputs()).logits[0].numpy()
      ours = got[b, at : at + len(seq.ids)]
      worst = max(worst, np.abs(ours - want).max())
      at += len(seq.ids)
  print(f"logits {worst:.1e}")
  assert worst < TOLERANCE


def test_gradients_equal_autograd(loaded, tmp_path):
  ref, _, cfg, params = loaded
  row = [tiny.sequence(1, 40, ((5, 6),)), tiny.sequence(2, 12, ((2, 3),))]
  batch = tiny.pack([row], 56)
  tokens, segments = batch["args"][:2]
  targets = np.roll(tokens, -1, axis=1)
  learnt = (segments > 0) & (np.roll(segments, -1, axis=1) == segments)
  learnt &= targets != tiny.IMAGE

  @jax.jit
  @jax.grad
  def gradients(params):
    model, variables = InternVL(cfg), {"params": params}
    at = batch["tile_places"]
    embeds = model.apply(variables, batch["tiles"], at, method="encode")
    hidden = model.apply(variables, *batch["args"], embeds, at)
    logps = model.apply(variables, hidden, targets, 16, method="token_logps")
    return -jnp.sum(logps * learnt) / learnt.sum()

  total = 0.0
  for seq in row:
    logits = ref(**seq.inputs()).logits[0, :-1]
    target = torch.from_numpy(seq.ids)[1:]
    keep = target != tiny.IMAGE
    total += torch.nn.functional.cross_entropy(
      logits[keep], target[keep], reduction="sum"
    )
  ref.zero_grad()
  (total / int(learnt.sum())).backward()
  # A state dict's own names: the other naming that load_params knows.
  save_file(
    {name: p.grad for name, p in ref.named_parameters()},
    tmp_path / "model.safetensors",
  )
  want = flatten_dict(load_params(tmp_path, cfg), sep="/")
  errors = {}
  for path, g in flatten_dict(gradients(params), sep="/").items():
    # Softmax ignores a shift of its scores: no gradient but rounding.
    scale = path.replace("attn/k/bias", "attn/k/kernel")
    errors[path] = np.abs(g - want[path]).max() / np.abs(want[scale]).max()
  worst = max(errors, key=errors.__getitem__)
  print(f"gradients {errors[worst]:.1e} at {worst}")
  assert errors[worst] < GRADIENT_TOLERANCE, worst


@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back_is_what_transformers_wrote(tied, tmp_path):
  model = tiny.build(tmp_path / "hf", tie_word_embeddings=tied)
  cfg = read_config(tmp_path / "hf")
  assert cfg.decoder.tied_head is tied
  save_params(load_params(tmp_path / "hf", cfg), cfg, tmp_path / "out")
  a, b = (
    load_file(tmp_path / name / "model.safetensors") for name in ("hf", "out")
  )
  assert a.keys() == b.keys()
  for name, x in a.items():
    np.testing.assert_array_equal(x, b[name], err_msg=name)
  assert read_config(tmp_path / "out") == cfg
  again, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
    tmp_path / "out", attn_implementation="eager", output_loading_info=True
  )
  assert not any(info.values()), info
  inputs = ROWS[0][0].inputs()
  with torch.no_grad():
    difference = again.eval()(**inputs).logits - model(**inputs).logits
  assert difference.abs().max() < TOLERANCE
