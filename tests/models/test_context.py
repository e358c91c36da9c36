"""Context parallelism: which device computes which queries of a row."""

import os
import subprocess
import sys

import numpy as np
import pytest

from sophia_jax.models.device_kernels import ContextSplit
from tests.devices import host_devices
from tests.models.test_kernels import OWN


@pytest.mark.parametrize("name", ["splash", pytest.param("tokamax", marks=OWN)])
def test_on_a_context_axis_it_is_the_reference(name):
  done = subprocess.run(
    [sys.executable, "-m", "tests.models.on_context", name],
    capture_output=True,
    text=True,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": host_devices(4),
    },
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    "context=4 tensor=1: the same",
    "context=2 tensor=2: the same",
  ]


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 16])
def test_every_device_has_the_same_causal_work(devices):
  length = 2 * devices * 8
  order = ContextSplit(("context",), devices).order(length)
  assert sorted(order) == list(range(length))
  keys = (order + 1).reshape(devices, -1).sum(axis=1)  # seen by its queries
  assert np.ptp(keys) == 0
