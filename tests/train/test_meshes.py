"""The update does not depend on the mesh, nor on how rows lie on it."""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.devices import host_devices
from tests.train import toy

# An axis alone, and any three together: every pair of axes is in some of them.
FEW = {n: s for n, s in toy.MESHES.items() if max(s) in (2, 8)}


def update(directory, meshes, block, optimizations):
  """{name of a mesh and arrangement: arrays}, and facts of each mesh."""
  subprocess.run(
    [
      *(sys.executable, "-m", "tests.train.on_meshes"),
      *(str(directory), str(block), *meshes),
    ],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(not optimizations)),
      "XLA_FLAGS": host_devices(8),
      "TF_CPP_MIN_LOG_LEVEL": "2",  # partitions that could be better, at length
    },
    check=True,
  )
  arrays = {p.stem: dict(np.load(p)) for p in directory.glob("*.npz")}
  return arrays, json.loads((directory / "facts.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """Log-probabilities by blocks: 64 tokens are no multiple of 5."""
  directory = tmp_path_factory.mktemp("meshes")
  # A half of the time to compile; what is computed is the same.
  return update(directory, FEW, 5, optimizations=False)


def test_there_are_all_meshes():
  assert len(toy.MESHES) == math.comb(3 + 3, 3)  # 8 = 2 x 2 x 2 over four axes
  assert len(FEW) == 8


@pytest.mark.parametrize("arrangement", toy.ARRANGEMENTS)
@pytest.mark.parametrize("mesh", FEW)
def test_the_mesh_changes_nothing(mesh, arrangement, found):
  arrays, _ = found
  toy.assert_same_updates(arrays[f"{mesh}, {arrangement}"], arrays["reference"])


@pytest.mark.parametrize("mesh", FEW)
def test_one_program_with_images_and_without(mesh, found):
  facts = found[1][mesh]
  assert facts["devices"] == 8
  assert facts["image_tokens"] == 0
  assert facts["compilations"] == 1


@pytest.mark.parametrize("mesh", FEW)
def test_parameters_and_moments_are_split_alike(mesh, found):
  """The moments of a 38B model fit nowhere whole."""
  facts, (_, fsdp, context, tensor) = found[1][mesh], FEW[mesh]
  params = toy.fresh_params()
  # The projector is narrow, and a vocabulary of 67 does not divide.
  narrow = jax.tree.leaves(params["projector"])
  narrow += [params["language"][name] for name in ("embedding", "head")]
  size = sum(x.size for x in jax.tree.leaves(params))
  whole = sum(x.size for x in narrow) / size
  wanted = (whole + (1 - whole) / tensor) / (fsdp * context)
  assert wanted <= facts["params"] < wanted + 0.1  # norms and biases
  assert facts["moments"] == pytest.approx(facts["params"], abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("block", [5, 1024])
def test_every_mesh_fully_optimized(block, tmp_path):
  """As a real run is compiled, by blocks and not."""
  arrays, facts = update(tmp_path, toy.MESHES, block, optimizations=True)
  for mesh in toy.MESHES:
    assert (facts[mesh]["devices"], facts[mesh]["compilations"]) == (8, 1)
    for arrangement in toy.ARRANGEMENTS:
      toy.assert_same_updates(
        arrays[f"{mesh}, {arrangement}"], arrays["reference"]
      )
