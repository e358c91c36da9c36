"""Adapters on a mesh, laid out as the weights they belong to."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sophia_jax.models import InternVLConfig, lora
from sophia_jax.models.lora import Lora
from sophia_jax.train import sharding
from sophia_jax.train.state import Params


def place(
  cfg: InternVLConfig,
  how: Lora,
  mesh: Mesh,
  seed: int = 0,
  tree: Params | None = None,
) -> Params:
  """Returns the parts that a model with adapters has beside its own.

  Args:
    seed: seed of fresh adapters; their numbers do not depend on the mesh.
    tree: adapters on the host; None: fresh ones.

  Raises:
    ValueError: the model has nothing that is so named.
  """
  where = shardings(cfg, how, mesh)
  if tree is None:
    draw = functools.partial(lora.init, cfg, how, seed)
    tree = jax.jit(draw, out_shardings=where)()
  else:
    tree = jax.device_put(tree, where)
  everywhere = NamedSharding(mesh, PartitionSpec())
  scale = jax.device_put(np.float32(how.scale), everywhere)
  return lora.attach({}, tree, scale)


def shardings(cfg: InternVLConfig, how: Lora, mesh: Mesh) -> Params:
  """Returns where each adapter lies on the mesh."""
  return sharding.param_shardings(
    lora.abstract(cfg, how), lora.axes(cfg, how), mesh
  )
