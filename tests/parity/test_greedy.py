"""The embedded engine's greedy answers against transformers'."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from sophia_jax.data.images import TileCache
from sophia_jax.models import InternVL
from tests.parity import tiny
from tests.rollout import little
from tests.servers import served

NEW = 12


@pytest.mark.parametrize(("vision", "tied"), [("300m", False), ("", True)])
def test_greedy_tokens_of_qwen3(vision, tied, tmp_path):
  made = served.make(tmp_path, vision=vision, llm="qwen3", head_dim=16)
  cfg = made.module.cfg
  cfg = dataclasses.replace(
    cfg, decoder=dataclasses.replace(cfg.decoder, tied_head=tied)
  )
  made = dataclasses.replace(made, module=InternVL(cfg))
  auto = AutoModelForImageTextToText if vision else AutoModelForCausalLM
  model = auto.from_pretrained(made.save("hf"), dtype=torch.float32).eval()
  images = little.pictures(tmp_path) if vision else []
  prompts = [
    made.prompt("What do you see"),
    made.prompt("red ink on paper", images[:1]),
    made.prompt("red ink", images),
  ]
  never = [*made.words.banned_ids]
  never += range(made.words.vocab_size, cfg.decoder.vocab)
  for prompt, found in zip(prompts, made.embedded(prompts, new=NEW)):
    assert found.token_ids == greedy(model, made, prompt, never)


@torch.no_grad()
def greedy(model, made, prompt, never) -> tuple[int, ...]:
  """Decodes without a cache, a whole forward pass a token."""
  cut = TileCache(little.IMAGES)
  tiles = [cut(*shown) for shown in zip(prompt.images, prompt.tiles)]
  shown = {"pixel_values": tiny.pixels(np.concatenate(tiles))} if tiles else {}
  out: list[int] = []
  while len(out) < NEW and made.words.end_id not in out:
    ids = torch.tensor([prompt.token_ids.tolist() + out])
    logits = model(input_ids=ids, **shown).logits[0, -1]
    logits[never] = -torch.inf
    out.append(int(logits.argmax()))
  return tuple(out)
