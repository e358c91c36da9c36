"""From parameters to safetensors, one file at a time.

A parameter that is spread over devices, or over hosts, is gathered one layer at
a time; the host holds the tensors of one file.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array
from safetensors.numpy import save_file

from sophia_jax.checkpoints import keys
from sophia_jax.checkpoints.keys import Part
from sophia_jax.checkpoints.shards import INDEX, SINGLE
from sophia_jax.checkpoints.sidecars import write_json
from sophia_jax.models import Params
from sophia_jax.progress import Progress

SHARD_BYTES = 1 << 30
"""Of a file, unless one tensor is larger."""

Table = Mapping[str, tuple[Part, ...]]


class Values(Protocol):
  """Where the parts of tensors come from."""

  def dtype(self, part: Part) -> np.dtype:
    """Of what `fetch` returns."""
    ...

  def fetch(self, part: Part) -> np.ndarray:
    """The part as it is on disk, on the host."""
    ...


class Held:
  """Parts of `params`, in `dtype` or each in its own.

  With several processes all of them must fetch the same parts in one order.
  """

  def __init__(self, params: Params, dtype: str | None) -> None:
    self._params = flatten_dict(params, sep="/")
    self._dtype = dtype

  def dtype(self, part: Part) -> np.dtype:
    return jnp.dtype(self._dtype or self._params[part.param].dtype)

  def fetch(self, part: Part) -> np.ndarray:
    x, to = self._params[part.param], self.dtype(part)
    if isinstance(x, np.ndarray):
      layer = x if part.layer is None else x[part.layer]
    else:
      gather = _gather(_everywhere(x.sharding))
      layer = np.asarray(gather(x, part.layer, to))
    whole = keys.from_param(layer, part.kind, part.shape)
    return np.ascontiguousarray(whole, to)


def _everywhere(sharding: Sharding) -> Sharding:
  if isinstance(sharding, NamedSharding):
    return NamedSharding(sharding.mesh, PartitionSpec())
  return sharding


@functools.cache
def _gather(sharding: Sharding) -> Callable[..., Array]:
  return jax.jit(_layer, static_argnums=2, out_shardings=sharding)


def _layer(x: Array, layer: Array | None, dtype: Any) -> Array:
  if layer is not None:
    x = jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False)
  return x.astype(dtype)


def tensor_bytes(table: Table, values: Values) -> dict[str, int]:
  return {
    name: int(np.prod(keys.tensor_shape(parts)))
    * values.dtype(parts[0]).itemsize
    for name, parts in table.items()
  }


def write_tensors(work: pathlib.Path, table: Table, values: Values) -> None:
  """Writes every tensor of `table` into `work`, with an index if need be."""
  sizes = tensor_bytes(table, values)
  groups = list(_group(sizes))
  weight_map: dict[str, str] = {}
  done, start = 0, time.monotonic()
  with Progress("writing", len(table), "tensor") as progress:
    for n, group in enumerate(groups, 1):
      file = SINGLE
      if len(groups) > 1:
        file = f"model-{n:05d}-of-{len(groups):05d}.safetensors"
      _write_file(work / file, {name: table[name] for name in group}, values)
      weight_map |= dict.fromkeys(group, file)
      done += sum(sizes[name] for name in group)
      rate = done / 1e9 / max(time.monotonic() - start, 1e-9)
      progress.advance(len(group), **{"GB/s": rate})
  if len(groups) > 1:
    total = {"total_size": sum(sizes.values())}
    write_json(work / INDEX, {"metadata": total, "weight_map": weight_map})


def _write_file(path: pathlib.Path, table: Table, values: Values) -> None:
  shard = {
    name: keys.fuse([values.fetch(part) for part in parts], parts)
    for name, parts in table.items()
  }
  save_file(shard, path, metadata={"format": "pt"})


def _group(sizes: dict[str, int]) -> Iterator[list[str]]:
  """Tensor names in order, cut into files of at most SHARD_BYTES."""
  group: list[str] = []
  room = SHARD_BYTES
  for name, size in sizes.items():
    if group and size > room:
      yield group
      group, room = [], SHARD_BYTES
    group.append(name)
    room -= size
  yield group
