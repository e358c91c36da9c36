"""The vision encoder's pretraining, ended by SIGTERM and begun again."""

import os
import signal

import jax
import numpy as np
import pytest

from sophia_jax.digits import pretrain, scenes
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  init_params,
)
from sophia_jax.stopping import Preempted
from sophia_jax.types import SophiaError

CONFIG = pretrain.VisionConfig(steps=6, images=2)
CFG = InternVLConfig(
  vision=VisionConfig(
    width=16,
    depth=1,
    heads=2,
    mlp=32,
    image_size=scenes.SIDE,
    patch_size=scenes.SIDE // (2 * scenes.GRID),
  ),
  decoder=DecoderConfig(
    vocab=16, width=16, depth=1, heads=2, kv_heads=1, mlp=32, head_dim=8
  ),
  image_token_id=3,
  dtype="float32",
)


def pretrained(place, config=CONFIG):
  scans, _ = scenes.load_scans(0, 0.5)
  params = init_params(CFG, jax.random.key(0))
  return pretrain.pretrain_vision(
    InternVL(CFG), params, scans, config, 0, place
  )


def test_it_resumes_and_ends_with_the_same_bits(tmp_path, monkeypatch):
  whole, history = pretrained(tmp_path / "whole")
  draw = pretrain._batches

  def ended_after_three(*arguments):
    for number, batch in enumerate(draw(*arguments)):
      if number == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(pretrain, "_batches", ended_after_three)
    with pytest.raises(Preempted, match=r"saved update 4 in .*/ended"):
      pretrained(tmp_path / "ended")
  with pytest.raises(SophiaError, match="steps"):
    pretrained(tmp_path / "ended", pretrain.VisionConfig(steps=7, images=2))
  resumed, later = pretrained(tmp_path / "ended")
  assert later == history
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
