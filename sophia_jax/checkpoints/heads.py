"""Heads beside the vocabulary, which no checkpoint format of a model knows.

heads.safetensors beside a stage's export has NAME.weight [C, D] and NAME.bias [C]
of each, as transformers stores a linear layer.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import numpy as safetensors

from sophia_jax import files
from sophia_jax.checkpoints.shards import Shards
from sophia_jax.models import Params
from sophia_jax.types import SophiaError

FILE = "heads.safetensors"


def save(heads: Params, directory: pathlib.Path) -> None:
  """Writes heads, whole or not at all; with several processes the first writes.

  Args:
    heads: {"object": {"kernel": [D, C], "bias": [C]}, ...}, on any mesh.
  """
  host = jax.tree.map(_whole, heads)
  tensors = {}
  for (name, part), x in flatten_dict(host).items():
    of = {"kernel": "weight", "bias": "bias"}[part]
    tensors[f"{name}.{of}"] = np.ascontiguousarray(x.T, np.float32)
  if jax.process_index() == 0:
    directory.mkdir(parents=True, exist_ok=True)
    files.write_bytes(directory / FILE, safetensors.save(tensors))


def _whole(x: jax.Array) -> np.ndarray:
  """Returns a small array that may lie on the devices of several processes."""
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return np.asarray(x)
  mesh = x.sharding.mesh  # type: ignore[attr-defined]
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(x))


def load(
  directory: pathlib.Path, width: int, channels: Mapping[str, int]
) -> Params:
  """Reads heads as `save` took them, numpy arrays in fp32.

  Args:
    width: D of the model's hidden states.
    channels: C of each head that is wanted.

  Raises:
    SophiaError: the file is not there or damaged, or a head is missing, of
      another shape or not finite.
  """
  stored = Shards(directory, FILE)
  path = directory / FILE

  def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = stored.tensors.get(name)
    if found is None or found.shape != shape:
      what = "missing" if found is None else f"{list(found.shape)}"
      raise SophiaError(
        f"{path}: {name} is {what}, expected shape {list(shape)}; train the "
        "stage's model again, with all heads that are read"
      )
    x = stored.read(name).astype(np.float32)
    if not np.isfinite(x).all():
      raise SophiaError(
        f"{path}: {name} is not finite; train the stage's model again, at a "
        "lower learning rate"
      )
    return x

  return {
    name: {
      "kernel": read(f"{name}.weight", (count, width)).T,
      "bias": read(f"{name}.bias", (count,)),
    }
    for name, count in channels.items()
  }
