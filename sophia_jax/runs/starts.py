"""Text-only models of random weights, for a stage to teach."""

from __future__ import annotations

from collections.abc import Iterable

import jax

from sophia_jax.checkpoints.directories import save_params
from sophia_jax.digits import tokenizer
from sophia_jax.models import DecoderConfig, InternVLConfig, init_params
from sophia_jax.runs.run import Run


def save_text_only(
  run: Run, texts: Iterable[str], words: str, key: jax.Array, path: str
) -> None:
  """Saves a tokenizer of the texts, and a model of random weights for it.

  Args:
    words: folder of the tokenizer in W/models.
    path: folder of the model in W.
  """
  place = run.workdir / "models" / words
  made = tokenizer.build(texts, vision=False)
  tokenizer.save(made, place)
  cfg = InternVLConfig(
    decoder=DecoderConfig(
      vocab=len(made), **run.config.prepare.decoder.to_dict()
    ),
    dtype=run.config.policy.dtype,
  )
  save_params(init_params(cfg, key), cfg, run.workdir / path, place)
