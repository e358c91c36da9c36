"""Checkpoint directories of every format, to parameters and back.

Pickles are never read.
"""

from __future__ import annotations

import collections
import itertools
import pathlib
from dataclasses import replace

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.experimental import multihost_utils

from sophia_jax.checkpoints import (
  keys,
  manifest,
  orbax_dir,
  sidecars,
  staging,
)
from sophia_jax.checkpoints.config import CONFIG, is_orbax
from sophia_jax.checkpoints.config_writer import (
  Format,
  naming_of,
  words_of,
  write_config,
)
from sophia_jax.checkpoints.reading import (
  OnDisk,
  Reader,
  read_params,
  read_sharded,
)
from sophia_jax.checkpoints.shards import Shards
from sophia_jax.checkpoints.tiling import read_tiling
from sophia_jax.checkpoints.writing import (
  Held,
  Table,
  Values,
  copied,
  tensor_bytes,
  write_tensors,
)
from sophia_jax.models import (
  InternVLConfig,
  Params,
  QwenVisionConfig,
  abstract_params,
)
from sophia_jax.progress import Progress
from sophia_jax.types import SophiaError

Where = str | pathlib.Path


# ------------------------------------------------------------------------- read
def load_params(directory: Where, cfg: InternVLConfig) -> Params:
  """Reads the parameters of a checkpoint of any format, in `param_dtype`.

  Returns:
    The tree that `InternVL(cfg)` takes, as numpy arrays on the host.

  Raises:
    SophiaError: a tensor that is missing, unknown or of another shape, or a
      file that is absent or damaged; names the tensor and the file.
  """
  directory = pathlib.Path(directory)
  if is_orbax(directory):
    return _restore(directory, abstract_params(cfg), np.ndarray)
  reader = Reader(Shards(directory), cfg)
  _check_whole(directory)
  return read_params(reader, cfg)


def load_sharded(
  directory: Where, cfg: InternVLConfig, shardings: Params
) -> Params:
  """Reads parameters straight onto devices.

  A process reads only what its devices hold, and its host holds no more than
  some pieces of a tensor at any time. Call it outside of `jax.set_mesh`.

  Args:
    shardings: sharding of every parameter (`train.sharding.param_shardings`),
      or of those that are wanted.
  """
  directory = pathlib.Path(directory)
  if not is_orbax(directory):
    reader = Reader(Shards(directory), cfg)
    _check_whole(directory)
    return read_sharded(reader, cfg, shardings)
  shapes = abstract_params(cfg)
  wanted = {
    part: jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      shapes[part],
      of_part,
    )
    for part, of_part in shardings.items()
  }
  return _restore(directory, wanted, jax.Array)


def _restore(directory: pathlib.Path, wanted: Params, kind: type) -> Params:
  path = directory / orbax_dir.PARAMS
  _check_whole(path)
  return orbax_dir.restore(path, wanted, kind)


def _check_whole(directory: pathlib.Path) -> None:
  """Compares tensors that were written here with their seal.

  Several processes share the reading.

  Raises:
    SophiaError: a file is not what was written.
  """
  share = jax.process_index(), jax.process_count()
  if why := manifest.damage(directory, whole=True, share=share):
    raise SophiaError(
      f"{directory}: damaged ({why}); make it again, or remove "
      f"{manifest.NAME} there if this change is meant"
    )


def open_values(
  directory: Where, cfg: InternVLConfig, dtype: str | None
) -> Values:
  """Opens the tensors of a directory, one at a time where possible.

  Args:
    dtype: dtype they are converted to; None keeps their own.
  """
  directory = pathlib.Path(directory)
  if is_orbax(directory):
    there = orbax_dir.saved(directory / orbax_dir.PARAMS)
    own = unflatten_dict(there, sep="/")
    return Held(_restore(directory, own, np.ndarray), dtype)
  reader = Reader(Shards(directory), cfg)
  _check_whole(directory)
  return OnDisk(reader, dtype)


def difference(a: Values, b: Values, cfg: InternVLConfig) -> str | None:
  """Returns the first tensor whose bits differ; None if there is none."""
  table = _table(cfg, Format.HF)
  with Progress("comparing", len(table), "tensor") as progress:
    for name, parts in table.items():
      for part in parts:
        x, y = (copied(v.fetch(part), v.dtype(part)) for v in (a, b))
        if x.dtype != y.dtype:
          return f"{name} is {y.dtype}, should be {x.dtype}"
        if not np.array_equal(x.view(np.uint8), y.view(np.uint8)):
          return f"{name} differs from its source"
      progress.advance()
  return None


# ------------------------------------------------------------------------ write
def save_params(
  params: Params,
  cfg: InternVLConfig,
  directory: Where,
  tokenizer_dir: Where | None = None,
  dtype: str | None = None,
  format: Format = Format.HF,
  system: str | None = None,
) -> None:
  """Writes a checkpoint directory with everything needed to use it.

  It appears complete or not at all; an older one is replaced. With several
  processes all of them call this, and the first one writes.

  Args:
    params: parameters on the host or on devices, in any layout.
    tokenizer_dir: the directory the model came from: tokenizer files, and for
      internvl_chat also remote code and settings, are copied from there.
    dtype: dtype of the tensors written; None keeps each parameter's own.
    system: default system prompt of the chat template; None: as it was.

  Raises:
    SophiaError: a model that the format cannot express, no tokenizer in
      `tokenizer_dir`, or a directory that cannot be written.
  """
  if format is Format.ORBAX and jax.process_count() > 1:
    raise SophiaError(f"{directory}: orbax is for one process; choose hf")
  values = Held(params, dtype)
  if jax.process_index() == 0:
    with staging.replacing(directory) as work:
      write_directory(values, cfg, work, tokenizer_dir, format, system)
  else:  # what the first process writes, all of them gather
    for part in itertools.chain.from_iterable(_table(cfg, format).values()):
      values.fetch(part)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"written {directory}")


def write_directory(
  values: Values,
  cfg: InternVLConfig,
  work: pathlib.Path,
  tokenizer_dir: Where | None,
  format: Format,
  system: str | None = None,
) -> None:
  """Fills the empty directory `work`; the values may be anywhere."""
  table = _table(cfg, format)
  dtype = str(values.dtype(next(iter(table.values()))[0]))
  staging.check_room(work, sum(tensor_bytes(table, values).values()))
  _write_sidecars(cfg, work, tokenizer_dir, dtype, format, system)
  if format is Format.ORBAX:
    params = work / orbax_dir.PARAMS
    orbax_dir.save(_collect(values, table), params)
    manifest.seal(params)
  else:
    write_tensors(work, table, values)
    # The other files are the user's to edit.
    manifest.seal(work, "*.safetensors")


def _collect(values: Values, table: Table) -> Params:
  """Collects the parameters on the host."""
  parts = list(itertools.chain.from_iterable(table.values()))
  depth = collections.Counter(part.param for part in parts)
  params: dict[str, np.ndarray] = {}
  for part in parts:
    param = keys.to_param(values.fetch(part), part.kind)
    param = param.astype(values.dtype(part), copy=False)
    if part.layer is None:
      params[part.param] = np.ascontiguousarray(param)
      continue
    if part.param not in params:
      shape = (depth[part.param], *param.shape)
      params[part.param] = np.empty(shape, param.dtype)
    params[part.param][part.layer] = param
  return unflatten_dict(params, sep="/")


def _table(cfg: InternVLConfig, format: Format) -> Table:
  """Returns the tensors that are written: key -> parts."""
  naming = naming_of(cfg, format)
  if format is not Format.INTERNVL_CHAT or not cfg.decoder.tied_head:
    return keys.table(cfg, naming)
  # The original format always has a separate head: the embedding again, which
  # lies on disk as a head does.
  untied = replace(cfg, decoder=replace(cfg.decoder, tied_head=False))
  table = keys.table(untied, naming)
  (embedding,) = (
    parts for parts in table.values() if parts[0].param == "language/embedding"
  )
  return {
    name: embedding if parts[0].param == "language/head" else parts
    for name, parts in table.items()
  }


def _write_sidecars(
  cfg: InternVLConfig,
  work: pathlib.Path,
  tokenizer_dir: Where | None,
  dtype: str,
  format: Format,
  system: str | None,
) -> None:
  """Writes every file of a checkpoint except the tensors.

  Raises:
    SophiaError: a model that the format cannot express, or a tokenizer that
      is not this model's.
  """
  source = None if tokenizer_dir is None else pathlib.Path(tokenizer_dir)
  special: dict[str, int] = {}
  if source is not None:
    sidecars.copy_tokenizer(source, work)
    sidecars.check_ids(cfg, work)
    special = sidecars.special_ids(work, chat=cfg.vision is not None)
  known = sidecars.source_config(source)
  qwen = isinstance(cfg.vision, QwenVisionConfig)
  tiling = read_tiling(None if qwen else source)
  words = words_of(cfg, format, known)
  config = write_config(cfg, dtype, special, words, known, tiling)
  if format is Format.ORBAX:  # its parameters are tied as the model is
    config["tie_word_embeddings"] = cfg.decoder.tied_head
  sidecars.write_json(work / CONFIG, config)
  sidecars.write_generation(work, special)
  if isinstance(cfg.vision, QwenVisionConfig):
    sidecars.write_qwen_processor(cfg.vision, source, work, system)
  elif cfg.vision is not None:
    sidecars.write_processor(cfg, work, words, tiling, system)
  if source is not None and "auto_map" in config:
    sidecars.copy_code(source, work)
