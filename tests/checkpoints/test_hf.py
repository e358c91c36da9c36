"""Directories of every format, to parameters and back."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from sophia_jax.checkpoints import (
  Format,
  keys,
  load_params,
  read_config,
  save_params,
  shards,
  writing,
)
from sophia_jax.checkpoints.config_writer import naming_of
from sophia_jax.checkpoints.keys import Naming
from sophia_jax.checkpoints.writing import Held
from sophia_jax.models import SIZES, abstract_params
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import (
  CFG,
  LLAMA,
  QWEN_VL,
  TEXT,
  VARIANTS,
  assert_same,
  edit,
  random_params,
  write_tokenizer,
)


def test_round_trip(params, saved):
  cfg = read_config(saved)
  assert cfg == CFG
  assert_same(params, load_params(saved, cfg))


@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("tied", [False, True])
def test_text_only_round_trip(family, tied, tmp_path):
  decoder = dataclasses.replace(TEXT[family].decoder, tied_head=tied)
  want = dataclasses.replace(TEXT[family], decoder=decoder)
  assert decoder.family == family
  params = random_params(want)
  save_params(params, want, tmp_path / "llm")
  cfg = read_config(tmp_path / "llm")
  assert cfg == want
  assert_same(params, load_params(tmp_path / "llm", cfg))


def test_shards_hold_the_same_tensors(params, saved, tmp_path, monkeypatch):
  monkeypatch.setattr(writing, "SHARD_BYTES", 20_000)
  save_params(params, CFG, tmp_path / "cut")
  index = json.loads((tmp_path / "cut" / shards.INDEX).read_text())
  files = set(index["weight_map"].values())
  assert len(files) > 2
  whole = load_file(saved / shards.SINGLE)
  assert index["weight_map"].keys() == whole.keys()
  assert index["metadata"]["total_size"] == sum(
    x.nbytes for x in whole.values()
  )
  assert_same(params, load_params(tmp_path / "cut", CFG))


def test_export_in_bfloat16(params, tmp_path):
  save_params(params, CFG, tmp_path / "half", dtype="bfloat16")
  cfg = read_config(tmp_path / "half")
  assert cfg.dtype == "bfloat16" and cfg.param_dtype == "float32"
  half = dataclasses.replace(cfg, param_dtype="bfloat16")
  want = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert_same(want, load_params(tmp_path / "half", half))


def test_an_older_export_is_replaced_whole(params, saved):
  (saved / "stale").write_text("left over")
  save_params(params, CFG, saved)
  assert not (saved / "stale").exists()
  assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_failed_export_leaves_nothing(params, saved):
  before = (saved / shards.SINGLE).stat().st_mtime_ns
  with pytest.raises(SophiaError, match="no tokenizer"):
    save_params(params, CFG, saved, tokenizer_dir=saved)
  assert (saved / shards.SINGLE).stat().st_mtime_ns == before
  assert [p.name for p in saved.parent.iterdir()] == [saved.name]


# Parameters; tensors in the -hf and in the original format. By depth L:
# 445 + 12 L and 349 + 12 L around Qwen2, 445 + 11 L and 349 + 11 L around Qwen3,
# 445 + 9 L and 349 + 7 L around InternLM2; with the 6B encoder 688 and 598
# instead of 445 and 349; of a text model 3 + 11 L, one less where the head is
# tied; of Qwen2.5-VL 393 + 12 L, one less where the head is tied.
PUBLISHED = {
  "internvl2_5_1b": (938_193_024, 733, 637),
  "internvl2_5_2b": (2_205_754_368, 661, 517),
  "internvl2_5_4b": (3_712_637_952, 877, 781),
  "internvl2_5_8b": (8_075_365_376, 733, 573),
  "internvl2_5_26b": (25_514_186_112, 1120, 934),
  "internvl2_5_38b": (38_388_164_992, 1456, 1366),
  "internvl2_5_78b": (78_408_318_336, 1648, 1558),
  "internvl3_1b": (938_193_024, 733, 637),
  "internvl3_2b": (2_088_957_440, 781, 685),
  "internvl3_8b": (7_944_373_760, 781, 685),
  "internvl3_14b": (15_117_256_704, 1021, 925),
  "internvl3_38b": (38_388_164_992, 1456, 1366),
  "internvl3_78b": (78_408_318_336, 1648, 1558),
  "internvl3_5_1b": (1_060_897_792, 753, 657),
  "internvl3_5_2b": (2_348_347_392, 753, 657),
  "internvl3_5_4b": (4_732_489_216, 841, 745),
  "internvl3_5_8b": (8_528_318_464, 841, 745),
  "internvl3_5_14b": (15_119_523_840, 885, 789),
  "internvl3_5_38b": (38_390_405_504, 1392, 1302),
  "qwen2_5_vl_3b": (3_754_622_976, 824, None),
  "qwen2_5_vl_7b": (8_292_166_656, 729, None),
  "qwen2_5_vl_32b": (33_452_718_336, 1161, None),
  "qwen2_5_vl_72b": (73_410_777_344, 1353, None),
  "qwen3_0_6b": (596_049_920, 310, None),
  "qwen3_1_7b": (1_720_574_976, 310, None),
  "qwen3_4b": (4_022_468_096, 398, None),
  "qwen3_8b": (8_190_735_360, 399, None),
  "qwen3_14b": (14_768_307_200, 443, None),
  "qwen3_32b": (32_762_123_264, 707, None),
}


def parameters(table):
  """Of all tensors of a key table."""
  return sum(math.prod(keys.tensor_shape(parts)) for parts in table.values())


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_the_published_counts(size):
  count, hf_tensors, tensors = PUBLISHED[size]
  cfg = SIZES[size]
  hf = keys.table(cfg, naming_of(cfg, Format.HF))
  assert (len(hf), parameters(hf)) == (hf_tensors, count)
  if tensors is not None:
    chat = keys.table(cfg, naming_of(cfg, Format.INTERNVL_CHAT))
    assert (len(chat), parameters(chat)) == (tensors, count)
  leaves = jax.tree.leaves(abstract_params(cfg))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count
  tokens = {"internvl": 256, "qwen2_5": 1, "qwen3_": 0}
  assert cfg.tokens_per_tile == next(
    n for name, n in tokens.items() if size.startswith(name)
  )


@pytest.mark.parametrize("size", ["internvl2_5_26b", "internvl3_38b"])
def test_every_parameter_is_in_the_table_once(size):
  cfg = SIZES[size]
  parts = [p for of_key in keys.table(cfg, Naming.HF).values() for p in of_key]
  assert len({(p.param, p.layer) for p in parts}) == len(parts)
  paths = flatten_dict(abstract_params(cfg), sep="/")
  assert {p.param for p in parts} == paths.keys()


def fuse(tensors, parts):
  """Returns the tensor on disk that holds the values of `parts`."""
  if len(parts) == 1:
    return tensors[0]
  whole = np.empty(keys.tensor_shape(parts), tensors[0].dtype)
  for tensor, part in zip(tensors, parts, strict=True):
    at = 0
    for first, count in part.runs.between(0, len(tensor)):
      whole[first : first + count] = tensor[at : at + count]
      at += count
  return whole


@pytest.mark.parametrize("naming", Naming)
def test_every_naming_reads_what_it_writes(naming, tmp_path):
  cfg = CFG
  if naming is Naming.TEXT:
    cfg = LLAMA
  if naming is Naming.CHAT_INTERNLM2:
    cfg = VARIANTS["300m-internlm2"]
  if naming in (Naming.QWEN_VL, Naming.QWEN_VL_MEMORY):
    cfg = QWEN_VL
  params = random_params(cfg)
  values = Held(params, None)
  tensors = {
    name: np.ascontiguousarray(
      fuse([values.fetch(part) for part in parts], parts)
    )
    for name, parts in keys.table(cfg, naming).items()
  }
  assert keys.detect(tensors) is naming
  save_file(tensors, tmp_path / shards.SINGLE)
  assert_same(params, load_params(tmp_path, cfg))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_original_format(variant, tmp_path):
  cfg = VARIANTS[variant]
  params = random_params(cfg)
  words = write_tokenizer(tmp_path / "words")
  out = tmp_path / "out"
  save_params(params, cfg, out, words, format=Format.INTERNVL_CHAT)
  assert read_config(out) == cfg
  assert_same(params, load_params(out, cfg))


def test_a_tied_head_is_written_out_for_the_original_format(tmp_path):
  """InternVLChatModel unties every model that it loads."""
  decoder = dataclasses.replace(CFG.decoder, tied_head=True)
  cfg = dataclasses.replace(CFG, decoder=decoder)
  params = random_params(cfg)
  save_params(params, cfg, tmp_path / "out", format=Format.INTERNVL_CHAT)
  untied = read_config(tmp_path / "out")
  assert not untied.decoder.tied_head
  language = load_params(tmp_path / "out", untied)["language"]
  np.testing.assert_array_equal(language["head"], language["embedding"].T)


def test_older_rope_keys(saved):
  text = json.loads((saved / "config.json").read_text())["text_config"]
  del text["rope_parameters"]
  text |= {
    "rope_theta": 5e7,
    "rope_scaling": {"type": "dynamic", "factor": 2.5},
  }
  edit(saved, text_config=text)
  decoder = read_config(saved).decoder
  assert decoder.rope_theta == 5e7
  assert (decoder.rope_scaling, decoder.rope_factor) == ("dynamic", 2.5)


def test_v1_and_unknown_image_token_cannot_be_exported(params, tmp_path):
  for change in ({"pixel_shuffle": "v1"}, {"image_token_id": -1}):
    with pytest.raises(SophiaError, match=next(iter(change))):
      cfg = dataclasses.replace(CFG, **change)
      save_params(params, cfg, tmp_path / "out")
  assert not list(tmp_path.iterdir())
