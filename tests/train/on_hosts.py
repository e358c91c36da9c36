"""One of several processes that train together, each with one device.

`python -m tests.train.on_hosts ADDRESS COUNT PROCESS DIR` writes the parameters
to DIR/params.npz (process 0).
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from tests.train import training

# Small steps: what the order of sums changes must not grow from step to step.
CONFIG = dataclasses.replace(
  training.CONFIG, rows=4, tiles=4, learning_rate=1e-3
)
SHARDS = 4


def flat(params) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def main(address: str, count: str, process: str, directory: str) -> None:
  jax.distributed.initialize(
    address, int(count), int(process), heartbeat_timeout_seconds=10
  )
  assert jax.process_count() == jax.device_count() == int(count)
  params = training.train(
    Path(directory), CONFIG, kind=training.Slow, shards=SHARDS
  )
  whole = multihost_utils.process_allgather(params, tiled=True)
  if jax.process_index() == 0:
    np.savez(Path(directory) / "params.npz", **flat(whole))


if __name__ == "__main__":
  main(*sys.argv[1:])
