"""A Qwen2.5-VL whose rows and images are spread over devices, against one device.

A separate process, because it needs 4 devices:
`XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m
tests.models.qwen_on_a_mesh`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.models import InternVL, abstract_params, logical_axes
from sophia_jax.train import sharding
from sophia_jax.train.outputs import hidden_states
from sophia_jax.types import Role, TokenSequence
from tests.checkpoints.toy import QWEN_VL

SIDE = QWEN_VL.vision.image_size
GRIDS = {"a": (3, 3), "b": (1, 4), "c": (5, 1)}
SHAPE = PackConfig(rows=2, length=32, tile_budget=32, shards=2)


def load_tiles(path: str, count: int) -> np.ndarray:
  assert count == math.prod(GRIDS[path])
  rng = np.random.default_rng(ord(path))
  shape = (*GRIDS[path], SIDE, SIDE, 3)
  return rng.integers(0, 256, shape, np.uint8)


def sequence(*images: str) -> TokenSequence:
  tiles = tuple(math.prod(GRIDS[image]) for image in images)
  roles = np.full(sum(tiles) + 6, Role.PROMPT, np.int8)
  roles[2 : 2 + sum(tiles)] = Role.IMAGE
  ids = np.arange(len(roles), dtype=np.int32) % 50
  return TokenSequence(
    id="".join(images),
    token_ids=ids,
    roles=roles,
    images=images,
    tiles=tiles,
    streams={},
  )


def gradients(params, batch):
  def loss(params):
    hidden = hidden_states(InternVL(QWEN_VL), params, batch)
    shown = (batch.segment_ids > 0)[..., None]
    return jnp.sum(jnp.where(shown, jnp.sin(hidden), 0.0))

  return jax.jit(jax.value_and_grad(loss))(params)


def main() -> None:
  jax.config.update("jax_disable_most_optimizations", True)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype),
    abstract_params(QWEN_VL),
  )
  batch = pack(
    [[sequence("a"), sequence("b")], [sequence("b", "c")]],
    SHAPE,
    tokens_per_tile=1,
    tile_size=SIDE,
    streams=(),
    load_tiles=load_tiles,
  )
  wanted = gradients(params, batch)
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2))
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    found = gradients(
      sharding.place(params, logical_axes(QWEN_VL), mesh),
      sharding.to_mesh(batch, mesh),
    )
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())
  print("the same")


if __name__ == "__main__":
  main()
