"""Adapters in PEFT's format, and weights with adapters added to them.

A directory has adapter_config.json and adapter_model.safetensors, whose tensors
are named by the modules of transformers' model: those of the key table, without
`weight`. lora_A.weight is [r, in] and lora_B.weight [out, r].
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.experimental import multihost_utils

from sophia_jax.checkpoints import keys, shards, staging
from sophia_jax.checkpoints.keys import Kind, Naming, Part, Runs
from sophia_jax.checkpoints.shards import read_json
from sophia_jax.checkpoints.sidecars import write_json
from sophia_jax.checkpoints.writing import Held, Values, write_file
from sophia_jax.models import InternVLConfig, Params, QwenVisionConfig, lora
from sophia_jax.models.lora import Lora
from sophia_jax.types import SophiaError, quoted

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MATRICES = {"a": "lora_A.weight", "b": "lora_B.weight"}
_PLAIN: Mapping[str, tuple[Any, ...]] = {
  "peft_type": ("LORA",),
  "bias": ("none",),
  "use_dora": (False, None),
  "use_rslora": (False, None),
  "fan_in_fan_out": (False, None),
  "modules_to_save": (None, []),
  "rank_pattern": ({}, None),
  "alpha_pattern": ({}, None),
}
"""Settings that change what an adapter is, with the values that are read."""


def _namings(cfg: InternVLConfig) -> tuple[Naming, ...]:
  """Returns the namings of transformers' modules: version 5's, then 4's."""
  if cfg.vision is None:
    return (Naming.TEXT,)
  if isinstance(cfg.vision, QwenVisionConfig):
    return Naming.QWEN_VL_MEMORY, Naming.QWEN_VL
  return Naming.HF_MEMORY, Naming.HF


# ------------------------------------------------------------------------ write
def save(
  adapters: Params,
  how: Lora,
  cfg: InternVLConfig,
  directory: pathlib.Path,
  model: str,
) -> None:
  """Writes adapters as PEFT reads them, whole or not at all.

  With several processes all of them call this, and the first one writes.

  Args:
    model: name or directory of the model they belong to.
  """
  table = _table(cfg, lora.kernels(cfg, how), how.rank, _namings(cfg)[0])
  values = Held(adapters, "float32")
  if jax.process_index() == 0:
    with staging.replacing(directory) as work:
      write_file(work / TENSORS, table, values)
      write_json(work / CONFIG, _config(table, how, model))
  else:  # what the first process writes, all of them gather
    for (part,) in table.values():
      values.fetch(part)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"written {directory}")


def _table(
  cfg: InternVLConfig,
  kernels: Mapping[str, lora.Shape],
  rank: int,
  naming: Naming,
) -> dict[str, tuple[Part, ...]]:
  """Returns all tensors of a directory, in order: key -> its part."""
  found: dict[str, tuple[Part, ...]] = {}
  for key, parts in keys.table(cfg, naming).items():
    part = parts[0]
    if part.param not in kernels:
      continue
    shape = kernels[part.param]
    module = _PREFIX + key.removesuffix("weight")
    at = part.param.removesuffix("kernel")
    for letter, on_disk in (
      ("a", (rank, shape.inputs)),
      ("b", (shape.outputs, rank)),
    ):
      rows = Runs(0, on_disk[0], on_disk[0])
      own = Part(f"{at}{letter}", part.layer, Kind.LINEAR, on_disk, rows)
      found[module + _MATRICES[letter]] = (own,)
  return found


def _config(table: Mapping[str, Any], how: Lora, model: str) -> dict[str, Any]:
  modules = {
    name.removeprefix(_PREFIX).removesuffix(f".{_MATRICES['a']}")
    for name in table
    if name.endswith(_MATRICES["a"])
  }
  # One expression for the whole name: modules of other parts end alike.
  targets = {re.sub(r"\.\d+\.", ".#.", name) for name in modules}
  pattern = "|".join(sorted(map(re.escape, targets)))
  return {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": model,
    "r": how.rank,
    "lora_alpha": how.alpha,
    "lora_dropout": 0.0,
    "target_modules": pattern.replace(re.escape("#"), r"\d+"),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
  }


# ------------------------------------------------------------------------- read
def load(directory: pathlib.Path, how: Lora, cfg: InternVLConfig) -> Params:
  """Reads the adapters `how` of a directory that PEFT, or `save`, has written.

  Returns:
    The tree that `lora.attach` takes, numpy arrays in fp32.

  Raises:
    SophiaError: as `read`, or the directory has other adapters than `how`.
  """
  tree, rank, alpha = read(directory, cfg)
  if (rank, alpha) != (how.rank, how.alpha):
    raise SophiaError(
      f"{directory / CONFIG}: r and lora_alpha are {rank} and {alpha:g}, the "
      f"config has {how.rank} and {how.alpha:g}; set lora_rank and lora_alpha "
      "to the former"
    )
  there = {path for path, _, _ in lora.pairs(tree)}
  wanted = lora.kernels(cfg, how).keys()
  if odd := sorted(there ^ wanted):
    verb = "has" if odd[0] in there else "lacks"
    raise SophiaError(
      f"{directory / TENSORS}: {verb} an adapter of {odd[0]}, unlike the "
      "config; set trained and lora_targets to what was adapted"
    )
  return tree


def read(
  directory: pathlib.Path, cfg: InternVLConfig
) -> tuple[Params, int, float]:
  """Reads every adapter of a directory; also returns rank and alpha.

  Raises:
    SophiaError: a kind of adapter that is not plain LoRA, or a tensor that is
      absent, unknown or of another shape.
  """
  config = directory / CONFIG
  rank, alpha = _plain(read_json(config), config)
  stored = shards.Shards(directory, TENSORS)
  table = max(
    (_table(cfg, lora.every(cfg), rank, n) for n in _namings(cfg)),
    key=lambda table: len(table.keys() & stored.tensors.keys()),
  )
  there = set()
  for name, found in stored.tensors.items():
    if name not in table:
      raise SophiaError(
        f"{found.path}: {name} is no adapter of a linear map of this model"
      )
    there.add(table[name][0].param.rpartition("/")[0])
  layers: dict[str, list[np.ndarray]] = {}
  for name, (part,) in table.items():
    if part.param.rpartition("/")[0] in there:
      x = _tensor(stored, name, part)
      layers.setdefault(part.param, []).append(x)
  stacked = {
    path: np.stack(found) if "/layers/" in path else found[0]
    for path, found in layers.items()
  }
  return unflatten_dict(stacked, sep="/"), rank, float(alpha)


def _plain(found: Mapping[str, Any], config: pathlib.Path) -> tuple[int, float]:
  """Returns rank and alpha of plain LoRA; refuses everything else."""
  for key, known in _PLAIN.items():
    if key in found and found[key] not in known:
      raise SophiaError(
        f"{config}: {key} is {quoted(found[key])}; only plain LoRA is read "
        f"({json.dumps(known[0])})"
      )
  rank, alpha = found.get("r"), found.get("lora_alpha")
  if not isinstance(rank, int) or not isinstance(alpha, int | float):
    raise SophiaError(f"{config}: r or lora_alpha is missing or no number")
  return rank, alpha


def _tensor(stored: shards.Shards, name: str, part: Part) -> np.ndarray:
  found = stored.tensors.get(name)
  if found is None or found.shape != part.shape:
    what = "missing" if found is None else f"{list(found.shape)}"
    raise SophiaError(
      f"{stored.directory / TENSORS}: {name} is {what}, expected shape "
      f"{list(part.shape)}"
    )
  return keys.to_param(stored.read(name), part.kind).astype(np.float32)


class Merged:
  """Values of a checkpoint with the adapters' products added to them."""

  def __init__(self, values: Values, adapters: Params, scale: float) -> None:
    """Takes adapters on the host.

    Args:
      scale: alpha / r.
    """
    self._values, self._scale = values, scale
    self._pairs = {path: (a, b) for path, a, b in lora.pairs(adapters)}

  def dtype(self, part: Part) -> np.dtype:
    return self._values.dtype(part)

  def fetch(self, part: Part) -> np.ndarray:
    """Returns the part in fp32 where it is adapted: rounded once, when written."""
    found = self._values.fetch(part)
    if part.param not in self._pairs:
      return found
    a, b = self._pairs[part.param]
    if part.layer is not None:
      a, b = a[part.layer], b[part.layer]
    add = lora.delta(np.asarray(a), np.asarray(b), self._scale)
    return found.astype(np.float32) + keys.from_param(
      add, part.kind, part.shape
    )
