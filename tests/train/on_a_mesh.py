"""A run on a mesh of 8 devices that is cut off and gone on with, and one that is not.

A process of its own because it needs the devices:
`XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m
tests.train.on_a_mesh DIR`.
"""

import dataclasses
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from sophia_jax.stopping import Preempted
from sophia_jax.train.sharding import MeshConfig
from tests.train import training

MESH = MeshConfig(fsdp=2, context=2, tensor=2)
CONFIG = dataclasses.replace(training.CONFIG, tiles=8)


def main(whole: Path, cut: Path) -> None:
  wanted = training.train(whole, CONFIG, mesh=MESH)
  assert len(jax.tree.leaves(wanted)[0].sharding.device_set) == 8
  try:
    training.cut_off(cut, signal.SIGTERM, CONFIG, mesh=MESH)
  except Preempted as e:
    print(f"preempted: {e}")
  before, rows = training.rows(cut / "run"), training.rows(whole / "run")
  assert 4 <= len(before) < len(rows)
  found = training.train(cut, CONFIG, mesh=MESH)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert training.rows(cut / "run") == rows


if __name__ == "__main__":
  main(Path(sys.argv[1]) / "whole", Path(sys.argv[1]) / "cut")
