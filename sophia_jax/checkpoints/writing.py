"""Writes parameters as safetensors, a few megabytes at a time.

A file's header is known before its tensors are: each part of a tensor is put in
the order and dtype of the disk by one of a few threads and written to its place.
A parameter that is spread over devices, or over hosts, is gathered one layer at a
time, while the layer before is being written.
"""

from __future__ import annotations

import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array

from sophia_jax import stopping
from sophia_jax.checkpoints import blocked, keys
from sophia_jax.checkpoints.keys import Part
from sophia_jax.checkpoints.shards import DTYPES, INDEX, SINGLE
from sophia_jax.checkpoints.sidecars import write_json
from sophia_jax.models import Params
from sophia_jax.progress import Progress

SHARD_BYTES = 1 << 30
"""Largest file, unless one tensor is larger."""
PIECE_BYTES = 2 << 20
"""Bytes that a thread converts and writes at a time."""
THREADS = min(8, os.cpu_count() or 1)
_AHEAD_BYTES = 256 << 20
"""Parts that are gathered while earlier ones are being written."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Table = Mapping[str, tuple[Part, ...]]


class Values(Protocol):
  """A source of parts of tensors."""

  def dtype(self, part: Part) -> np.dtype:
    """Returns the dtype that the part has on disk."""
    ...

  def fetch(self, part: Part) -> np.ndarray:
    """Returns the part on the host, in its shape on disk.

    Its memory order and dtype may be others; see `copied`.
    """
    ...


def copied(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Returns `x` in row-major order and `dtype`; itself if it is so already."""
  if x.flags.c_contiguous and x.dtype == dtype:
    return x
  out = np.empty(x.shape, dtype)
  blocked.copy(out, x)
  return out


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
    x = self._params[part.param]
    if isinstance(x, np.ndarray) or _is_here(x):
      layer = np.asarray(x)
      layer = layer if part.layer is None else layer[part.layer]
    else:
      gather = _gather(_everywhere(x.sharding))
      layer = np.asarray(gather(x, part.layer, self.dtype(part)))
    return keys.from_param(layer, part.kind, part.shape)


def _is_here(x: Array) -> bool:
  """Tells whether `x` lies whole in host memory, on one CPU device."""
  devices = list(x.devices())
  return len(devices) == 1 and devices[0].platform == "cpu"


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
  """Returns the bytes of every tensor."""
  return {
    name: math.prod(keys.tensor_shape(parts)) * values.dtype(parts[0]).itemsize
    for name, parts in table.items()
  }


def write_tensors(work: pathlib.Path, table: Table, values: Values) -> None:
  """Writes every tensor of `table` into `work`, with an index if need be.

  Raises:
    Preempted: SIGTERM arrived.
  """
  sizes = tensor_bytes(table, values)
  groups = list(_group(sizes))
  weight_map: dict[str, str] = {}
  done, start = 0, time.monotonic()
  with (
    Progress("writing", len(table), "tensor") as progress,
    ThreadPoolExecutor(THREADS, "write") as pool,
  ):
    for n, group in enumerate(groups, 1):
      file = SINGLE
      if len(groups) > 1:
        file = f"model-{n:05d}-of-{len(groups):05d}.safetensors"
      of_file = {name: table[name] for name in group}
      for name in _write_file(work / file, of_file, values, pool):
        done += sizes[name]
        stopping.check("nothing is exported; the same command does it again")
        rate = done / 1e9 / max(time.monotonic() - start, 1e-9)
        progress.advance(1, **{"GB/s": rate})
      weight_map |= dict.fromkeys(group, file)
  if len(groups) > 1:
    total = {"total_size": sum(sizes.values())}
    write_json(work / INDEX, {"metadata": total, "weight_map": weight_map})


def write_file(path: pathlib.Path, table: Table, values: Values) -> None:
  """Writes every tensor of `table` into one file."""
  with ThreadPoolExecutor(THREADS, "write") as pool:
    for _ in _write_file(path, table, values, pool):
      pass


class _Piece(NamedTuple):
  """Rows of a part on their way to the file."""

  part: Part
  rows: slice
  data: np.ndarray
  dtype: np.dtype
  start: int
  """Offset of the tensor in the file."""


def _write_file(
  path: pathlib.Path, table: Table, values: Values, pool: ThreadPoolExecutor
) -> Iterator[str]:
  """Writes one file; yields the name of each tensor whose parts are gathered.

  The bytes are those of `safetensors.numpy.save_file`.
  """
  header, starts = _header(table, values)
  file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    _write(file, memoryview(header), 0)
    ahead, writing = 0, list[Future[None]]()
    for name, parts in table.items():
      for part in parts:
        data = values.fetch(part)
        if ahead and ahead + data.nbytes > _AHEAD_BYTES:
          _finish(writing)
          ahead = 0
        ahead += data.nbytes
        dtype, start = values.dtype(part), starts[name]
        writing += [
          pool.submit(
            _write_piece, file, _Piece(part, rows, data, dtype, start)
          )
          for rows in _rows(data)
        ]
      yield name
    _finish(writing)
  finally:
    wait(writing)
    os.close(file)


def _finish(writing: list[Future[None]]) -> None:
  """Waits for what is being written; raises the first error."""
  for future in writing:
    future.result()
  writing.clear()


def _header(table: Table, values: Values) -> tuple[bytes, dict[str, int]]:
  """Returns the first bytes of a file, and where in it each tensor starts."""
  dtypes = {name: values.dtype(parts[0]) for name, parts in table.items()}
  # Larger numbers first, so that each tensor is aligned to its numbers.
  order = sorted(table, key=lambda name: (_rank(dtypes[name]), name))
  described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  at, starts = 0, dict[str, int]()
  for name in order:
    shape = keys.tensor_shape(table[name])
    end = at + math.prod(shape) * dtypes[name].itemsize
    described[name] = {
      "dtype": _NAMES[dtypes[name]],
      "shape": list(shape),
      "data_offsets": [at, end],
    }
    starts[name], at = at, end
  text = json.dumps(described, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  header = len(text).to_bytes(8, "little") + text
  return header, {name: len(header) + start for name, start in starts.items()}


def _rank(dtype: np.dtype) -> int:
  """Returns the place of a dtype in the order of safetensors' own files."""
  return list(DTYPES).index(_NAMES[dtype])


def _rows(data: np.ndarray) -> Iterator[slice]:
  """Yields ranges of rows of at most PIECE_BYTES."""
  step = max(1, PIECE_BYTES * len(data) // max(1, data.nbytes))
  for start in range(0, len(data), step):
    yield slice(start, min(start + step, len(data)))


def _write_piece(file: int, piece: _Piece) -> None:
  data = copied(piece.data[piece.rows], piece.dtype)
  shape = piece.part.shape
  row = math.prod(shape[1:]) * piece.dtype.itemsize
  left = memoryview(data.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
  runs = piece.part.runs.between(piece.rows.start, piece.rows.stop)
  for first, count in runs:
    _write(file, left[: count * row], piece.start + first * row)
    left = left[count * row :]


def _write(file: int, data: memoryview, at: int) -> None:
  while data:
    count = os.pwrite(file, data, at)
    data, at = data[count:], at + count


def _group(sizes: dict[str, int]) -> Iterator[list[str]]:
  """Yields tensor names in order, cut into files of at most SHARD_BYTES."""
  group: list[str] = []
  room = SHARD_BYTES
  for name, size in sizes.items():
    if group and size > room:
      yield group
      group, room = [], SHARD_BYTES
    group.append(name)
    room -= size
  yield group
