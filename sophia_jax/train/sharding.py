"""Mesh and sharding: one table from logical axes to mesh axes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sophia_jax.types import Batch, SophiaError

AXES = ("data", "fsdp", "context", "tensor")

# Logical axis (models/layers.py) -> mesh axes. The vision encoder's tiles are
# spread over every device, whatever rows they belong to. Between blocks a row's
# tokens are spread over the tensor axis too, where norms would be done twice.
RULES: tuple[tuple[str, Any], ...] = (
  ("act_batch", ("data", "fsdp")),
  ("act_length", "context"),
  ("act_heads", "tensor"),
  ("act_residual", ("context", "tensor")),
  ("act_embed", None),
  ("act_replica", "data"),
  ("act_shard", "fsdp"),
  ("act_sliced", ("fsdp", "context", "tensor")),
  ("act_tiles", AXES),
  ("layers", None),
  ("embed", ("fsdp", "context")),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  ("vocab", "tensor"),
  ("vision_embed", ("fsdp", "context")),
  ("vision_heads", "tensor"),
  ("vision_mlp", "tensor"),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; one of them may be -1: all that are left."""

  data: int = 1
  """Copies of the model, each with a part of the batch."""
  fsdp: int = -1
  """Devices that share parameters and the batch."""
  context: int = 1
  """Devices that share the tokens of a row."""
  tensor: int = 1
  """Devices that share heads and widths."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Builds the mesh over all devices.

  Args:
    devices: devices to use instead of this process's own, attached or not.

  Raises:
    SophiaError: the axes do not multiply to the number of devices.
  """
  sizes = [getattr(config, axis) for axis in AXES]
  if bad := [axis for axis, s in zip(AXES, sizes) if s < 1 and s != -1]:
    raise SophiaError(
      f"config.mesh.{bad[0]}={getattr(config, bad[0])}: a number of devices, or "
      "-1 for all that are left"
    )
  devices = jax.devices() if devices is None else devices
  known = int(np.prod([s for s in sizes if s != -1]))
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices) or 0 in sizes:
    shape = " x ".join(f"{a}={s}" for a, s in zip(AXES, sizes))
    raise SophiaError(
      f"config.mesh: {shape} is not {len(devices)} devices; set one axis to -1"
    )
  # An axis may have to be folded over several dimensions of a torus.
  grid = mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_shape(rows: int, length: int, tiles: int, mesh: Mesh) -> None:
  """Checks that a microbatch of this shape can be laid out.

  Raises:
    SophiaError: rows, tokens or tiles do not divide among their devices.
  """
  for name, size, axes in (
    ("rows", rows, ("data", "fsdp")),
    ("length", length, ("context", "tensor")),
    ("tiles", tiles, AXES),
  ):
    devices = _devices(axes, mesh)
    if size % devices:
      raise SophiaError(
        f"config: {name}={size} of a batch do not divide among {devices} "
        f"devices ({' x '.join(axes)}); make it a multiple of {devices}"
      )


def place(params: Any, logical_axes: Any, mesh: Mesh) -> Any:
  """Puts parameters onto the mesh by their logical axis names.

  Args:
    logical_axes: a PartitionSpec of logical names for every parameter
      (`models.logical_axes`).
  """
  return jax.device_put(params, param_shardings(params, logical_axes, mesh))


def param_shardings(params: Any, logical_axes: Any, mesh: Mesh) -> Any:
  """Returns where each parameter (or its shape) lies on the mesh.

  An axis that does not divide among its devices stays whole: InternVL's
  vocabularies, 92,553 and 151,674, divide among hardly any.
  """

  def even(leaf: Any, wanted: NamedSharding) -> NamedSharding:
    axes = [
      axis if size % _devices(axis, mesh) == 0 else None
      for size, axis in zip(leaf.shape, wanted.spec)
    ]
    return NamedSharding(mesh, PartitionSpec(*axes))

  wanted = nn.logical_to_mesh_sharding(logical_axes, mesh, RULES)
  return jax.tree.map(even, params, wanted)


def _devices(axis: str | tuple[str, ...] | None, mesh: Mesh) -> int:
  """Returns how many devices share an array axis."""
  names = (axis,) if isinstance(axis, str) else axis or ()
  return math.prod(mesh.shape[name] for name in names)


def batch_shardings(batch: Batch, mesh: Mesh) -> Any:
  """Lays out a microbatch.

  Rows are spread over data and fsdp, tokens over context, tiles over everything.
  """
  rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "context"))
  tiles: Any = NamedSharding(mesh, PartitionSpec(AXES))
  shardings = jax.tree.map(lambda _: rows, batch)
  return dataclasses.replace(shardings, tiles=tiles, tile_places=tiles)


@functools.cache
def own_slice(mesh: Mesh) -> tuple[int, int]:
  """Returns which slice of every batch this process holds, and their number.

  Rows go to devices in the order of the mesh, which need not be that of the
  processes. Processes that rows are spread over hold the same slice.

  Raises:
    SophiaError: a process would hold rows of several slices.
  """
  rows = mesh.devices.reshape(_devices(("data", "fsdp"), mesh), -1)
  owners = [frozenset(device.process_index for device in row) for row in rows]
  slices = list(dict.fromkeys(owners))
  each = len(owners) // len(slices)
  if (
    owners != [owner for owner in slices for _ in range(each)]
    or sum(map(len, slices)) != jax.process_count()
  ):
    raise SophiaError(
      f"config.mesh: {mesh.shape['context'] * mesh.shape['tensor']} devices "
      f"(context x tensor) for a row do not fit the {jax.local_device_count()} "
      f"of each of {jax.process_count()} processes: one number must divide the "
      "other"
    )
  (own,) = (i for i, o in enumerate(slices) if jax.process_index() in o)
  return own, len(slices)


def to_mesh(micro: Batch, mesh: Mesh) -> Batch:
  """Puts this process's slice of a microbatch onto the mesh."""
  index, count = own_slice(mesh)

  def put(x: np.ndarray, where: NamedSharding) -> jax.Array:
    first, whole = index * len(x), count * len(x)

    def part(place: Any) -> np.ndarray:
      begin, end, _ = place[0].indices(whole)
      return x[begin - first : end - first, *place[1:]]

    return jax.make_array_from_callback((whole, *x.shape[1:]), where, part)

  return jax.tree.map(put, micro, batch_shardings(micro, mesh))


def microbatches(batch: Batch, mesh: Mesh) -> list[Batch]:
  """Puts every microbatch of this process's slice of a batch onto the mesh.

  Args:
    batch: numpy arrays with a leading microbatch axis.
  """
  return [
    to_mesh(jax.tree.map(lambda x, a=a: x[a], batch), mesh)
    for a in range(len(batch.tokens))
  ]
