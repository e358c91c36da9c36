"""Adapters that do not fit are named in one line."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sophia_jax.checkpoints import adapters
from sophia_jax.models import lora
from sophia_jax.models.lora import Lora
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import CFG, QWEN_VL, TEXT, assert_same

HOW = Lora(rank=2, alpha=4.0, parts=("language",), targets=("attn", "mlp"))


@pytest.fixture
def tree():
  return lora.init(CFG, HOW, 0)


@pytest.fixture
def saved(tree, tmp_path):
  adapters.save(tree, HOW, CFG, tmp_path / "adapter", "base")
  return tmp_path / "adapter"


def configured(directory, **changes):
  path = directory / adapters.CONFIG
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(directory, change):
  tensors = load_file(directory / adapters.TENSORS)
  change(tensors)
  save_file(tensors, directory / adapters.TENSORS)


def test_both_namings_of_transformers_are_read(tree, saved):
  assert_same(adapters.load(saved, HOW, CFG), tree)
  old = lambda name: name.replace(
    "model.model.language_model.", "model.language_model.model."
  )
  rewrite(
    saved,
    lambda t: [t.update({old(name): t.pop(name)}) for name in list(t)],
  )
  assert_same(adapters.load(saved, HOW, CFG), tree)


def test_of_qwen_vl(tmp_path):
  """The encoder's q, k and v are one map on disk, which has no adapter."""
  how = Lora(
    rank=2,
    alpha=4.0,
    parts=("language", "projector", "vision"),
    targets=("attn", "mlp", "projector"),
  )
  tree = lora.init(QWEN_VL, how, 3)
  adapters.save(tree, how, QWEN_VL, tmp_path / "a", "base")
  names = load_file(tmp_path / "a" / adapters.TENSORS)
  for module in (
    "language_model.layers.1.self_attn.q_proj",
    "visual.blocks.2.attn.proj",
    "visual.blocks.0.mlp.gate_proj",
    "visual.merger.mlp.2",
  ):
    assert f"base_model.model.model.{module}.lora_A.weight" in names
  assert not any("qkv" in name for name in names)
  assert_same(adapters.load(tmp_path / "a", how, QWEN_VL), tree)


def test_of_a_text_model(tmp_path):
  cfg = TEXT["qwen3"]
  tree = lora.init(cfg, HOW, 3)
  adapters.save(tree, HOW, cfg, tmp_path / "a", "base")
  name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
  a = load_file(tmp_path / "a" / adapters.TENSORS)[name]
  assert a.shape == (2, cfg.decoder.width)
  assert_same(adapters.load(tmp_path / "a", HOW, cfg), tree)


REFUSED = {
  "use_dora": (True, "use_dora"),
  "bias": ("all", "bias is 'all'"),
  "rank_pattern": ({"q_proj": 8}, "rank_pattern"),
  "r": (None, "r or lora_alpha is missing"),
  "lora_alpha": (8, "set lora_rank and lora_alpha"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_other_adapters_are_refused(saved, key):
  value, said = REFUSED[key]
  configured(saved, **{key: value})
  with pytest.raises(SophiaError, match=said) as e:
    adapters.load(saved, HOW, CFG)
  assert "\n" not in str(e.value) and str(saved) in str(e.value)


def test_tensors_that_do_not_fit_are_named(saved):
  name = (
    "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_B.weight"
  )
  whole = load_file(saved / adapters.TENSORS)[name]
  for change, said in (
    (lambda t: t.update(extra=whole), "extra is no adapter"),
    (lambda t: t.pop("extra"), None),
    (lambda t: t.update({name: whole[:-1]}), r"\[47, 2\], expected shape \[48"),
    (lambda t: t.pop(name), "is missing, expected shape"),
  ):
    rewrite(saved, change)
    if said is None:
      continue
    with pytest.raises(SophiaError, match=said) as e:
      adapters.load(saved, HOW, CFG)
    assert "\n" not in str(e.value) and str(saved) in str(e.value)


def test_adapters_of_other_maps_than_the_config_are_refused(saved):
  fewer = dataclasses.replace(HOW, targets=("attn",))
  with pytest.raises(SophiaError, match="has an adapter of language/layers"):
    adapters.load(saved, fewer, CFG)
  more = dataclasses.replace(
    HOW, parts=("language", "projector"), targets=("attn", "mlp", "projector")
  )
  with pytest.raises(SophiaError, match="lacks an adapter of projector"):
    adapters.load(saved, more, CFG)


def test_merging_on_the_host_is_merging_on_the_device(tree):
  rng = np.random.default_rng(0)
  a, b = (rng.normal(0, 1, s).astype("f") for s in ((2, 8, 3), (2, 3, 5)))
  kernel = rng.normal(0, 1, (2, 8, 5)).astype("f")
  found = kernel + np.stack([lora.delta(x, y, 0.5) for x, y in zip(a, b)])
  whole = {"language": {"x": {"kernel": kernel}}}
  made = lora.merge(
    lora.attach(whole, {"language": {"x": {"a": a, "b": b}}}, np.float32(0.5))
  )
  np.testing.assert_allclose(
    made["language"]["x"]["kernel"], found, rtol=0, atol=1e-6
  )
