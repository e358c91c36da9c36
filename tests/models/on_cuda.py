"""The CUDA of programs where there is no GPU: traced, lowered, not compiled.

jax lowers for a platform that is not there. It must be given cuDNN's version, and
let cuDNN's primitives be lowered for the devices of `mesh`, which do not exist:
they are listed as needing devices for the sake of their wrappers alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import pytest
from jax._src import dispatch
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from sophia_jax.models import cudnn
from sophia_jax.train import sharding

H100 = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")


@contextlib.contextmanager
def mesh(**sizes: int) -> Iterator[AbstractMesh]:
  """Traces for GPUs: mesh(fsdp=2, tensor=2)."""
  shape = tuple(sizes.get(axis, 1) for axis in sharding.AXES)
  devices = AbstractMesh(
    shape,
    sharding.AXES,
    axis_types=(AxisType.Auto,) * len(shape),
    abstract_device=H100,
  )
  with (
    pytest.MonkeyPatch.context() as patch,
    jax.sharding.use_abstract_mesh(devices),
    nn.logical_axis_rules(sharding.RULES),
  ):
    patch.setattr(cudnn, "version", lambda: 9_10_00)
    needing = "prim_requires_devices_during_lowering"
    patch.setattr(dispatch, needing, set())
    yield devices


def placed(tree: Any, devices: AbstractMesh, *axes: Any) -> Any:
  """Returns the shapes of arrays, all on these axes of the mesh."""
  spec = jax.sharding.PartitionSpec(*axes)

  def one(leaf: Any) -> jax.ShapeDtypeStruct:
    where = jax.sharding.NamedSharding(devices, spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  return jax.tree.map(one, tree)


def lowered(function: Any, *args: Any) -> str:
  """Returns the program for CUDA."""
  jitted = function if hasattr(function, "trace") else jax.jit(function)
  return jitted.trace(*args).lower(lowering_platforms=("cuda",)).as_text()
