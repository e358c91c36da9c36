"""Two updates of adapters on one device and on a mesh of 8, an .npz for each.

`XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.train.adapted
DIR`.
"""

import sys
from pathlib import Path

import numpy as np

from sophia_jax.models.lora import Lora
from sophia_jax.train import sharding
from tests.train import toy

HOW = Lora(
  rank=4,
  alpha=8.0,
  parts=("language", "projector", "vision"),
  targets=("attn", "mlp", "projector"),
)
MESH = sharding.MeshConfig(fsdp=2, context=2, tensor=2)

if __name__ == "__main__":
  rows = toy.ARRANGEMENTS["packed"]
  for name, mesh in (("one", None), ("mesh", sharding.make_mesh(MESH))):
    flat, *_ = toy.update_twice(rows, 64, 8, 5, mesh, how=HOW)
    np.savez(Path(sys.argv[1]) / f"{name}.npz", **flat)
