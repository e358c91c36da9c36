"""Checkpoints of any origin, opened: their config and their tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from sophia_jax.checkpoints import adapters, manifest, orbax_dir, read_config
from sophia_jax.checkpoints.adapters import Merged
from sophia_jax.checkpoints.config import CONFIG
from sophia_jax.checkpoints.directories import open_values
from sophia_jax.checkpoints.keys import Part
from sophia_jax.checkpoints.writing import Held, Values
from sophia_jax.files import read_json
from sophia_jax.models import (
  DecoderConfig,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
  lora,
)
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import UPDATES, Run
from sophia_jax.train.checkpoint import STATE, newest_step, read_identity
from sophia_jax.types import SophiaError


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An opened checkpoint."""

  cfg: InternVLConfig
  values: Values
  directory: Path
  """Has the tokenizer and whatever else belongs to the model."""


class Joined:
  """Trained parts of a model, and the frozen rest from where it started."""

  def __init__(
    self, trained: Values, parts: frozenset[str], rest: Values
  ) -> None:
    self._trained, self._parts, self._rest = trained, parts, rest

  def _of(self, part: Part) -> Values:
    top = part.param.partition("/")[0]
    return self._trained if top in self._parts else self._rest

  def dtype(self, part: Part) -> np.dtype:
    return self._of(part).dtype(part)

  def fetch(self, part: Part) -> np.ndarray:
    return self._of(part).fetch(part)


def open_checkpoint(
  src: Path, base: Path | None, dtype: str | None
) -> Checkpoint:
  """Opens a checkpoint directory, or what training saved.

  Args:
    base: the directory that training started from; None: as the run's config
      says.
    dtype: what tensors are converted to; None keeps their own.

  Raises:
    SophiaError: neither of the two, or one that is damaged.
  """
  step = _step(src)
  if step is None:
    cfg = read_config(src)
    return Checkpoint(cfg, open_values(src, cfg, dtype), src)
  base = base or _base(step)
  cfg = _trained_config(step)
  saved = orbax_dir.saved(step / STATE)
  params = orbax_dir.restore(
    step / STATE, unflatten_dict(saved, sep="/"), np.ndarray
  )
  rest = read_config(base)
  _same_shapes(cfg, rest, step, base)
  low_rank = params.pop(lora.PART, None)
  values: Values = Joined(
    Held(params, dtype), frozenset(params), open_values(base, rest, dtype)
  )
  if low_rank is not None:
    values = Merged(values, low_rank, _scale(step))
  return Checkpoint(cfg, values, base)


def with_adapter(checkpoint: Checkpoint, directory: Path) -> Checkpoint:
  """Returns a checkpoint with the adapters of a PEFT directory merged.

  Raises:
    SophiaError: adapters of another model, or of another kind.
  """
  tree, rank, alpha = adapters.read(directory, checkpoint.cfg)
  values = Merged(checkpoint.values, tree, alpha / rank)
  return dataclasses.replace(checkpoint, values=values)


def _scale(step: Path) -> float:
  """Returns alpha / r of the adapters that a step holds."""
  train = read_identity(step)["train"]
  return train["lora_alpha"] / train["lora_rank"]


def _step(src: Path) -> Path | None:
  """Returns the training checkpoint that `src` means; None if it means none.

  Raises:
    SophiaError: training has saved nothing that is whole.
  """
  if (src / STATE).is_dir():
    if why := manifest.damage(src, whole=True):
      raise SophiaError(f"{src}: damaged ({why}); take another checkpoint")
    return src
  for directory in (src, src / "checkpoints"):
    if directory.name == "checkpoints" and directory.is_dir():
      if step := newest_step(directory, whole=True):
        return step
      raise SophiaError(f"{directory}: no checkpoint that is whole")
  return None


def _base(step: Path) -> Path:
  """Returns the checkpoint that the stage started from which saved `step`."""
  directory = step.parents[1]
  update = directory.name if directory.parent.name == UPDATES else ""
  for own in (directory, directory.parent):
    if (own / CONFIG).is_file():
      values = read_json(own / CONFIG, "give --base, where it started from")
      workdir = directory.parents[1] if update else own
      run = Run(ConfigDict(values), str(workdir), name=update)
      for name in run.config.get("order", ()):
        if run.directory(name) == directory:
          return run.start(stages.read(run.config, name))
  raise SophiaError(
    f"{step}: holds what was trained; give --base, the directory that "
    "training started from"
  )


def _trained_config(step: Path) -> InternVLConfig:
  """Returns the config of the model that a checkpoint was saved of."""
  model: dict[str, Any] = dict(read_identity(step)["model"])
  try:
    decoder = DecoderConfig(**_hashable(model.pop("decoder")))
    vision = model.pop("vision")
    kind = QwenVisionConfig if vision and "window" in vision else VisionConfig
    return InternVLConfig(
      decoder=decoder, vision=vision and kind(**_hashable(vision)), **model
    )
  except TypeError as e:
    raise SophiaError(
      f"{step}: saved by another version of this program ({e})"
    ) from e


def _hashable(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Returns settings as they were before JSON made lists of their tuples."""
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in settings.items()
  }


def _same_shapes(
  cfg: InternVLConfig, rest: InternVLConfig, step: Path, base: Path
) -> None:
  if (cfg.decoder, cfg.vision) != (rest.decoder, rest.vision):
    raise SophiaError(f"--base: {base} is another model than {step}")
