"""The safetensors files of one checkpoint directory.

Pickled `.bin` weights are never opened: reading one runs its code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from sophia_jax.types import SophiaError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object from `path`."""
  if not path.is_file():
    raise SophiaError(f"{path}: no such file; check the path")
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as e:
    raise SophiaError(f"{path}: not JSON ({str(e)[:100]})") from e
  except OSError as e:
    raise SophiaError(f"{path}: {e.strerror}; check the file") from e
  if not isinstance(found, dict):
    raise SophiaError(f"{path}: expected a JSON object")
  return found


class Stored(NamedTuple):
  """Place and type of a tensor."""

  path: pathlib.Path
  shape: tuple[int, ...]
  dtype: str
  """Name in safetensors: F32, BF16, ..."""
  start: int
  """Offset of its first byte in the file."""


DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
}
"""Tensors that can be read, as safetensors and as numpy name them, in the order
of its files."""


class Shards:
  """The tensors of a directory by name; any part of one is read alone.

  Raises:
    SophiaError: no safetensors, an absent or truncated shard, a tensor in two
      of them, or an index that disagrees with its shards.
  """

  def __init__(
    self, directory: str | pathlib.Path, single: str = SINGLE
  ) -> None:
    """Reads the headers of all files.

    Args:
      single: name of the file of a directory that has one alone.
    """
    self.directory = pathlib.Path(directory)
    if not self.directory.is_dir():
      raise SophiaError(f"{self.directory}: no such directory")
    index = self.directory / INDEX
    self.tensors: dict[str, Stored] = {}
    if single != SINGLE or not index.is_file():
      self._add(self._single(single))
      return
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
      raise SophiaError(f"{index}: expected a weight_map of tensor to file")
    for name in sorted(set(map(str, weight_map.values()))):
      path = self.directory / name
      if pathlib.Path(name).name != name or not path.is_file():
        raise SophiaError(f"{index}: names {name}, which is not there")
      self._add(path)
    for tensor, name in weight_map.items():
      stored = self.tensors.get(tensor)
      if stored is None or stored.path.name != name:
        raise SophiaError(f"{index}: {tensor} is not in {name}")
    for tensor, stored in self.tensors.items():
      if tensor not in weight_map:
        raise SophiaError(f"{stored.path}: {tensor} is not in {INDEX}")

  def _single(self, name: str) -> pathlib.Path:
    path = self.directory / name
    if path.is_file():
      return path
    if any(self.directory.glob("*.bin")):
      raise SophiaError(
        f"{self.directory}: only pickled .bin weights, which are never loaded;"
        " convert them to safetensors"
      )
    index = f"neither {SINGLE} nor {INDEX}" if name == SINGLE else f"no {name}"
    raise SophiaError(f"{self.directory}: {index}")

  def _add(self, path: pathlib.Path) -> None:
    # safetensors checks the header, and that it describes the whole file.
    with _opened(path) as file:
      names = list(file.keys())
    for name in names:
      if name in self.tensors:
        raise SophiaError(
          f"{path}: {name} is in {self.tensors[name].path.name} as well; "
          "keep one of the two"
        )
    self.tensors |= _header(path)

  def read(self, name: str, *region: slice) -> np.ndarray:
    """Returns a copy of the tensor `name`, or of its `region`.

    Raises:
      SophiaError: the file has become shorter.
    """
    stored = self.tensors[name]
    rows, *rest = region or (slice(0, stored.shape[0]),)
    whole = all(
      s.indices(size) == (0, size, 1) for s, size in zip(rest, stored.shape[1:])
    )
    if whole and stored.dtype in DTYPES:
      return _read_rows(stored, rows.start, rows.stop)
    with _opened(stored.path) as file:
      return file.get_slice(name)[region or (slice(None),)]


def _header(path: pathlib.Path) -> dict[str, Stored]:
  """Returns the tensors that a file's header describes."""
  with open(path, "rb") as file:
    size = int.from_bytes(file.read(8), "little")
    found = json.loads(file.read(size))
  found.pop("__metadata__", None)
  return {
    name: Stored(
      path,
      tuple(tensor["shape"]),
      tensor["dtype"],
      8 + size + tensor["data_offsets"][0],
    )
    for name, tensor in found.items()
  }


def _read_rows(stored: Stored, start: int, stop: int) -> np.ndarray:
  """Reads rows [start, stop), which lie side by side in the file."""
  shape = (stop - start, *stored.shape[1:])
  out = np.empty(shape, DTYPES[stored.dtype])
  left = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
  at = stored.start + start * out.strides[0]
  file = os.open(stored.path, os.O_RDONLY)
  try:
    while left:
      count = os.preadv(file, [left], at)
      if not count:
        raise SophiaError(f"{stored.path}: truncated; fetch it again")
      left, at = left[count:], at + count
  finally:
    os.close(file)
  return out


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """Opens a file for one look; its memory map ends with the block."""
  try:
    with safe_open(path, framework="numpy") as file:
      yield file
  except SafetensorError as e:
    raise SophiaError(
      f"{path}: truncated or not safetensors ({e}); fetch it again"
    ) from e
