"""A small round: sequences of samples, their annotation, a few updates.

As a program it is one of two processes with 4 devices each, and writes an .npz:
`XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.train.rounds
DIR ADDRESS PROCESS`. The images are in DIR/images.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from sophia_jax.algorithms import ppo
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.models import InternVL, logical_axes
from sophia_jax.train import sharding
from sophia_jax.train.session import Session, TrainConfig
from sophia_jax.types import Role
from tests.train import toy

PPO = ppo.ppo(ppo.Config(kl=0.02, entropy=0.01))
SHAPE = PackConfig(rows=8, length=32, tile_budget=8)
CONFIG = TrainConfig(
  learning_rate=1e-3, schedule="constant", rows=8, length=32, tiles=8, block=16
)
MESH = sharding.MeshConfig(fsdp=2, context=2, tensor=2)
SHARED = dataclasses.replace(SHAPE, shards=2)
"""The same, so that two processes can share a microbatch."""


def samples(directory, count=12):
  """Sequences as `credit.by_reward` gives them: rewards at their last tokens."""
  images = directory / "images"
  paths = toy.write_images(images, 3) if not images.exists() else None
  paths = paths or sorted(map(str, images.iterdir()))
  made = []
  for i in range(count):
    bare = toy.sequence(i, *[(paths[i % 3], 1)] * (i % 2))
    mask = (bare.roles == Role.RESPONSE).astype(np.float32)
    rewards = np.zeros_like(mask)
    rewards[-1] = i % 3 - 0.5
    streams = {"rewards": rewards, "mask": mask, "weights": mask, "count": mask}
    made.append(dataclasses.replace(bare, streams=streams))
  return made


def reading(mesh, streams):
  index, count = sharding.own_slice(mesh)
  return Reading(
    streams=tuple(streams),
    tokens_per_tile=toy.P,
    image=ImageConfig(tile_size=toy.SIDE, max_tiles=1),
    slice_index=index,
    slices=count,
  )


@contextlib.contextmanager
def session(directory, algorithm=PPO, mesh=None, config=CONFIG, start=None):
  """A session from the fresh parameters, or its newest checkpoint."""
  mesh = mesh or toy.one_device()
  params = start or toy.fresh_params()
  with Session(
    InternVL(toy.CFG),
    sharding.place(params, logical_axes(toy.CFG), mesh)
    | toy.adapters(config.lora, mesh),
    algorithm,
    config,
    directory,
    {},
    mesh,
    updates=100,
  ) as opened:
    yield opened


def loader(sequences, mesh, updates=2, epochs=2, algorithm=PPO, shape=SHAPE):
  config = LoaderConfig(updates=updates, epochs=epochs, threads=0)
  return Loader(sequences, shape, config, reading(mesh, algorithm.all_streams))


def learn(directory, mesh, shape=SHAPE):
  """Annotated sequences and the rows of two epochs of two updates."""
  sequences = samples(directory)
  with session(directory / "run", mesh=mesh) as opened:
    reference = {"reference": opened.scorer()}
    made = opened.annotate(
      sequences, shape, reading(mesh, PPO.streams), reference
    )
    rows = []
    for batch in loader(made, mesh, shape=shape):
      opened.update(batch)
      rows.append(opened.latest())
    heads = jax.jit(lambda x: x, out_shardings=jax.P())(
      opened.params()["heads"]
    )
    return made, rows, jax.device_get(heads)


def main(directory: Path, address: str, process: int) -> None:
  jax.distributed.initialize(address, 2, process)
  toy.fresh_params()  # outside of a mesh: shapes have no place
  made, rows, heads = learn(directory, sharding.make_mesh(MESH), SHARED)
  flat = {
    f"{s.id}/{name}": values for s in made for name, values in s.streams.items()
  }
  flat |= {
    f"row/{i}/{n}": v for i, row in enumerate(rows) for n, v in row.items()
  }
  flat["head"] = heads["value"]["kernel"]
  np.savez(directory / f"round-{process}.npz", **flat)


if __name__ == "__main__":
  main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
