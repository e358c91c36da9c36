"""The decoder alone against Qwen2-, Qwen3- and LlamaForCausalLM."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sophia_jax.checkpoints import load_params, read_config, save_params
from sophia_jax.models import InternVL
from sophia_jax.models.vision import pixel_shuffle
from tests.parity import tiny

TOLERANCE = 5e-5
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


@functools.partial(jax.jit, static_argnums=0)
def logits(cfg, params, tokens, segments, positions):
  model, variables = InternVL(cfg), {"params": params}
  hidden = model.apply(variables, tokens, segments, positions)
  return model.apply(variables, hidden, method="logits")


@pytest.mark.parametrize("llm", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_and_export(llm, tied, tmp_path):
  model = tiny.build_text(
    llm, tmp_path / "in", tie_word_embeddings=tied, rope_parameters=PLAIN
  )
  cfg = read_config(tmp_path / "in")
  assert cfg.vision is None and cfg.decoder.tied_head == tied
  params = load_params(tmp_path / "in", cfg)
  ids = np.random.RandomState(0).randint(0, 64, (2, 40))
  positions = np.broadcast_to(np.arange(40), ids.shape)
  got = logits(cfg, params, ids, np.ones_like(ids), positions)
  save_params(params, cfg, tmp_path / "out")
  again, info = AutoModelForCausalLM.from_pretrained(
    tmp_path / "out", attn_implementation="eager", output_loading_info=True
  )
  assert not any(info.values()), info
  for reference in (model, again.eval()):
    with torch.no_grad():
      want = reference(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(np.asarray(got) - want).max() < TOLERANCE


def test_dynamic_ntk_beyond_max_positions(tmp_path):
  model = tiny.build_text("qwen2", tmp_path, max_position_embeddings=32)
  cfg = read_config(tmp_path)
  params = load_params(tmp_path, cfg)
  # One row: a long, a short and a longest sequence, none touching another's
  # frequencies. transformers takes one length for a whole batch, so one by one.
  lengths = (70, 20, 100)
  rng = np.random.RandomState(0)
  parts = [rng.randint(0, 64, n) for n in lengths]
  segments = np.repeat([1, 2, 3], lengths)[None]
  positions = np.concatenate([np.arange(n) for n in lengths])[None]
  got = logits(cfg, params, np.concatenate(parts)[None], segments, positions)
  at = 0
  for part in parts:
    with torch.no_grad():
      want = model(torch.from_numpy(part)[None]).logits[0].numpy()
    ours = np.asarray(got)[0, at : at + len(part)]
    assert np.abs(ours - want).max() < TOLERANCE
    at += len(part)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pixel_shuffle(version):
  x = np.random.RandomState(0).standard_normal((2, 16, 3)).astype(np.float32)
  # As InternVLChatModel writes it: two half-folds with a permutation between.
  y = torch.from_numpy(x).reshape(2, 4, 4, 3)
  y = y.view(2, 4, 2, 6).permute(0, 2, 1, 3).contiguous()
  y = y.view(2, 2, 2, 12)
  if version == "v2":
    y = y.permute(0, 2, 1, 3).contiguous()
  got = pixel_shuffle(x, 2, version)
  np.testing.assert_array_equal(got, y.reshape(2, 4, 12).numpy())
