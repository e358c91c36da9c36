"""Exported directories against what PyTorch made of the same weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
  AutoModelForImageTextToText,
  AutoProcessor,
  AutoTokenizer,
  GenerationConfig,
)

from sophia_jax.checkpoints import (
  Format,
  load_params,
  read_config,
  save_params,
)
from tests.parity import tiny

LOGITS_TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def exported(reference, tmp_path_factory):
  """-hf -> internvl_chat -> -hf, each read from the one before."""
  out = tmp_path_factory.mktemp("exports")
  steps = [("chat", Format.INTERNVL_CHAT), ("hf", Format.HF)]
  source = reference.hf
  for name, format in steps:
    cfg = read_config(source)
    params = load_params(source, cfg)
    save_params(params, cfg, out / name, source, format=format)
    source = out / name
  return out


def assert_same_tensors(a, b):
  a, b = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
  assert a.keys() == b.keys()
  for name, x in a.items():
    np.testing.assert_array_equal(x, b[name], err_msg=name)


def test_the_original_format_is_fused_as_torch_fuses_it(reference, exported):
  assert_same_tensors(exported / "chat", reference.chat)


def test_there_and_back_is_what_transformers_wrote(reference, exported):
  assert_same_tensors(exported / "hf", reference.hf)
  assert read_config(exported / "hf") == read_config(reference.hf)


def test_the_original_config_says_what_its_readers_ask(reference, exported):
  config = json.loads((exported / "chat" / "config.json").read_text())
  want = json.loads((reference.chat / "config.json").read_text())
  if reference.spec.llm != "internlm2":
    want["llm_config"]["rope_scaling"]["rope_type"] = "dynamic"
  for section in ("llm_config", "vision_config"):
    for key, value in want.pop(section).items():
      assert config[section][key] == value, key
  for key, value in want.items():
    assert config[key] == value, key
  assert config["tie_word_embeddings"] is False
  assert config["llm_config"]["tie_word_embeddings"] is False
  assert read_config(exported / "chat") == read_config(reference.hf)


def test_an_export_answers_in_transformers(reference, exported):
  out = exported / "hf"
  model, info = AutoModelForImageTextToText.from_pretrained(
    out, attn_implementation="eager", output_loading_info=True
  )
  assert not any(info.values()), info
  seq = tiny.sequence(9, 30, (3,), reference.image_token)
  again = tiny.Reference(reference.spec, model.eval(), out, out)
  with torch.no_grad():
    got = again.logits(seq.ids, seq.tiles)
    want = reference.logits(seq.ids, seq.tiles)
  assert (got - want).abs().max() < LOGITS_TOLERANCE


def test_an_export_generates_until_the_turn_ends(exported):
  for name in ("hf", "chat"):
    words = AutoTokenizer.from_pretrained(exported / name)
    end = words.convert_tokens_to_ids("<|im_end|>")
    config = GenerationConfig.from_pretrained(exported / name)
    assert config.eos_token_id == end


def test_the_tokenizer_is_as_large_as_it_was(reference, exported):
  words = AutoTokenizer.from_pretrained(reference.hf)
  again = AutoTokenizer.from_pretrained(exported / "hf")
  assert again.get_vocab() == words.get_vocab()
  assert again.context_image_token_id == reference.image_token
  assert "<img>" in again.all_special_tokens


def test_the_template_renders_an_image(exported):
  words = AutoTokenizer.from_pretrained(exported / "hf")
  content = [{"type": "image"}, {"type": "text", "text": "What?"}]
  chat = [{"role": "user", "content": content}]
  text = words.apply_chat_template(
    chat, tokenize=False, add_generation_prompt=True
  )
  assert text == (
    "<|im_start|>user\n<IMG_CONTEXT>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
  )


def test_the_processor_of_an_export(reference, exported):
  """transformers builds it only where torchvision is."""
  pytest.importorskip("torchvision")
  processor = AutoProcessor.from_pretrained(exported / "hf")
  image = np.zeros((tiny.SIDE, 2 * tiny.SIDE, 3), np.uint8)
  got = processor(images=[image], text="<IMG_CONTEXT>\nWhat?")
  tokens = np.asarray(got["input_ids"][0])
  tiles = len(got["pixel_values"])
  assert tiles == 3
  found = (tokens == reference.image_token).sum()
  assert found == tiles * tiny.TOKENS_PER_TILE
