"""Weights of a real SGLang-JAX server change while it answers."""

import pytest

from sophia_jax.checkpoints import Format
from sophia_jax.servers import supervise
from tests.servers import tiny_config, updating
from tests.servers.served import serving

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def server(policy):
  with serving(policy.directory, "policy", key="a key of updates") as found:
    yield found


def test_three_updates_in_flight(policy, server, tmp_path, monkeypatch):
  monkeypatch.setenv("TEST_KEY", server.key)
  updating.updates_in_flight(policy, server, tmp_path, Format.HF)


def test_only_what_is_used_is_open(policy, server):
  updating.only_what_is_used_is_open(policy, server, "sglang_jax", "sgl_jax")


def test_the_key_stays_secret(server):
  updating.the_key_stays_secret(server)


def test_weights_outside_of_their_directory_are_refused(server):
  status, answer = server.post(
    "/update_weights_from_disk", {"model_path": "/etc"}
  )
  assert status == 400 and "not below" in answer["message"]


def test_a_killed_server_is_waited_for(policy, tmp_path):
  config = tiny_config.get_config()
  config.serve.weights = str(tmp_path)
  spec = supervise.spec_of(
    config,
    "policy",
    policy.directory / "policy",
    port=supervise.free_port(),
  )
  updating.a_killed_server_is_waited_for(policy, spec, "sglang_jax", tmp_path)
