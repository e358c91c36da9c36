"""Reads parameters from safetensors, a few megabytes at a time.

Only the wanted region of a parameter is read, in pieces of at most `PIECE_BYTES`
by a few threads. A parameter is assembled where it will lie: in host memory,
which a CPU device shares, or piece by piece in the memory of an accelerator.
"""

from __future__ import annotations

import collections
import functools
import logging
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from sophia_jax.checkpoints import blocked, keys
from sophia_jax.checkpoints.keys import Kind, Part
from sophia_jax.checkpoints.shards import DTYPES, Shards
from sophia_jax.models import InternVLConfig, Params, abstract_params
from sophia_jax.progress import Progress
from sophia_jax.types import SophiaError

_log = logging.getLogger(__name__)

PIECE_BYTES = 2 << 20
THREADS = min(8, os.cpu_count() or 1)
EXPONENTS = {
  "F64": 0x7FF << 52,
  "F32": 0xFF << 23,
  "F16": 0x1F << 10,
  "BF16": 0xFF << 7,
}
"""The bits that are all set in a NaN or an infinity, and in nothing else."""
Region = tuple[slice, ...]


class Source(NamedTuple):
  """One layer of a parameter: the tensor that holds it, and where in it."""

  name: str
  part: Part


def _turned(read: Callable[[], np.ndarray]) -> np.ndarray:
  return read().T


class Piece(NamedTuple):
  """A block of a parameter that is still on disk."""

  start: tuple[int, ...]
  """Its place in the region that was asked for."""
  read: Callable[[], np.ndarray]
  """Returns the block; any memory order."""


class Reader:
  """A checkpoint whose every tensor is known to fit the model.

  Raises:
    SophiaError: a tensor that is missing, unknown, of another shape or not of
      floating point; names the tensor, the file and what was expected.
  """

  def __init__(self, shards: Shards, cfg: InternVLConfig) -> None:
    self.shards = shards
    self.bytes = 0
    """Read so far."""
    self.broken: set[str] = set()
    """Tensors in which a NaN or an infinity was met."""
    self._counting = threading.Lock()
    naming = keys.detect(shards.tensors)
    table = keys.table(cfg, naming)
    for name, stored in shards.tensors.items():
      if name not in table and not keys.ignored(name):
        raise SophiaError(
          f"{stored.path}: {name} is not a tensor of this {naming.value} model"
        )
    self.sources: dict[str, list[Source]] = {}
    """Layer by layer, of every parameter."""
    for name, parts in table.items():
      _check(shards, name, keys.tensor_shape(parts))
      for part in parts:
        self.sources.setdefault(part.param, []).append(Source(name, part))

  def pieces(self, source: Source, region: Region) -> Iterator[Piece]:
    """Yields what makes up `region` of one layer's parameter."""
    part = source.part
    if part.kind is Kind.LINEAR:
      columns, rows = region
      for at, read in self._rows(source, rows, columns):
        yield Piece((0, at), functools.partial(_turned, read))
    elif part.kind is Kind.SAME:
      rows, *rest = region
      for at, read in self._rows(source, rows, *rest):
        yield Piece((at, *(0 for _ in rest)), read)
    elif part.kind in (Kind.PATCH, Kind.FRAMES):
      columns, rows = region
      yield Piece(
        (0, 0),
        lambda: keys.to_param(self._read(source.name, rows), part.kind)[
          columns
        ],
      )
    else:
      yield Piece(
        (0,) * len(region),
        lambda: self._read(source.name, slice(0, 1), *region)[0],
      )

  def whole(self, source: Source) -> np.ndarray:
    """Returns all of a part, as it is on disk."""
    return self._run(source, slice(0, source.part.shape[0]))

  def _rows(
    self, source: Source, rows: slice, *rest: slice
  ) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Yields rows of a part as they are on disk, with their place in `rows`."""
    stored = self.shards.tensors[source.name]
    # Whole rows are counted: a file is mapped page by page.
    row_bytes = DTYPES[stored.dtype].itemsize * math.prod(stored.shape[1:])
    step = max(1, PIECE_BYTES // row_bytes)
    for start in range(rows.start, rows.stop, step):
      stop = min(start + step, rows.stop)
      read = functools.partial(self._run, source, slice(start, stop), *rest)
      yield start - rows.start, read

  def _run(self, source: Source, rows: slice, *rest: slice) -> np.ndarray:
    found = [
      self._read(source.name, slice(first, first + count), *rest)
      for first, count in source.part.runs.between(rows.start, rows.stop)
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)

  def _read(self, name: str, *region: slice) -> np.ndarray:
    data = self.shards.read(name, *region)
    with self._counting:
      self.bytes += data.nbytes
    if not _finite(data, EXPONENTS[self.shards.tensors[name].dtype]):
      self.broken.add(name)
    # There is no fp64 on the devices.
    return data.astype(np.float32) if data.dtype == np.float64 else data

  def warn(self) -> None:
    """Names the tensors that no finite result can come of."""
    for name in sorted(self.broken):
      path = self.shards.tensors[name].path
      _log.warning("%s: %s holds NaN or infinity", path, name)


def _finite(x: np.ndarray, exponent: int) -> bool:
  """Tells whether no element has all bits of `exponent` set.

  Those that have are the largest integers of either sign: two maxima find them,
  eight times as fast as a mask over all elements.
  """
  if not x.size:
    return True
  found = blocked.bits(x)
  sign = 1 << (8 * x.itemsize - 1)
  signed = found.view(f"i{x.itemsize}")
  return bool(signed.max() < exponent and found.max() < sign | exponent)


def _check(shards: Shards, name: str, shape: tuple[int, ...]) -> None:
  stored = shards.tensors.get(name)
  if stored is None:
    raise SophiaError(
      f"{shards.directory}: {name} is missing, expected shape {list(shape)}"
    )
  if stored.shape != shape:
    raise SophiaError(
      f"{stored.path}: {name} has shape {list(stored.shape)}, expected "
      f"{list(shape)}"
    )
  if stored.dtype not in DTYPES:
    raise SophiaError(
      f"{stored.path}: {name} is {stored.dtype}, expected one of "
      f"{', '.join(DTYPES)}; quantised weights cannot be trained"
    )


class OnDisk:
  """The parts of a checkpoint's tensors, in `dtype` or each in its own.

  They are read when they are asked for.
  """

  def __init__(self, reader: Reader, dtype: str | None) -> None:
    self._reader = reader
    self._dtype = dtype
    self._sources = {
      (source.part.param, source.part.layer): source
      for sources in reader.sources.values()
      for source in sources
    }

  def dtype(self, part: Part) -> np.dtype:
    if self._dtype:
      return jnp.dtype(self._dtype)
    name = self._sources[part.param, part.layer].name
    stored = DTYPES[self._reader.shards.tensors[name].dtype]
    return np.dtype(np.float32) if stored == np.float64 else stored

  def fetch(self, part: Part) -> np.ndarray:
    return self._reader.whole(self._sources[part.param, part.layer])


# --------------------------------------------------------------------- on hosts
def read_params(reader: Reader, cfg: InternVLConfig) -> Params:
  """Returns all parameters as numpy arrays in `cfg.param_dtype`."""
  with ThreadPoolExecutor(THREADS, "read") as pool:
    params = {
      path: _on_host(reader, path, _whole(leaf.shape), leaf.dtype, pool)
      for path, leaf in _leaves(reader, flatten(abstract_params(cfg)))
    }
  reader.warn()
  return unflatten_dict(params, sep="/")


def _whole(shape: tuple[int, ...]) -> Region:
  return tuple(slice(0, size) for size in shape)


def _on_host(
  reader: Reader,
  path: str,
  region: Region,
  dtype: Any,
  pool: ThreadPoolExecutor,
) -> np.ndarray:
  """Returns `region` of the parameter `path`."""
  found = _empty(_shape(region), dtype)

  def fill(piece: Piece) -> None:
    data = piece.read()
    place = found[piece.start[: found.ndim - data.ndim]]
    start = piece.start[found.ndim - data.ndim :]
    at = tuple(slice(a, a + n) for a, n in zip(start, data.shape))
    blocked.copy(place[at], data)

  for _ in pool.map(fill, _pieces(reader, path, region)):
    pass
  return found


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Returns an array that a CPU device takes over without a copy.

  It starts at a page: XLA wants multiples of 64 bytes. numpy's own asks for huge
  pages, for which a kernel whose memory is full of cached files first moves them
  aside: that took longer than reading.
  """
  size = math.prod(shape) * np.dtype(dtype).itemsize
  flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
  room = mmap.mmap(-1, max(1, size), flags=flags)
  return np.frombuffer(room, np.uint8, size).view(dtype).reshape(shape)


def _shape(region: Region) -> tuple[int, ...]:
  return tuple(s.stop - s.start for s in region)


def _pieces(reader: Reader, path: str, region: Region) -> Iterator[Piece]:
  """Yields what fills `region` of the parameter `path`."""
  sources = reader.sources[path]
  if sources[0].part.layer is None:
    yield from reader.pieces(sources[0], region)
    return
  layers, *rest = region
  for i, source in enumerate(sources[layers]):
    for start, read in reader.pieces(source, tuple(rest)):
      yield Piece((i, *start), read)


# ------------------------------------------------------------------- on devices
def read_sharded(
  reader: Reader, cfg: InternVLConfig, shardings: Params
) -> Params:
  """Returns what `shardings` has a leaf for, so laid out, in `cfg.param_dtype`.

  A process reads what its own devices hold, once for all copies of it.
  """
  layout, shapes = flatten(shardings), flatten(abstract_params(cfg))
  wanted = {path: shapes[path] for path in layout}
  with ThreadPoolExecutor(THREADS, "read") as pool:
    params = {
      path: _assemble(reader, path, leaf, layout[path], pool)
      for path, leaf in _leaves(reader, wanted)
    }
  reader.warn()
  return unflatten_dict(params, sep="/")


def _assemble(
  reader: Reader,
  path: str,
  leaf: jax.ShapeDtypeStruct,
  sharding: jax.sharding.Sharding,
  pool: ThreadPoolExecutor,
) -> Array:
  holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
  places = sharding.addressable_devices_indices_map(leaf.shape)
  for device, index in places.items():
    assert index is not None
    bounds = tuple(
      s.indices(size)[:2] for s, size in zip(index, leaf.shape, strict=True)
    )
    holders.setdefault(bounds, []).append(device)
  buffers: dict[jax.Device, Array] = {}
  for bounds, devices in holders.items():
    region = tuple(slice(*bound) for bound in bounds)
    small = math.prod(_shape(region)) * leaf.dtype.itemsize <= PIECE_BYTES
    if small or devices[0].platform == "cpu":
      shard = _on_host(reader, path, region, leaf.dtype, pool)
      buffers |= {device: jax.device_put(shard, device) for device in devices}
    else:
      buffers |= on_devices(reader, path, region, devices, leaf.dtype, pool)
  return jax.make_array_from_single_device_arrays(
    leaf.shape, sharding, [buffers[device] for device in places]
  )


def on_devices(
  reader: Reader,
  path: str,
  region: Region,
  devices: list[jax.Device],
  dtype: Any,
  pool: ThreadPoolExecutor,
) -> dict[jax.Device, Array]:
  """Assembles `region` of a parameter on every device that holds it."""
  buffers = {d: jnp.zeros(_shape(region), dtype, device=d) for d in devices}
  for start, data in _ahead(_pieces(reader, path, region), pool):
    at = tuple(map(np.int32, start))
    # The device transposes faster than the host.
    turned = data.ndim == 2 and not data.flags.c_contiguous
    data = data.T if turned else data
    # Pieces on their way to the devices are host memory as well.
    jax.block_until_ready(list(buffers.values()))
    for device, buffer in buffers.items():
      piece = jax.device_put(data, device)
      buffers[device] = _put(buffer, piece, at, turned)
  return buffers


def _ahead(
  pieces: Iterator[Piece], pool: ThreadPoolExecutor
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
  """Yields places and blocks; as many are read ahead as there are threads."""
  reading: collections.deque[tuple[tuple[int, ...], Future[np.ndarray]]]
  reading = collections.deque()
  for piece in pieces:
    reading.append((piece.start, pool.submit(piece.read)))
    if len(reading) > THREADS:
      start, data = reading.popleft()
      yield start, data.result()
  while reading:
    start, data = reading.popleft()
    yield start, data.result()


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _put(
  buffer: Array, data: Array, start: tuple[Array, ...], turned: bool
) -> Array:
  """Returns the buffer with a piece in it."""
  data = data.T if turned else data
  data = data.reshape((1,) * (buffer.ndim - data.ndim) + data.shape)
  # As bits: a CPU has no bfloat16 and would convert the whole buffer.
  kind = jnp.dtype(f"uint{8 * buffer.dtype.itemsize}")
  bits, piece = (
    jax.lax.bitcast_convert_type(x, kind)
    for x in (buffer, data.astype(buffer.dtype))
  )
  bits = jax.lax.dynamic_update_slice(bits, piece, start)
  return jax.lax.bitcast_convert_type(bits, buffer.dtype)


def flatten(tree: Params) -> dict[str, Any]:
  return flatten_dict(tree, sep="/")


def _leaves(
  reader: Reader, leaves: Mapping[str, jax.ShapeDtypeStruct]
) -> Iterator[tuple[str, jax.ShapeDtypeStruct]]:
  """Yields `leaves` one by one; shows how many were read, and how fast."""
  count = sum(len(reader.sources[path]) for path in leaves)
  start = time.monotonic()
  what = f"reading {reader.shards.directory.name}"
  with Progress(what, count, "tensor") as progress:
    for path, leaf in leaves.items():
      yield path, leaf
      rate = reader.bytes / 1e9 / max(time.monotonic() - start, 1e-9)
      progress.advance(len(reader.sources[path]), **{"GB/s": rate})
