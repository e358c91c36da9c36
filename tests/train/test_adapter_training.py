"""Sessions that train adapters: what changes, what is kept, and where it lies."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from sophia_jax.models import InternVL, lora
from sophia_jax.train.outputs import response_logps
from tests.devices import host_devices
from tests.train import adapted, rounds, toy

CONFIG = dataclasses.replace(rounds.CONFIG, lora_rank=4, lora_alpha=8.0)


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
  """Two epochs of two updates, for SOPHIA's term."""
  directory = tmp_path_factory.mktemp("batches")
  toy.fresh_params()  # outside of a mesh: shapes have no place
  sequences = [
    dataclasses.replace(s, streams=toy.streams(s.roles, 1.0))
    for s in rounds.samples(directory)
  ]
  return list(
    rounds.loader(sequences, toy.one_device(), algorithm=toy.ALGORITHM)
  )


def test_adapters_learn_and_resume_to_the_last_bit(batches, tmp_path):
  session = lambda name: rounds.session(
    tmp_path / name, toy.ALGORITHM, config=CONFIG
  )
  with session("whole") as opened:
    for batch in batches:
      opened.update(batch)
    wanted = jax.device_get(opened.params())
    start = opened.unadapted().params
    # Moments of the adapters alone.
    held = sum(x.size for x in jax.tree.leaves(opened._state.opt_state))
    size = sum(x.size for x in jax.tree.leaves(wanted[lora.PART]))
    assert 2 * size <= held < 2 * size + 10
  jax.tree.map(np.testing.assert_array_equal, start, toy.fresh_params())
  assert wanted.keys() == {*toy.fresh_params(), lora.PART, lora.SCALE}
  for path, a, b in lora.pairs(wanted[lora.PART]):
    assert np.abs(b).max() > 1e-4 and a.any(), path
  with session("cut") as opened:
    for batch in batches[:2]:
      opened.update(batch)
    opened.save({})
  saved = sum(
    p.stat().st_size for p in (tmp_path / "cut").rglob("*") if p.is_file()
  )
  assert saved < 4 * sum(x.nbytes for x in jax.tree.leaves(toy.fresh_params()))
  with session("cut") as opened:
    assert opened.step == 2
    for batch in batches[2:]:
      opened.update(batch)
    found = jax.device_get(opened.params())
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_the_gradient_is_that_of_merged_weights():
  """d loss / d A and d loss / d B, by the product that is never formed."""
  micro = jax.tree.map(lambda x: x[0], toy.batch(*toy.REFERENCE))
  rng = np.random.default_rng(1)
  tree = jax.tree.map(
    lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype),
    lora.abstract(toy.CFG, adapted.HOW),
  )
  model, scale = InternVL(toy.CFG), np.float32(adapted.HOW.scale)

  def loss(tree, whole):
    params = whole(lora.attach(toy.fresh_params(), tree, scale))
    return response_logps(model, params, micro, 16).sum()

  found, wanted = (
    jax.jit(jax.grad(loss), static_argnums=1)(tree, whole)
    for whole in (lambda params: params, lora.merge)
  )
  for path, a, b in lora.pairs(wanted):
    at = path.removesuffix("kernel")
    ours = {p: (x, y) for p, x, y in lora.pairs(found)}[path]
    for name, got, want in zip("ab", ours, (a, b)):
      error = np.abs(got - want).max() / np.abs(want).max()
      assert error < 1e-4, f"{at}{name}"


def test_a_mesh_changes_nothing(tmp_path):
  subprocess.run(
    [sys.executable, "-m", "tests.train.adapted", str(tmp_path)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": host_devices(8),
      "TF_CPP_MIN_LOG_LEVEL": "2",
    },
    check=True,
  )
  one, mesh = (dict(np.load(tmp_path / f"{n}.npz")) for n in ("one", "mesh"))
  toy.assert_same_updates(mesh, one)
  assert any("lora" in name or name.endswith("/b") for name in one)
