"""The safetensors files of one checkpoint directory.

Pickled `.bin` weights are never opened: reading one runs its code.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from sophia_jax.types import SophiaError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object from `path`."""
  if not path.is_file():
    raise SophiaError(f"{path}: no such file")
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as e:
    raise SophiaError(f"{path}: not JSON ({e})") from e
  if not isinstance(found, dict):
    raise SophiaError(f"{path}: expected a JSON object")
  return found


class Stored(NamedTuple):
  """Where a tensor is and what it is."""

  path: pathlib.Path
  shape: tuple[int, ...]
  dtype: str
  """As safetensors says it: F32, BF16, ..."""


class Shards:
  """The tensors of a directory by name; any part of one is read alone.

  Raises:
    SophiaError: no safetensors, an absent or truncated shard, a tensor in two
      of them, or an index that disagrees with its shards.
  """

  def __init__(self, directory: str | pathlib.Path) -> None:
    self.directory = pathlib.Path(directory)
    if not self.directory.is_dir():
      raise SophiaError(f"{self.directory}: no such directory")
    index = self.directory / INDEX
    self.tensors: dict[str, Stored] = {}
    if not index.is_file():
      self._add(self._single())
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

  def _single(self) -> pathlib.Path:
    path = self.directory / SINGLE
    if path.is_file():
      return path
    if any(self.directory.glob("*.bin")):
      raise SophiaError(
        f"{self.directory}: only pickled .bin weights, which are never loaded;"
        " convert them to safetensors"
      )
    raise SophiaError(f"{self.directory}: neither {SINGLE} nor {INDEX}")

  def _add(self, path: pathlib.Path) -> None:
    with _opened(path) as file:
      for name in file.keys():  # noqa: SIM118 (a handle, not a mapping)
        if name in self.tensors:
          raise SophiaError(
            f"{path}: {name} is in {self.tensors[name].path.name} as well; "
            "keep one of the two"
          )
        tensor = file.get_slice(name)
        shape = tuple(tensor.get_shape())
        self.tensors[name] = Stored(path, shape, tensor.get_dtype())

  def read(self, name: str, *region: slice) -> np.ndarray:
    """A copy of the tensor `name`, or of its `region`."""
    with _opened(self.tensors[name].path) as file:
      return file.get_slice(name)[region or (slice(None),)]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """A file for one look: what it maps into memory is let go at the end."""
  try:
    with safe_open(path, framework="numpy") as file:
      yield file
  except SafetensorError as e:
    raise SophiaError(
      f"{path}: truncated or not safetensors ({e}); fetch it again"
    ) from e
