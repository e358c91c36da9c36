"""The update does not depend on how its batch is laid out."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from sophia_jax.algorithms.contract import Moment
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.models import SIZES, InternVL, abstract_params, logical_axes
from sophia_jax.train import sharding
from sophia_jax.train.optimizer import OptimizerConfig, make_optimizer
from sophia_jax.train.outputs import response_logps
from sophia_jax.train.state import create, layout
from sophia_jax.train.step import Step, scalars, work
from sophia_jax.types import Role, SophiaError
from tests.train import toy


@pytest.fixture(scope="module")
def reference():
  """Two updates on one sequence a row."""
  return toy.update_twice(*toy.REFERENCE)[0]


def test_the_reference_learns(reference):
  """Or everything below would compare zeros."""
  start = jax.tree_util.tree_leaves_with_path(toy.fresh_params())
  for path, leaf in start:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    moved = np.abs(reference[f"params/{name}"] - leaf)
    if name == "vision/layers/attn/k/bias":
      continue  # a softmax does not see it, and there is no rotary position
    assert 2e-4 < moved.max() < 5e-4, name  # two steps, of 2e-4 and less
  assert reference["metrics/1/loss"] < reference["metrics/0/loss"]
  assert reference["metrics/0/tokens"] == sum(
    int((s.roles == Role.RESPONSE).sum()) for s in toy.SEQUENCES
  )


def test_the_loss_is_the_equation(reference):
  """sum(w A -log p) / sum(n), each sequence alone in its row."""
  logps_of = jax.jit(response_logps, static_argnums=(0, 3))
  total = count = 0.0
  for i, sequence in enumerate(toy.SEQUENCES):
    batch = toy.batch([[[i]]], 32, 4)
    one = jax.tree.map(lambda x: x[0], batch)
    logps = logps_of(InternVL(toy.CFG), toy.fresh_params(), one, 32)
    where = np.flatnonzero(sequence.roles == Role.RESPONSE)
    n = len(where)
    reward = (1.0, 0.5, -0.25)[i % 3]
    total -= reward * n**-0.5 * float(np.sum(np.asarray(logps)[0, where - 1]))
    count += n**0.5
  np.testing.assert_allclose(
    reference["metrics/0/loss"], total / count, rtol=1e-5
  )


def test_the_tiles_of_every_shard_are_counted_and_no_free_place():
  shape = PackConfig(rows=2, length=32, tile_budget=8, shards=2)
  batch = pack(
    [[toy.SEQUENCES[0]], [toy.SEQUENCES[2]]],
    shape,
    tokens_per_tile=toy.P,
    tile_size=toy.SIDE,
    streams=toy.STREAMS,
    load_tiles=toy.load_tiles,
  )
  assert work(batch, toy.P)["image_tokens"] == (1 + 2) * toy.P


def test_a_batch_without_a_place_for_tiles():
  """Text alone: the encoder does not run."""
  logps_of = jax.jit(response_logps, static_argnums=(0, 3))
  one = jax.tree.map(lambda x: x[0], toy.batch([[[1]]], 32, 4))
  none = dataclasses.replace(one, tiles=one.tiles[:0])
  args = InternVL(toy.CFG), toy.fresh_params()
  np.testing.assert_array_equal(
    logps_of(*args, none, 32), logps_of(*args, one, 32)
  )


@pytest.mark.parametrize("name", toy.LAYOUTS)
def test_the_layout_changes_nothing(name, reference):
  # Of token_logps; 64 tokens are no multiple of 5.
  block = 5 if name.endswith("blocks of 5") else 1024
  found, *_ = toy.update_twice(*toy.LAYOUTS[name], block=block)
  toy.assert_same_updates(found, reference)


# ------------------------------------------------------------------- many devices
@pytest.mark.parametrize("size", ["internvl2_5_8b", "internvl3_38b"])
def test_released_models_can_be_laid_out(size):
  """Whatever divides is split, and what does not stays whole."""
  axis = jax.sharding.AxisType.Auto
  mesh = jax.sharding.AbstractMesh(
    (1, 4, 1, 8), sharding.AXES, axis_types=(axis,) * 4
  )
  cfg = SIZES[size]
  shapes = abstract_params(cfg)
  found = sharding.param_shardings(shapes, logical_axes(cfg), mesh)
  layers = found["language"]["layers"]
  up = layers["mlp"]["up"]["kernel"].spec
  assert tuple(up) == (None, ("fsdp", "context"), "tensor")
  assert tuple(found["language"]["head"].spec) == (("fsdp", "context"), None)
  for leaf, where in zip(jax.tree.leaves(shapes), jax.tree.leaves(found)):
    where.shard_shape(leaf.shape)  # raises where it does not divide


def test_a_mesh_that_does_not_fit_the_devices():
  with pytest.raises(SophiaError, match=r"config\.mesh: .*tensor=3.*-1"):
    sharding.make_mesh(sharding.MeshConfig(tensor=3))


@pytest.mark.parametrize(
  ("shape", "said"),
  [
    ((6, 32, 16), "rows=6 of a batch do not divide among 4 devices"),
    ((8, 33, 16), "length=33 of a batch do not divide among 2 devices"),
    ((8, 32, 9), "tiles=9 of a batch do not divide among 8 devices"),
  ],
)
def test_a_batch_that_does_not_fit_the_mesh(shape, said):
  mesh = jax.sharding.AbstractMesh((2, 2, 2, 1), sharding.AXES)
  sharding.check_shape(8, 32, 16, mesh)
  sharding.check_shape(4, 2, 0, mesh)
  with pytest.raises(SophiaError, match=said):
    sharding.check_shape(*shape, mesh)


# -------------------------------------------------- frozen parts, one compilation
@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
  """Two epochs of sequences of all lengths; one microbatch shows no image."""
  directory = tmp_path_factory.mktemp("ragged")
  paths = toy.write_images(directory, 3)
  sequences = [
    toy.sequence(i, *[(paths[i % 3], 1)] * (i < 5)) for i in range(14)
  ]
  loader = Loader(
    sequences,
    PackConfig(rows=2, length=24, tile_budget=2, open_rows=1, microbatches=2),
    LoaderConfig(epochs=2, shuffle=False),
    Reading(
      streams=toy.STREAMS,
      tokens_per_tile=toy.P,
      image=ImageConfig(tile_size=toy.SIDE, max_tiles=1),
    ),
  )
  tx = make_optimizer(OptimizerConfig(learning_rate=1e-2), loader.steps)
  mesh = sharding.make_mesh(sharding.MeshConfig())
  fresh = toy.fresh_params()  # outside of the mesh: shapes have no place
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    params = sharding.place(fresh, logical_axes(toy.CFG), mesh)
    state = create(params, tx, ("language",))
    where = layout(state)
    step = Step(InternVL(toy.CFG), toy.ALGORITHM, tx, where, 16)
    batches = list(loader)
    for batch in batches:
      micro = sharding.microbatches(batch, mesh)
      state, metrics, _ = step(state, micro, scalars(toy.ALGORITHM, Moment()))
  return batches, state, step, metrics


def test_ragged_data_compile_once(ragged):
  batches, state, step, metrics = ragged
  shown = [int((m >= 0).sum()) for b in batches for m in b.tile_slots]
  assert 0 in shown and 2 * toy.P in shown, "none, and as many as there fit"
  assert {len(batch.tokens) for batch in batches} == {1, 2}
  assert len(batches) > 3 and int(state.step) == len(batches)
  programs = step.start, step.count, step.accumulate, step.apply
  assert [program._cache_size() for program in programs] == [1] * 4
  assert np.isfinite(metrics["loss"])


def test_frozen_parts_are_untouched(ragged):
  state = ragged[1]
  start = toy.fresh_params()
  assert set(state.frozen) == {"vision", "projector"}
  for part in state.frozen:
    jax.tree.map(np.testing.assert_array_equal, state.frozen[part], start[part])
  moved = jax.tree.map(
    lambda new, old: np.abs(np.asarray(new) - old).max(),
    state.params["language"],
    start["language"],
  )
  assert min(jax.tree.leaves(moved)) > 0


def test_frozen_parts_have_no_optimizer_state(ragged):
  state = ragged[1]
  paths = jax.tree_util.tree_leaves_with_path(state.opt_state)
  names = [jax.tree_util.keystr(path) for path, _ in paths]
  assert any("language" in name for name in names)
  assert not any("vision" in n or "projector" in n for n in names)


def test_an_unknown_part_is_named():
  with pytest.raises(SophiaError, match=r"no part 'langauge'.*has language"):
    tx = make_optimizer(OptimizerConfig(), 1)
    create({"language": {}}, tx, ("langauge",))
