"""A whole InternVL3-1B of random weights, through every format."""

import dataclasses
import math
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from launch.convert import convert
from sophia_jax.checkpoints import Format, read_config, save_params
from sophia_jax.models import SIZES, abstract_params
from tests.checkpoints.toy import write_tokenizer

PARAMETERS = 938_193_024
CFG = dataclasses.replace(SIZES["internvl3_1b"], param_dtype="bfloat16")


def random_bits(leaf, rng):
  """Any finite bfloat16: one bit of the exponent is never set."""
  bits = rng.integers(0, 1 << 16, leaf.shape, np.uint16)
  return (bits & 0xBFFF).view(ml_dtypes.bfloat16)


def same_files(a, b):
  """One pair at a time: a file is a gigabyte."""
  names = {p.name for p in a.iterdir()}
  assert names == {p.name for p in b.iterdir()}
  for name in names:
    assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.slow
def test_internvl3_1b_there_and_back(tmp_path):
  """hf -> orbax -> internvl_chat -> orbax -> hf, 938,193,024 parameters."""
  rng = np.random.default_rng(0)
  shapes = abstract_params(CFG)
  leaves = jax.tree.leaves(shapes)
  assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS
  params = jax.tree.map(lambda leaf: random_bits(leaf, rng), shapes)
  words = write_tokenizer(tmp_path / "words")
  # The image token is where this small tokenizer has it.
  cfg = dataclasses.replace(CFG, image_token_id=261)
  save_params(params, cfg, tmp_path / "first", words)
  del params
  src = tmp_path / "first"
  formats = (Format.ORBAX, Format.INTERNVL_CHAT, Format.ORBAX, Format.HF)
  for i, format in enumerate(formats):
    dst = tmp_path / str(i)
    convert(src, dst, format)
    assert read_config(dst).decoder == CFG.decoder
    if src.name != "first":
      shutil.rmtree(src)
    src = dst
  same_files(tmp_path / "first", src)
