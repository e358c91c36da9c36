"""Two updates on meshes of 8 devices: an .npz for each, facts.json of all.

A process of its own because it needs the devices:
`XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m
tests.train.on_meshes DIR BLOCK MESH...`, with the names of `toy.MESHES` and as
many tokens of log-probabilities at a time as BLOCK says.
"""

import json
import sys
from pathlib import Path

import numpy as np

from sophia_jax.train import sharding
from tests.train import toy

LENGTH, TILES = 64, 8


def main(directory: Path, block: int, names: list[str]) -> None:
  facts = {}
  reference, *_ = toy.update_twice(*toy.REFERENCE)
  np.savez(directory / "reference.npz", **reference)
  for name in names:
    config = sharding.MeshConfig(*toy.MESHES[name])
    where = {"block": block, "mesh": sharding.make_mesh(config)}
    for arrangement, rows in toy.ARRANGEMENTS.items():
      flat, *_ = toy.update_twice(rows, LENGTH, TILES, **where)
      np.savez(directory / f"{name}, {arrangement}.npz", **flat)
    flat, state, step = toy.update_twice(toy.NO_IMAGE, LENGTH, TILES, **where)
    facts[name] = {
      "devices": len(state.step.sharding.device_set),
      "compilations": step.accumulate._cache_size(),
      "image_tokens": float(flat["metrics/0/image_tokens"]),
      "params": toy.share_of_a_device(state.params),
      "moments": toy.share_of_a_device(state.opt_state[1]),
    }
  (directory / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
  main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
