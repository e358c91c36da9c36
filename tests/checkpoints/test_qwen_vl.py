"""Qwen2.5-VL's directories: config, processor, what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

from launch.convert import convert
from sophia_jax.checkpoints import (
  Format,
  load_params,
  read_config,
  save_params,
  sidecars,
)
from sophia_jax.checkpoints.tiling import read_native_limits
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import (
  QWEN_VL,
  assert_same,
  byte_tokenizer,
  edit,
  random_params,
)


@pytest.fixture
def saved(tmp_path):
  """A directory as it is published, with the image token of its tokenizer."""
  words = byte_tokenizer()
  words.add_tokens(["<|image_pad|>"], special_tokens=True)
  words.save_pretrained(tmp_path / "words")
  assert words.get_vocab()["<|image_pad|>"] != QWEN_VL.image_token_id
  cfg = QWEN_VL
  save_params(random_params(cfg), cfg, tmp_path / "model")
  return tmp_path / "model"


def test_orbax_and_back(saved, tmp_path):
  shutil.copytree(tmp_path / "words", saved, dirs_exist_ok=True)
  words = AutoTokenizer.from_pretrained(saved).get_vocab()
  edit(saved, image_token_id=words["<|image_pad|>"])
  convert(saved, tmp_path / "orbax", Format.ORBAX)
  convert(tmp_path / "orbax", tmp_path / "again", Format.HF)
  cfg = read_config(tmp_path / "again")
  assert cfg == read_config(saved)
  assert_same(load_params(saved, cfg), load_params(tmp_path / "again", cfg))


def test_a_section_for_text_and_newer_rope_keys(saved):
  top = json.loads((saved / "config.json").read_text())
  text = {
    key: top[key]
    for key in top
    if key not in ("vision_config", "rope_scaling", "architectures")
  }
  text["model_type"] = "qwen2_5_vl_text"
  text["rope_parameters"] = {
    "rope_type": "default",
    "rope_theta": text.pop("rope_theta"),
    "mrope_section": [1, 1, 2],
  }
  edit(saved, text_config=text, rope_scaling=None)
  assert read_config(saved) == QWEN_VL


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"window_size": 6}, "window_size is 6; expected a multiple of 4"),
    ({"out_hidden_size": 31}, "out_hidden_size is 31; .* 32"),
    ({"hidden_act": "quick_gelu"}, "only 'silu'"),
    ({"fullatt_block_indexes": 3}, "fullatt_block_indexes is 3"),
  ],
)
def test_another_encoder_is_refused(saved, change, said):
  vision = json.loads((saved / "config.json").read_text())["vision_config"]
  edit(saved, vision_config=vision | change)
  with pytest.raises(SophiaError, match=said):
    read_config(saved)


@pytest.mark.parametrize(
  ("rope", "said"),
  [
    ({"type": "yarn", "factor": 4.0}, "rope type 'yarn'"),
    ({"type": "mrope", "mrope_section": [16, 24]}, "expected three numbers"),
    ({"type": "mrope", "mrope_section": [2, 2, 2]}, "half of head_dim 8"),
  ],
)
def test_other_positions_are_refused(saved, rope, said):
  edit(saved, rope_scaling=rope)
  with pytest.raises(SophiaError, match=said):
    read_config(saved)


def test_it_has_no_internvl_format(tmp_path):
  with pytest.raises(SophiaError, match=r"Qwen2\.5-VL has no internvl_chat"):
    save_params(
      random_params(QWEN_VL),
      QWEN_VL,
      tmp_path / "out",
      format=Format.INTERNVL_CHAT,
    )


def test_a_tokenizer_of_another_model_is_refused(saved, tmp_path):
  with pytest.raises(SophiaError, match=r"<\|image_pad\|> is \d+ in the token"):
    save_params(
      random_params(QWEN_VL), QWEN_VL, tmp_path / "out", tmp_path / "words"
    )


def test_the_processors_limits(saved):
  side = QWEN_VL.vision.image_size
  path = saved / "preprocessor_config.json"
  assert read_native_limits(saved, side) == (4, 16384)
  said = json.loads(path.read_text())
  said |= {"min_pixels": 256 * side**2, "max_pixels": 1280 * side**2}
  path.write_text(json.dumps(said))
  assert read_native_limits(saved, side) == (256, 1280)
  path.write_text(json.dumps(said | {"max_pixels": "many"}))
  with pytest.raises(SophiaError, match="pixels of an image"):
    read_native_limits(saved, side)
  path.write_text(json.dumps(said | {"image_mean": [0.5, 0.5, 0.5]}))
  with pytest.raises(SophiaError, match="image_mean"):
    read_native_limits(saved, side)


@pytest.mark.parametrize("system", [None, "", "Think."])
def test_the_default_system_prompt_of_an_export(system, tmp_path):
  out = tmp_path / "out"
  save_params(random_params(QWEN_VL), QWEN_VL, out, system=system)
  want = {None: sidecars.QWEN_SYSTEM, "": None}.get(system, system)
  assert sidecars.system_of(out) == want
