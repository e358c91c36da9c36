"""A model of random weights, and its directory."""

import pytest

from sophia_jax.checkpoints import save_params
from tests.checkpoints.toy import CFG, random_params


@pytest.fixture(scope="session")
def params():
  return random_params(CFG)


@pytest.fixture
def saved(params, tmp_path):
  save_params(params, CFG, tmp_path / "model")
  return tmp_path / "model"
