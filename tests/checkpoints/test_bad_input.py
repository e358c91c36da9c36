"""A damaged directory is named in one line, before anything is read."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sophia_jax.checkpoints import (
  load_params,
  load_sharded,
  manifest,
  read_config,
  save_params,
  shards,
  writing,
)
from sophia_jax.models import abstract_params
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import CFG, assert_same, edit


def rewrite(directory, change):
  tensors = load_file(directory / shards.SINGLE)
  change(tensors)
  save_file(tensors, directory / shards.SINGLE)
  (directory / manifest.NAME).unlink(missing_ok=True)


def refused(directory, *words, cfg=CFG):
  with pytest.raises(SophiaError) as e:
    load_params(directory, cfg)
  message = str(e.value)
  assert "\n" not in message and str(directory) in message
  for word in words:
    assert word in message


def test_a_flipped_bit_is_named(saved):
  path = saved / shards.SINGLE
  data = bytearray(path.read_bytes())
  data[-100] ^= 1
  path.write_bytes(data)
  refused(saved, shards.SINGLE, "is not what was written", manifest.NAME)
  (saved / manifest.NAME).unlink()  # as the message says
  load_params(saved, CFG)


def test_unmapped_tensor(saved):
  rewrite(saved, lambda t: t.update(extra=np.zeros(3, np.float32)))
  refused(saved, "extra", shards.SINGLE)


def test_old_rotary_buffers_are_ignored(params, saved):
  name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
  rewrite(saved, lambda t: t.update({name: np.zeros(4, np.float32)}))
  assert_same(params, load_params(saved, CFG))


def test_missing_tensor(saved):
  name = "language_model.model.layers.1.mlp.up_proj.weight"
  rewrite(saved, lambda t: t.pop(name))
  refused(saved, name, "[48, 32]")


def test_wrong_shape(saved):
  name = "multi_modal_projector.linear_2.weight"
  rewrite(saved, lambda t: t.update({name: np.zeros((32, 31), np.float32)}))
  refused(saved, name, "[32, 31]", "[32, 32]", shards.SINGLE)


@pytest.mark.parametrize("dtype, said", [(np.int8, "I8"), (np.uint8, "U8")])
def test_wrong_dtype(saved, dtype, said):
  name = "language_model.model.layers.0.mlp.up_proj.weight"
  rewrite(saved, lambda t: t.update({name: np.zeros((48, 32), dtype)}))
  refused(saved, name, said, "BF16", "quantised", shards.SINGLE)


def test_any_floating_point_is_taken(params, saved):
  name = "language_model.model.norm.weight"
  rewrite(saved, lambda t: t.update({name: t[name].astype(np.float64)}))
  assert_same(params, load_params(saved, CFG))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_that_are_not_finite_are_named(saved, value, caplog):
  name = "language_model.model.layers.1.self_attn.k_proj.weight"
  rewrite(saved, lambda t: t[name].__setitem__((3, 1), value))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  layout = jax.tree.map(lambda _: here, abstract_params(CFG))
  for load in (
    lambda: load_params(saved, CFG),
    lambda: load_sharded(saved, CFG, layout),
  ):
    caplog.clear()
    with caplog.at_level("WARNING"):
      loaded = load()
    (record,) = caplog.records
    message = record.getMessage()
    assert message == f"{saved / shards.SINGLE}: {name} holds NaN or infinity"
    kernel = loaded["language"]["layers"]["attn"]["k"]["kernel"]
    np.testing.assert_equal(np.asarray(kernel)[1, 1, 3], np.float32(value))


def test_truncated_shard(saved):
  path = saved / shards.SINGLE
  path.write_bytes(path.read_bytes()[:-100])
  refused(saved, shards.SINGLE, "truncated")


def test_pickles_are_never_loaded(saved):
  (saved / shards.SINGLE).rename(saved / "pytorch_model.bin")
  refused(saved, "never loaded", "safetensors")


def test_no_weights_at_all(saved):
  (saved / shards.SINGLE).unlink()
  refused(saved, shards.SINGLE)


@pytest.fixture
def cut(params, tmp_path, monkeypatch):
  monkeypatch.setattr(writing, "SHARD_BYTES", 20_000)
  save_params(params, CFG, tmp_path / "cut")
  return tmp_path / "cut"


def test_missing_shard(cut):
  shard = sorted(cut.glob("model-00002-*"))[0]
  shard.unlink()
  refused(cut, shards.INDEX, shard.name)


def test_index_names_a_file_outside(cut):
  index = json.loads((cut / shards.INDEX).read_text())
  name = next(iter(index["weight_map"]))
  index["weight_map"][name] = "../elsewhere.safetensors"
  (cut / shards.INDEX).write_text(json.dumps(index))
  refused(cut, shards.INDEX, "../elsewhere.safetensors")


def test_index_disagrees_with_its_shards(cut):
  index = json.loads((cut / shards.INDEX).read_text())
  first, *_, last = index["weight_map"]
  index["weight_map"][first] = index["weight_map"][last]
  (cut / shards.INDEX).write_text(json.dumps(index))
  refused(cut, shards.INDEX, first, index["weight_map"][last])


def test_a_tensor_in_two_shards(cut):
  first, second = sorted(cut.glob("*.safetensors"))[:2]
  tensors = load_file(second)
  name, value = next(iter(load_file(first).items()))
  save_file(tensors | {name: value}, second)
  refused(cut, name, first.name, second.name)


def test_a_tensor_that_the_index_does_not_name(cut):
  index = json.loads((cut / shards.INDEX).read_text())
  name, file = index["weight_map"].popitem()
  (cut / shards.INDEX).write_text(json.dumps(index))
  refused(cut, name, file, shards.INDEX)


def test_index_is_not_json(cut):
  (cut / shards.INDEX).write_text("{")
  refused(cut, shards.INDEX, "JSON")


@pytest.mark.parametrize(
  "change, words",
  [
    ({"model_type": "blip"}, "blip"),
    ({"model_type": None}, "known: internvl"),
    ({"text_config": None}, "text_config"),
    ({"vision_feature_layer": -2}, "vision_feature_layer"),
    ({"projector_hidden_act": "relu"}, "relu"),
  ],
)
def test_configs_this_model_is_not(saved, change, words):
  edit(saved, **change)
  with pytest.raises(SophiaError, match=words) as e:
    read_config(saved)
  assert "config.json" in str(e.value)


def test_what_is_no_checkpoint_says_what_to_give(saved, tmp_path):
  for path, said in (
    (tmp_path / "none", r"none: no such directory; give the folder of a ch"),
    (tmp_path, r"config.json: no such file; give the folder of a checkpoint"),
  ):
    with pytest.raises(SophiaError, match=said):
      read_config(path)
  (saved / "config.json").write_text('{"seed": 0, "stages": {}}')
  with pytest.raises(
    SophiaError, match=r"the workdir of a run.*give .*/export"
  ):
    read_config(saved)


@pytest.mark.parametrize("rope", [{"rope_type": "yarn"}, {"type": "linear"}])
def test_unknown_rope_is_refused(saved, rope):
  text = json.loads((saved / "config.json").read_text())["text_config"]
  edit(saved, text_config=text | {"rope_parameters": rope})
  with pytest.raises(SophiaError, match="rope type"):
    read_config(saved)


# InternVL3.5 is published with these, too.
UNSUPPORTED = {
  "qwen3_moe": "qwen3_moe is a mixture of experts, which is not supported",
  "gpt_oss": "gpt_oss (GPT-OSS) is not supported",
}


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_experts_are_refused_by_name(saved, family):
  config = json.loads((saved / "config.json").read_text())
  edit(saved, text_config={**config["text_config"], "model_type": family})
  with pytest.raises(SophiaError, match="expected one of qwen2, qwen3") as e:
    read_config(saved)
  assert UNSUPPORTED[family] in str(e.value) and "\n" not in str(e.value)
  edit(saved, **config["text_config"] | {"model_type": family})
  with pytest.raises(SophiaError, match="known: internvl,") as e:
    read_config(saved)
  assert UNSUPPORTED[family] in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_router_of_image_tokens_is_refused(saved, prefix):
  name = f"{prefix}pooling_before_gating.norm1.weight"
  rewrite(saved, lambda t: t.update({name: np.zeros(3, np.float32)}))
  with pytest.raises(SophiaError, match=r"router of InternVL3\.5-Flash") as e:
    read_config(saved)
  assert str(saved) in str(e.value) and "\n" not in str(e.value)
