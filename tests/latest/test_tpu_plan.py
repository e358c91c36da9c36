"""What compiles for a TPU where there is none: needs libtpu."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sophia_jax.models import kernels
from sophia_jax.plans import aot
from sophia_jax.train import sharding
from tests.launch import test_plan as common

pytestmark = pytest.mark.latest

TOPOLOGY = "v5p:2x2x1"

CONFIG = """
from configs import internvl3_8b

def get_config():
  c = internvl3_8b.get_config()
  c.size = ""
  c.policy.path = {path!r}
  c.stages.sophia.train.length, c.stages.sophia.train.block, c.stages.sophia.train.rows = 512, 256, 4
  c.stages.sophia.train.tiles, c.stages.sophia.train.microbatches = 4, 2
  return c
"""


@pytest.mark.parametrize("name", ["auto", "tokamax"])
def test_splash_is_what_a_tpu_runs_forward_and_backward(name):
  mesh = sharding.make_mesh(
    sharding.MeshConfig(fsdp=1, context=2, tensor=2), aot.devices(TOPOLOGY)
  )
  spec = PartitionSpec("fsdp", "context", "tensor")
  rows = lambda *shape, dtype: jax.ShapeDtypeStruct(
    shape,
    dtype,
    sharding=NamedSharding(mesh, PartitionSpec(*spec[: len(shape)])),
  )
  q = rows(1, 1024, 4, 128, dtype=jnp.bfloat16)
  kv = rows(1, 1024, 2, 128, dtype=jnp.bfloat16)
  ids = jax.ShapeDtypeStruct(
    (1, 1024), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec("fsdp"))
  )
  loss = lambda *args: jnp.sum(kernels.attend(name, *args))
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, ids)
    text = compiled.compile().as_text()
  assert "splash_mha_fwd" in text and "splash_mha_dkv" in text
  assert ("tokamax" in text) == (name == "tokamax")


def test_a_small_step_is_planned_for_a_tpu(tmp_path):
  path = common.written(tmp_path, common.WIDE, CONFIG)
  done = common.plan(f"--config={path}", f"--topology={TOPOLOGY}")
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["source"] == "compiled" and found["fits"]
  assert 0 < found["peak_gib"] < 1 < found["hbm_gib"]
  assert found["seconds"]["blocks"] > 0 and found["seconds"]["vision"] > 0
  assert 0 < found["estimated_mfu"] < 1
  assert sum(found["collectives_gib"].values()) > 0
