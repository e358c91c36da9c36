"""Checkpoints on meshes of 4 devices: facts as JSON on the last line.

A process of its own because it needs the devices:
`XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m
tests.checkpoints.on_a_mesh DIR`, where DIR/NAME are directories to load. Each is
loaded onto every mesh and exported from there to DIR/NAME-MESH.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from sophia_jax.checkpoints import (
  Format,
  load_params,
  load_sharded,
  read_config,
  reading,
  save_params,
  shards,
)
from sophia_jax.models import abstract_params, logical_axes
from sophia_jax.train import sharding

MESHES = {
  "fsdp4": {"fsdp": 4},
  "fsdp2-tensor2": {"fsdp": 2, "tensor": 2},
}


def shardings_of(cfg, mesh):
  return sharding.param_shardings(abstract_params(cfg), logical_axes(cfg), mesh)


def wrong(params, want, layout):
  """Parameters that have other bits, or lie elsewhere, than they should."""
  params, want, layout = (
    flatten_dict(tree, sep="/") for tree in (params, want, layout)
  )
  return [
    path
    for path, x in params.items()
    if not np.array_equal(np.asarray(x), want[path])
    or x.dtype != want[path].dtype
    or not x.sharding.is_equivalent_to(layout[path], x.ndim)
  ]


def main(directory: Path) -> None:
  facts = {}
  for source in sorted(p for p in directory.iterdir() if p.is_dir()):
    cfg = read_config(source)
    want = load_params(source, cfg)
    for name, axes in MESHES.items():
      mesh = sharding.make_mesh(sharding.MeshConfig(**axes))
      layout = shardings_of(cfg, mesh)
      # Large matrices in several pieces, small ones in one, as in large models.
      reading.PIECE_BYTES = 1500
      params = load_sharded(source, cfg, layout)
      facts[f"{source.name}-{name}"] = {
        "wrong": wrong(params, want, layout),
        "spread": sum(
          not x.sharding.is_fully_replicated for x in jax.tree.leaves(params)
        ),
      }
      save_params(params, cfg, directory / f"{source.name}-{name}", source)
    if "orbax" in source.name:
      continue
    reader = reading.Reader(shards.Shards(source), cfg)
    reading.read_sharded(reader, cfg, layout)
    facts[source.name] = {
      "read": reader.bytes,
      "there": sum(x.nbytes for x in jax.tree.leaves(want)),
    }
    part = {"vision": layout["vision"]}
    facts[source.name]["parts"] = list(load_sharded(source, cfg, part))
    chat = directory / f"{source.name}-chat"
    save_params(params, cfg, chat, source, format=Format.INTERNVL_CHAT)
  print(json.dumps(facts))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
