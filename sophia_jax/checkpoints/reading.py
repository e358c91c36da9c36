"""From safetensors to parameters, a few megabytes at a time.

Only the bytes of the wanted region of a parameter are read, and never more than
`PIECE_BYTES` of them are on the host: what is larger than a piece, a stack of
layers above all, is put together where it will lie.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from sophia_jax.checkpoints import keys
from sophia_jax.checkpoints.keys import Kind, Part
from sophia_jax.checkpoints.shards import Shards
from sophia_jax.models import InternVLConfig, Params, abstract_params
from sophia_jax.progress import Progress
from sophia_jax.types import SophiaError

_log = logging.getLogger(__name__)

PIECE_BYTES = 16 << 20
EXPONENTS: dict[np.dtype, tuple[type[np.unsignedinteger], int]] = {
  np.dtype(np.float64): (np.uint64, 0x7FF << 52),
  np.dtype(np.float32): (np.uint32, 0xFF << 23),
  np.dtype(np.float16): (np.uint16, 0x1F << 10),
  jnp.dtype(jnp.bfloat16): (np.uint16, 0xFF << 7),
}
"""The bits that are all set in a NaN or an infinity, and in nothing else."""
FLOATS = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": jnp.dtype(jnp.bfloat16),
}
"""What is read, as safetensors and as numpy say it."""

Region = tuple[slice, ...]


class Source(NamedTuple):
  """One layer of a parameter: the tensor that holds it, and where in it."""

  name: str
  part: Part


class Piece(NamedTuple):
  """A block of a parameter."""

  start: tuple[int, ...]
  """Its place in the region that was asked for."""
  data: np.ndarray


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
    """`region` of one layer's parameter."""
    part = source.part
    if part.kind is Kind.LINEAR:
      columns, rows = region
      for at, data in self._rows(source, rows, columns):
        # Here: XLA takes three times as long on a CPU.
        yield Piece((0, at), np.ascontiguousarray(data.T))
    elif part.kind is Kind.SAME:
      rows, *rest = region
      for at, data in self._rows(source, rows, *rest):
        yield Piece((at, *(0 for _ in rest)), data)
    elif part.kind is Kind.PATCH:
      columns, rows = region
      data = keys.to_param(self._read(source.name, rows), part.kind)
      yield Piece((0, 0), data[columns])
    else:
      data = self._read(source.name, slice(0, 1), *region)[0]
      yield Piece((0,) * data.ndim, data)

  def whole(self, source: Source) -> np.ndarray:
    """All of a part, as it is on disk."""
    return self._run(source, slice(0, source.part.shape[0]))

  def _rows(
    self, source: Source, rows: slice, *rest: slice
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of a part as they are on disk, with their place among `rows`."""
    stored = self.shards.tensors[source.name]
    # Whole rows are counted: a file is mapped page by page.
    row_bytes = FLOATS[stored.dtype].itemsize * int(np.prod(stored.shape[1:]))
    step = max(1, PIECE_BYTES // row_bytes)
    for start in range(rows.start, rows.stop, step):
      stop = min(start + step, rows.stop)
      yield start - rows.start, self._run(source, slice(start, stop), *rest)

  def _run(self, source: Source, rows: slice, *rest: slice) -> np.ndarray:
    found = [
      self._read(source.name, slice(first, first + count), *rest)
      for first, count in source.part.runs.between(rows.start, rows.stop)
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)

  def _read(self, name: str, *region: slice) -> np.ndarray:
    data = self.shards.read(name, *region)
    self.bytes += data.nbytes
    if not _finite(data):
      self.broken.add(name)
    # There is no fp64 on the devices.
    return data.astype(np.float32) if data.dtype == np.float64 else data

  def warn(self) -> None:
    """Names the tensors that no finite result can come of."""
    for name in sorted(self.broken):
      path = self.shards.tensors[name].path
      _log.warning("%s: %s holds NaN or infinity", path, name)


def _finite(x: np.ndarray) -> bool:
  # numpy's own isfinite takes three times as long for bfloat16.
  unsigned, exponent = EXPONENTS[x.dtype]
  mask = unsigned(exponent)
  return not ((x.view(unsigned) & mask) == mask).any()


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
  if stored.dtype not in FLOATS:
    raise SophiaError(
      f"{stored.path}: {name} is {stored.dtype}, expected one of "
      f"{', '.join(FLOATS)}; quantised weights cannot be trained"
    )


class OnDisk:
  """The parts of a checkpoint's tensors, read when they are asked for.

  In `dtype`, or each in its own.
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
    stored = FLOATS[self._reader.shards.tensors[name].dtype]
    return np.dtype(np.float32) if stored == np.float64 else stored

  def fetch(self, part: Part) -> np.ndarray:
    source = self._sources[part.param, part.layer]
    return self._reader.whole(source).astype(self.dtype(part), copy=False)


# --------------------------------------------------------------------- on hosts
def read_params(reader: Reader, cfg: InternVLConfig) -> Params:
  """Everything, as numpy arrays in `cfg.param_dtype`."""
  params = {
    path: _on_host(reader, path, _whole(leaf.shape), leaf.dtype)
    for path, leaf in _leaves(reader, flatten(abstract_params(cfg)))
  }
  reader.warn()
  return unflatten_dict(params, sep="/")


def _whole(shape: tuple[int, ...]) -> Region:
  return tuple(slice(0, size) for size in shape)


def _on_host(
  reader: Reader, path: str, region: Region, dtype: Any
) -> np.ndarray:
  """`region` of the parameter `path`."""
  found = np.empty(_shape(region), dtype)
  for start, data in _blocks(reader, path, region):
    size = (1,) * (found.ndim - data.ndim) + data.shape
    found[tuple(slice(a, a + n) for a, n in zip(start, size))] = data
  return found


def _shape(region: Region) -> tuple[int, ...]:
  return tuple(s.stop - s.start for s in region)


def _blocks(reader: Reader, path: str, region: Region) -> Iterator[Piece]:
  """What fills `region` of the parameter `path`."""
  sources = reader.sources[path]
  if sources[0].part.layer is None:
    yield from reader.pieces(sources[0], region)
    return
  layers, *rest = region
  for i, source in enumerate(sources[layers]):
    for start, data in reader.pieces(source, tuple(rest)):
      yield Piece((i, *start), data)


# ------------------------------------------------------------------- on devices
def read_sharded(
  reader: Reader, cfg: InternVLConfig, shardings: Params
) -> Params:
  """What `shardings` has a leaf for, laid out by it, in `cfg.param_dtype`.

  A process reads what its own devices hold, once for all copies of it.
  """
  layout, shapes = flatten(shardings), flatten(abstract_params(cfg))
  wanted = {path: shapes[path] for path in layout}
  params = {
    path: _assemble(reader, path, leaf, layout[path])
    for path, leaf in _leaves(reader, wanted)
  }
  reader.warn()
  return unflatten_dict(params, sep="/")


def _assemble(
  reader: Reader,
  path: str,
  leaf: jax.ShapeDtypeStruct,
  sharding: jax.sharding.Sharding,
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
    if np.prod(_shape(region)) * leaf.dtype.itemsize <= PIECE_BYTES:
      shard = _on_host(reader, path, region, leaf.dtype)
      buffers |= {device: jax.device_put(shard, device) for device in devices}
    else:
      buffers |= _on_devices(reader, path, region, devices, leaf.dtype)
  return jax.make_array_from_single_device_arrays(
    leaf.shape, sharding, [buffers[device] for device in places]
  )


def _on_devices(
  reader: Reader,
  path: str,
  region: Region,
  devices: list[jax.Device],
  dtype: Any,
) -> dict[jax.Device, Array]:
  """`region` of a parameter, on every device that holds it."""
  buffers = {d: jnp.zeros(_shape(region), dtype, device=d) for d in devices}
  for start, data in _blocks(reader, path, region):
    at = tuple(map(np.int32, start))
    # Pieces on their way to the devices are host memory as well.
    jax.block_until_ready(list(buffers.values()))
    for device, buffer in buffers.items():
      buffers[device] = _put(buffer, jax.device_put(data, device), at)
  return buffers


@functools.partial(jax.jit, donate_argnums=0)
def _put(buffer: Array, data: Array, start: tuple[Array, ...]) -> Array:
  """The buffer with a piece in it."""
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
  """`leaves`, one by one; shows how many tensors were read, and how fast."""
  count = sum(len(reader.sources[path]) for path in leaves)
  start = time.monotonic()
  what = f"reading {reader.shards.directory.name}"
  with Progress(what, count, "tensor") as progress:
    for path, leaf in leaves.items():
      yield path, leaf
      rate = reader.bytes / 1e9 / max(time.monotonic() - start, 1e-9)
      progress.advance(len(reader.sources[path]), **{"GB/s": rate})
