"""Adapters in PEFT's format against the same adapters in PyTorch."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from sophia_jax.checkpoints import (
  adapters,
  load_params,
  read_config,
  save_params,
)
from sophia_jax.models import InternVL, lora
from sophia_jax.models.lora import Lora
from tests.parity import tiny

TOLERANCE = 5e-5
HOW = Lora(
  rank=4,
  alpha=8.0,
  parts=("language", "vision"),
  targets=("attn", "gate", "fc1"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tiny.Reference:
  spec = tiny.Spec("300m", "qwen3", 6, 2)
  return tiny.build(spec, tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="module")
def loaded(model):
  """The model's config, and its parameters with random adapters."""
  cfg = read_config(model.hf)
  rng = np.random.default_rng(0)
  tree = jax.tree.map(
    lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype),
    lora.abstract(cfg, HOW),
  )
  params = load_params(model.hf, cfg)
  return cfg, lora.attach(params, tree, np.float32(HOW.scale))


@pytest.fixture(scope="module")
def saved(model, loaded, tmp_path_factory):
  cfg, params = loaded
  directory = tmp_path_factory.mktemp("peft") / "adapter"
  adapters.save(params[lora.PART], HOW, cfg, directory, str(model.hf))
  return directory


@functools.partial(jax.jit, static_argnums=0)
def forward(cfg, params, args, tiles):
  model = InternVL(cfg)
  apply = functools.partial(model.apply, lora.variables(params))
  hidden = apply(*args, apply(tiles, method="encode"))
  return model.apply({"params": lora.base(params)}, hidden, method="logits")


def logits(model, cfg, params) -> np.ndarray:
  """Ours of a sequence of three tiles and text."""
  seq = tiny.sequence(1, 30, (3,), model.image_token)
  batch = tiny.pack([[seq]], 30, model.image_token)
  return np.asarray(forward(cfg, params, batch["args"], batch["tiles"]))[0]


def torch_logits(model, module) -> np.ndarray:
  seq = tiny.sequence(1, 30, (3,), model.image_token)
  again = tiny.Reference(model.spec, module, model.hf, model.hf)
  with torch.no_grad():
    return again.logits(seq.ids, seq.tiles).numpy()


def opened(directory):
  return AutoModelForImageTextToText.from_pretrained(
    directory, attn_implementation="eager"
  ).eval()


def test_every_tensor_is_of_a_module_of_transformers(model, loaded, saved):
  module = opened(model.hf)
  tensors = load_file(saved / adapters.TENSORS)
  names = {name.partition(".lora_")[0] for name in tensors}
  assert len(tensors) == 2 * len(names)
  with torch.no_grad():
    for name in names:
      linear = module.get_submodule(name.removeprefix("base_model.model."))
      a, b = (tensors[f"{name}.lora_{x}.weight"] for x in "AB")
      linear.weight += HOW.scale * b @ a
  found = logits(model, *loaded)
  assert np.abs(found - torch_logits(model, module)).max() < TOLERANCE
  plain = logits(model, loaded[0], lora.base(loaded[1]))
  assert np.abs(found - plain).max() > 0.1


def test_a_merged_export_is_the_adapted_model(model, loaded, tmp_path):
  cfg, params = loaded
  save_params(lora.merge(params), cfg, tmp_path / "out", model.hf)
  merged = torch_logits(model, opened(tmp_path / "out"))
  assert np.abs(logits(model, cfg, params) - merged).max() < TOLERANCE


def test_adapters_are_read_as_they_were_written(loaded, saved):
  cfg, params = loaded
  found = adapters.load(saved, HOW, cfg)
  jax.tree.map(np.testing.assert_array_equal, found, params[lora.PART])


def test_peft_computes_the_same(model, loaded, saved):
  peft = pytest.importorskip("peft")
  module = peft.PeftModel.from_pretrained(opened(model.hf), saved)
  found = torch_logits(model, module.base_model.model)
  assert np.abs(logits(model, *loaded) - found).max() < TOLERANCE


def test_what_peft_writes_is_read(model, loaded, tmp_path):
  peft = pytest.importorskip("peft")
  config = peft.LoraConfig(
    r=4,
    lora_alpha=8,
    target_modules=r"model\.language_model\..*\.(q_proj|v_proj)",
    init_lora_weights=False,
  )
  module = peft.get_peft_model(opened(model.hf), config)
  module.save_pretrained(tmp_path)
  cfg, params = loaded
  tree, rank, alpha = adapters.read(tmp_path, cfg)
  assert (rank, alpha) == (4, 8)
  params = lora.attach(lora.base(params), tree, np.float32(alpha / rank))
  found = torch_logits(model, module.base_model.model)
  assert np.abs(logits(model, cfg, params) - found).max() < TOLERANCE
