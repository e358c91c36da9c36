"""What the tests of sophia_jax.data share besides fixtures."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from tokenizers import (
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  trainers,
)

from sophia_jax.data.images import ImageConfig

FIXTURES = Path(__file__).parent / "fixtures"
TURNS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "<ref>", "<box>"]
SMALL = ImageConfig(tile_size=56)


def byte_level(special):
  """A byte-level BPE with a few merges, special tokens first."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokenizer.train_from_iterator(
    ["system user assistant", "the answer is 42", "Image-1: Image-2:"] * 4,
    trainers.BpeTrainer(
      vocab_size=320, special_tokens=special, initial_alphabet=alphabet
    ),
  )
  return tokenizer


def command(*args):
  """What came of `python -m sophia_jax.datasets`."""
  return subprocess.run(
    [sys.executable, "-m", "sophia_jax.datasets", *map(str, args)],
    capture_output=True,
    text=True,
    check=False,
  )


def joined(loaders, step):
  """The batch of which each process has a share."""
  shares = [loader[step] for loader in loaders]
  return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *shares)
