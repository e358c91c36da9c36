from __future__ import annotations

import importlib.util

import jax
import pytest

TORCH = importlib.util.find_spec("torch") is not None

if TORCH:
  from tests.parity import tiny


@pytest.fixture(autouse=True)
def exact_matmuls():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(scope="session", params=tiny.SPECS if TORCH else (), ids=str)
def reference(request, tmp_path_factory) -> tiny.Reference:
  return tiny.build(request.param, tmp_path_factory.mktemp(str(request.param)))
