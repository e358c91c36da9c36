"""One of our checkpoints as SGLang-JAX sees it: config, arrays, vocabulary.

SGLang-JAX is never shown config.json: it would read the base of the rotary
angles, the tied head and the norms by other rules. It gets a Qwen2 config
written from ours, and tensors through our key table.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Bool
from transformers import Qwen2Config

from sophia_jax.checkpoints import load_params, read_config
from sophia_jax.data.chat import Renderer
from sophia_jax.models import InternVLConfig, Params
from sophia_jax.types import SophiaError

POLICY, REASONER = "SophiaPolicy", "SophiaReasoner"
"""Names of the two classes of serving.model in SGLang-JAX."""
ROWS = 128
"""Embeddings are padded to a multiple of this."""


def served_config(directory: str) -> Qwen2Config:
  """Returns the config that SGLang-JAX sizes its layers and its cache by.

  Raises:
    SophiaError: not one of our checkpoints.
  """
  cfg = read_config(directory)
  d = cfg.decoder
  settings: dict[str, Any] = {
    "architectures": [POLICY if cfg.vision else REASONER],
    # Devices share the rows evenly; vocabularies of InternVL divide by nothing.
    "vocab_size": -(-d.vocab // ROWS) * ROWS,
    "known_ids": d.vocab,
    "hidden_size": d.width,
    "intermediate_size": d.mlp,
    "num_hidden_layers": d.depth,
    "num_attention_heads": d.heads,
    "num_key_value_heads": d.kv_heads,
    "head_dim": d.head_dim,
    "rms_norm_eps": d.norm_eps,
    "rope_theta": d.rope_theta,
    "max_position_embeddings": d.max_positions,
    "tie_word_embeddings": d.tied_head,
    "torch_dtype": cfg.dtype,
    "eos_token_id": renderer(directory).end_id,
    "use_sliding_window": False,
    "name_or_path": str(directory),
  }
  if cfg.vision:
    settings["image_token_id"] = cfg.image_token_id
  if d.mrope:
    sections = {"rope_type": "default", "mrope_section": list(d.mrope)}
    settings["rope_scaling"] = sections
  return Qwen2Config(**settings)


def renderer(directory: str) -> Renderer:
  """Returns the checkpoint's vocabulary as every engine uses it."""
  return Renderer(str(directory))


def allowed_ids(directory: str, vocab: int) -> Bool[np.ndarray, "V"]:
  """Returns which ids may be sampled, by the embedded engine's rule."""
  words = renderer(directory)
  allowed = np.ones(vocab, bool)
  allowed[list(words.banned_ids)] = False
  allowed[words.vocab_size :] = False
  return allowed


def described(directory: str, dtype: str) -> InternVLConfig:
  """Returns the model in `directory`, computing and stored in `dtype`."""
  return dataclasses.replace(
    read_config(directory), dtype=dtype, param_dtype=dtype
  )


def read(directory: str, cfg: InternVLConfig) -> Params:
  """Returns the parameters of `directory`, on the host, all of them finite.

  Raises:
    SophiaError: damaged, of another shape than `cfg`, or with NaN in it.
  """
  found = described(directory, cfg.dtype)
  if found != cfg:
    raise SophiaError(
      f"{directory}: another model than the one served: "
      f"{_difference(dataclasses.asdict(found), dataclasses.asdict(cfg))}; "
      "start another server for it"
    )
  params = load_params(directory, cfg)
  for path, leaf in flatten_dict(params, sep="/").items():
    if not np.isfinite(leaf).all():
      raise SophiaError(
        f"{directory}: {path} holds NaN or infinity; export another step"
      )
  return params


def _difference(found: dict[str, Any], served: dict[str, Any]) -> str:
  """Returns the first setting in which two models differ."""
  flat = [flatten_dict(values, sep=".") for values in (found, served)]
  for key in sorted(flat[0].keys() | flat[1].keys()):
    there, here = (values.get(key) for values in flat)
    if there != here:
      return f"{key} is {there}, not {here}"
  raise AssertionError("they are the same")


def is_ours(directory: str) -> bool:
  """Tells whether one of our classes serves the checkpoint.

  A text model that ours cannot express is left to SGLang-JAX's own classes; one
  that sees images never is: SGLang-JAX has no InternVL, and takes a Qwen2.5-VL's
  images as text alone.
  """
  path = pathlib.Path(directory) / "config.json"
  if not path.is_file():
    return False
  kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
  if kind in ("internvl", "internvl_chat", "qwen2_5_vl"):
    return True
  if kind not in ("qwen2", "qwen3", "llama"):
    return False
  try:
    read_config(directory)
  except SophiaError:
    return False
  return True
