"""Tiny tokenizers and images for the tests of sophia_jax.data."""

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from sophia_jax.data.chat import Renderer
from tests.data.data_samples import MARKS, SMALL, TURNS, byte_level


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
  """Qwen-like with InternVL's image tokens; <think> is an ordinary token."""
  path = tmp_path_factory.mktemp("qwen")
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=byte_level(TURNS),
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
  )
  tokenizer.add_tokens(MARKS, special_tokens=True)
  tokenizer.add_tokens(["<think>", "</think>"])
  tokenizer.save_pretrained(path)
  return str(path)


@pytest.fixture(scope="session")
def bos_dir(tmp_path_factory):
  """InternLM2-like: `<s>` in front; image tokens not flagged as special."""
  path = tmp_path_factory.mktemp("internlm")
  core = byte_level(["<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>"])
  core.post_processor = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", 1)]
  )
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
  )
  tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
  tokenizer.save_pretrained(path)
  return str(path)


@pytest.fixture(scope="session")
def reasoner_dir(tmp_path_factory):
  """Text-only, with a chat template of its own and other turn marks."""
  path = tmp_path_factory.mktemp("reasoner")
  marks = ["<bos>", "<eos>", "<User>", "<Assistant>"]
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=byte_level(marks), bos_token="<bos>", eos_token="<eos>"
  )
  tokenizer.chat_template = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ m['content'] }}{% else %}{{ '<User>' + m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<Assistant>think\\n' }}"
    "{% endif %}"
  )
  tokenizer.save_pretrained(path)
  return str(path)


@pytest.fixture(scope="session")
def renderer(tokenizer_dir):
  return Renderer(
    tokenizer_dir, SMALL, tokens_per_tile=4, default_system="Be brief."
  )


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
  """picture(width, height) -> path of a PNG that is like no other."""
  folder = tmp_path_factory.mktemp("pictures")

  def make(width, height, seed=0):
    path = folder / f"{width}x{height}-{seed}.png"
    if not path.exists():
      rng = np.random.default_rng([width, height, seed])
      pixels = rng.integers(1, 256, (height, width, 3), np.uint8)
      Image.fromarray(pixels).save(path)
    return str(path)

  return make
