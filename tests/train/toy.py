"""A tiny InternVL and sequences for it, laid out in many ways."""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from sophia_jax.algorithms.contract import Algorithm, Moment, Term
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack, stack
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  abstract_params,
  logical_axes,
  lora,
)
from sophia_jax.train import adapters as placed
from sophia_jax.train import sharding
from sophia_jax.train.optimizer import OptimizerConfig, make_optimizer
from sophia_jax.train.state import create, layout
from sophia_jax.train.step import Step, scalars
from sophia_jax.types import Role, TokenSequence

SIDE = 28
CFG = InternVLConfig(
  vision=VisionConfig(
    width=16, depth=1, heads=4, mlp=32, image_size=SIDE, patch_size=7
  ),
  # Neither the vocabulary nor the keys' heads divide among 8 devices: those of
  # the released models do not either.
  decoder=DecoderConfig(
    vocab=67, width=32, depth=2, heads=8, kv_heads=2, mlp=48, head_dim=8
  ),
  image_token_id=3,
  dtype="float32",
)
P = CFG.tokens_per_tile
ALL = ("language", "projector", "vision")
STREAMS = ("advantages", "weights", "count")


def policy_gradient(out, batch):
  """L_t = -A_t log pi(y_t)."""
  return -batch.streams["advantages"] * out.logps


ALGORITHM = Algorithm(terms=(Term("policy", policy_gradient),), streams=STREAMS)


def streams(roles: np.ndarray, advantage: float) -> dict[str, np.ndarray]:
  """The streams of a response: weights and counts are 1 / sqrt(tokens)."""
  response = (roles == Role.RESPONSE).astype(np.float32)
  scale = response * max(int(response.sum()), 1) ** -0.5
  return {"advantages": advantage * response, "weights": scale, "count": scale}


@functools.cache
def fresh_params():
  """On the host: what is placed on a mesh may be donated."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    about = 1.0 if path[-1].key == "scale" else 0.0
    return rng.normal(about, 0.2, leaf.shape).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, abstract_params(CFG))


def load_tiles(path: str, count: int) -> np.ndarray:
  """Pixels that depend on the name alone; no file is read."""
  rng = np.random.default_rng(zlib.crc32(path.encode()))
  return rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def write_images(directory: Path, count: int) -> list[str]:
  """Paths of PNGs of one tile each."""
  directory.mkdir(parents=True, exist_ok=True)
  paths = [str(directory / f"{i}.png") for i in range(count)]
  for path in paths:
    Image.fromarray(load_tiles(path[-5:], 1)[0]).save(path)
  return paths


def sequence(i: int, *images: tuple[str, int]) -> TokenSequence:
  """The i-th sequence: a prompt with (image, tiles), a response of its own."""
  rng = np.random.default_rng(i)
  tiles = tuple(count for _, count in images)
  prompt, response = 2 + sum(tiles) * P, int(rng.integers(3, 9))
  roles = np.full(prompt + response, Role.RESPONSE, np.int8)
  roles[:prompt] = Role.PROMPT
  roles[1 : prompt - 1] = Role.IMAGE
  ids = rng.integers(4, CFG.decoder.vocab, len(roles)).astype(np.int32)
  ids[roles == Role.IMAGE] = CFG.image_token_id
  return TokenSequence(
    id=str(i),
    token_ids=ids,
    roles=roles,
    images=tuple(path for path, _ in images),
    tiles=tiles,
    streams=streams(roles, (1.0, 0.5, -0.25)[i % 3]),
  )


# Two images are shown twice, one prompt shows two, some show none.
A, B, C, D = ("a", 1), ("b", 2), ("c", 1), ("d", 2)
SHOWN = [(A,), (), (B,), (A,), (C, D), (), (B,), ()]
SEQUENCES = [sequence(i, *images) for i, images in enumerate(SHOWN)]


def batch(rows, length, tiles):
  """[microbatch][row][place] of indices into SEQUENCES -> a batch."""
  return stack(
    [
      pack(
        [[SEQUENCES[i] for i in row] for row in micro],
        PackConfig(rows=len(micro), length=length, tile_budget=tiles),
        tokens_per_tile=P,
        tile_size=SIDE,
        streams=STREAMS,
        load_tiles=load_tiles,
      )
      for micro in rows
    ]
  )


REFERENCE = ([[[i] for i in range(8)]], 32, 8)
"""One sequence a row."""
LAYOUTS = {
  "packed": ([[[0, 1, 5], [2, 3], [4, 7], [6], *[[]] * 4]], 32, 8),
  "rows reversed": ([[*[[]] * 4, [6], [4, 7], [2, 3], [0, 1, 5]]], 32, 8),
  "packed otherwise": (
    [[[], [7, 3, 1], [4], [], [0, 6], [2, 5], [], []]],
    32,
    8,
  ),
  "2 microbatches": ([[[0, 1, 2], [3]], [[4, 5], [6, 7]]], 64, 8),
  "4 microbatches, blocks of 5": (
    [[[7, 6]], [[5, 4]], [[3, 2]], [[1, 0]]],
    64,
    8,
  ),
}
# On a mesh. All are of one shape, and so one program.
ARRANGEMENTS = {
  "packed": [
    [[0, 1], [2], [3], *[[]] * 5],
    [[4, 5], [6], [], [7], *[[]] * 4],
  ],
  "one sequence a row": [
    [[0], [1], [2], [3], *[[]] * 4],
    [[4], [5], [6], [7], *[[]] * 4],
  ],
  "in another order": [
    [*[[]] * 3, [7, 3, 5], [], [1], [], [4]],
    [[6], *[[]] * 5, [2, 0], []],
  ],
}
NO_IMAGE = [[[1], [5, 7], *[[]] * 6], [[], [7], *[[]] * 6]]
MESHES = {
  ", ".join(f"{a} {n}" for a, n in zip(sharding.AXES, shape) if n > 1): shape
  for shape in itertools.product((1, 2, 4, 8), repeat=len(sharding.AXES))
  if math.prod(shape) == 8
}
"""Every mesh of 8 devices, by its axes."""


def _keep_gradient() -> optax.GradientTransformation:
  """Leaves the gradient as it is, and a copy of it in the state."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (grads, grads),
  )


def one_device() -> jax.sharding.Mesh:
  axis_types = (jax.sharding.AxisType.Auto,) * len(sharding.AXES)
  return jax.make_mesh(
    (1,) * len(sharding.AXES),
    sharding.AXES,
    axis_types=axis_types,
    devices=jax.devices()[:1],
  )


ALGORITHMS = {"policy": ALGORITHM}


def adapters(how, mesh):
  """The parts that adapters add, fresh; {} without any."""
  return {} if how is None else placed.place(CFG, how, mesh)


_kept_adapters = functools.cache(adapters)


@functools.cache
def _ready(mesh, block, name, how):
  """The first state, on the host, where it lies, and the compiled step."""
  config = OptimizerConfig(learning_rate=2e-4)
  tx = optax.chain(_keep_gradient(), make_optimizer(config, 2))
  whole = sharding.place(fresh_params(), logical_axes(CFG), mesh)
  whole |= _kept_adapters(how, mesh)
  state = create(whole, tx, (lora.PART,) if how else ALL)
  where = layout(state)
  step = Step(InternVL(CFG), ALGORITHMS[name], tx, where, block)
  return jax.device_get(state), where, step


def update_twice(
  rows, length, tiles, block=1024, mesh=None, name="policy", how=None
):
  """Two updates on one batch, of everything or of the adapters `how`.

  Returns:
    Both gradients, the parameters and the metrics, flat; the last state;
    and the step.
  """
  mesh = mesh or one_device()
  fresh_params()  # outside of the mesh: shapes have no place
  _kept_adapters(how, mesh)
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    host, where, step = _ready(mesh, block, name, how)
    state = jax.device_put(host, where)
    micro = sharding.microbatches(batch(rows, length, tiles), mesh)
    numbers = scalars(ALGORITHMS[name], Moment())
    state, first, _ = step(state, micro, numbers)
    gradient = jax.device_get(state.opt_state[0])
    state, second, _ = step(state, micro, numbers)
  found = {
    "gradient": [gradient, state.opt_state[0]],
    "params": state.params,
    "metrics": [first, second],
  }
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(found))
  flat = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }
  return flat, state, step


# The largest entry of a gradient is about 0.2. Adam makes steps of 2e-4 of even
# the smallest gradient, rounding included.
TOLERANCE = {"gradient": 1e-6, "params": 1e-5, "metrics": 1e-5}
LAYOUTS_OWN = ("fill_rate", "image_tokens", "microbatches")


def assert_same_updates(found, reference):
  """Of what `update_twice` returns: the same gradients, updates and metrics."""
  # Padding, and how often an image is shown again, belong to the layout.
  own = {f"metrics/{i}/{name}" for i in (0, 1) for name in LAYOUTS_OWN}
  assert found.keys() == reference.keys() > own
  for key in found.keys() - own:
    atol = TOLERANCE[key.partition("/")[0]]
    np.testing.assert_allclose(
      found[key], reference[key], rtol=0, atol=atol, err_msg=key
    )


def share_of_a_device(tree) -> float:
  """The part of all bytes that the fullest device holds."""
  held: dict = {}
  for leaf in jax.tree.leaves(tree):
    for shard in leaf.addressable_shards:
      held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
  return max(held.values()) / sum(x.nbytes for x in jax.tree.leaves(tree))
