"""The weights that a round hands to the policy's engine."""

import dataclasses
import gc
import weakref

import jax
import numpy as np

from sophia_jax.models import InternVL, logical_axes
from sophia_jax.runs import policies, sampler, training
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import sharding
from sophia_jax.train.outputs import response_logps
from sophia_jax.train.session import Session
from sophia_jax.train.state import copied
from tests.launch import rounds, rounds_config
from tests.train import rounds as small
from tests.train import toy


def test_they_are_in_the_dtype_of_the_computation_and_compute_the_same(
  tmp_path,
):
  model = InternVL(dataclasses.replace(toy.CFG, dtype="bfloat16"))
  mesh = toy.one_device()
  params = sharding.place(toy.fresh_params(), logical_axes(toy.CFG), mesh)
  batch = jax.tree.map(lambda x: x[0], toy.batch([[[1]]], 32, 0))
  logps = jax.jit(
    response_logps,
    static_argnums=(0, 3),
    compiler_options={"xla_backend_optimization_level": "0"},
  )
  with Session(
    *(model, params, toy.ALGORITHM, small.CONFIG, tmp_path, {}, mesh),
    updates=1,
  ) as session:
    given, own = training.for_engine(session), session.model_params
    for found, dtype in ((own, "float32"), (given, "bfloat16")):
      assert {x.dtype.name for x in jax.tree.leaves(found["language"])} == {
        dtype
      }
    # Frozen parts are shared: no update donates them.
    assert given["vision"] is own["vision"]
    np.testing.assert_array_equal(
      *(logps(model, p, batch, 32) for p in (given, own))
    )


def test_those_that_an_engine_begins_with_are_let_go(tmp_path):
  workdir = rounds.ready(tmp_path / "W")
  run = Run(rounds_config.get_config(), str(workdir))
  stage = stages.read(run.config, "grpo")
  model = training.opened(run, stage)
  params = policies.weights(model, sharding.make_mesh(sharding.MeshConfig()))
  other = copied(params)
  begin = weakref.ref(params["language"]["embedding"])
  with sampler.opened(run, stage, model, params, {}) as opened:
    del params
    gc.collect()
    assert begin() is not None
    opened.load(other, 1)
    gc.collect()
    assert begin() is None
