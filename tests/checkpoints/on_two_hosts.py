"""One of two processes that load and export a checkpoint together.

`XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m
tests.checkpoints.on_two_hosts ADDRESS PROCESS SOURCE OUT READ` writes into the
file READ how many bytes it read: what is printed, gloo may print into.
"""

import sys
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict

from sophia_jax.checkpoints import Format, read_config, reading, save_params
from sophia_jax.checkpoints.shards import Shards
from sophia_jax.train import sharding
from tests.checkpoints.on_a_mesh import shardings_of


def main(address: str, process: str, source: str, out: str, read: str) -> None:
  jax.distributed.initialize(address, 2, int(process))
  assert jax.device_count() == 4 and jax.local_device_count() == 2
  cfg = read_config(source)
  layout = shardings_of(cfg, sharding.make_mesh(sharding.MeshConfig(fsdp=4)))
  reader = reading.Reader(Shards(source), cfg)
  params = reading.read_sharded(reader, cfg, layout)
  spread = [
    path
    for path, x in flatten_dict(params, sep="/").items()
    if not x.is_fully_replicated and not x.is_fully_addressable
  ]
  assert len(spread) > 15
  save_params(params, cfg, out, source, format=Format.INTERNVL_CHAT)
  Path(read).write_text(str(reader.bytes))


if __name__ == "__main__":
  main(*sys.argv[1:])
