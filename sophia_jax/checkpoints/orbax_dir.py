"""Parameters in orbax's own files: any mesh restores what any mesh saved."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from sophia_jax.models import Params
from sophia_jax.types import SophiaError

PARAMS = "params"
"""Key of the parameters, here and in the state of a training run."""


def save(params: Params, directory: pathlib.Path) -> None:
  """Writes `params` to a new `directory`.

  Raises:
    OSError: they cannot be written.
  """
  with ocp.PyTreeCheckpointer() as checkpointer:
    try:
      checkpointer.save(directory.absolute(), {PARAMS: params})
    except ValueError as e:  # as tensorstore reports every failure of a file
      raise OSError(str(e).splitlines()[0]) from e


def saved(directory: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shape and dtype of every parameter in it: "a/b/c" -> leaf."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    metadata = checkpointer.metadata(directory.absolute())
  tree = metadata.item_metadata.tree[PARAMS]
  return {
    path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for path, leaf in flatten_dict(tree, sep="/").items()
  }


def restore(
  directory: pathlib.Path, wanted: Params, restore_type: Any = jax.Array
) -> Params:
  """Restores the parameters that `wanted` (shapes, dtypes, shardings) names.

  Raises:
    SophiaError: one that is missing or of another shape.
  """
  there = saved(directory)
  for path, leaf in flatten_dict(wanted, sep="/").items():
    if path not in there:
      raise SophiaError(
        f"{directory}: {path} is missing, expected shape {list(leaf.shape)}"
      )
    if there[path].shape != leaf.shape:
      raise SophiaError(
        f"{directory}: {path} has shape {list(there[path].shape)}, expected "
        f"{list(leaf.shape)}"
      )

  def how(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    if restore_type is np.ndarray:
      return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
    return ocp.ArrayRestoreArgs(dtype=leaf.dtype, sharding=leaf.sharding)

  with ocp.PyTreeCheckpointer() as checkpointer:
    found = checkpointer.restore(
      directory.absolute(),
      args=ocp.args.PyTreeRestore(
        item={PARAMS: wanted},
        restore_args={PARAMS: jax.tree.map(how, wanted)},
        partial_restore=True,
      ),
    )
  return found[PARAMS]
