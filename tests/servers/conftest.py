"""Each server is started once for all tests that ask it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sophia_jax.checkpoints import Format
from tests.servers.served import Model, Served, make, serving

KEY = "only for tests"


@pytest.fixture(autouse=True, scope="session")
def flags_of_xla() -> None:
  """Leaves out what the tests set: a server's own jax may not know it."""
  os.environ.pop("XLA_FLAGS", None)


@pytest.fixture(scope="session")
def policy(tmp_path_factory) -> Model:
  """InternViT-300M's style with Qwen2, heads of 32, as transformers writes it."""
  directory = tmp_path_factory.mktemp("policy")
  model = make(directory, vision="300m", llm="qwen2", head_dim=32)
  model.save("policy")
  return model


@pytest.fixture(scope="session")
def policy_server(policy) -> Iterator[Served]:
  with serving(policy.directory, "policy", key=KEY) as server:
    yield server


@pytest.fixture(scope="session")
def big_policy(tmp_path_factory) -> Model:
  """InternViT-6B's style with InternLM2, heads of 128, in the original format."""
  directory = tmp_path_factory.mktemp("big_policy")
  model = make(directory, vision="6b", llm="internlm2", head_dim=128)
  model.save("policy", format=Format.INTERNVL_CHAT)
  return model


@pytest.fixture(scope="session")
def reasoner(tmp_path_factory) -> Model:
  """Llama's style with heads of 64."""
  model = make(tmp_path_factory.mktemp("reasoner"), llm="llama", head_dim=64)
  model.save("reasoner")
  return model
