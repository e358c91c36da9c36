"""Weights of a real SGLang (PyTorch) server change while it answers."""

import pytest

from sophia_jax.checkpoints import Format
from sophia_jax.servers import supervise
from tests.servers import served, tiny_config, updating

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  directory = tmp_path_factory.mktemp("sglang")
  made = served.make(directory, vision="6b", llm="qwen2", head_dim=8)
  made.save("policy", format=Format.INTERNVL_CHAT)
  return made


@pytest.fixture(scope="module")
def server(model):
  with served.serving(
    model.directory, "policy", "a key of updates", options=OPTIONS
  ) as found:
    yield found


OPTIONS = (
  "--backend=sglang",
  f"--config.serve.extra={('--chunked-prefill-size', str(tiny_config.CHUNK))}",
)


def test_three_updates_in_flight(model, server, tmp_path, monkeypatch):
  monkeypatch.setenv("TEST_KEY", server.key)
  updating.updates_in_flight(model, server, tmp_path, Format.INTERNVL_CHAT)


def test_only_what_is_used_is_open(model, server):
  updating.only_what_is_used_is_open(model, server, "sglang", "sglang")


def test_the_key_stays_secret(server):
  updating.the_key_stays_secret(server)


def test_pickles_and_other_directories_are_refused(model, server, tmp_path):
  for body in (
    {"model_path": "/etc"},
    {"model_path": str(tmp_path / "none"), "load_format": "pt"},
  ):
    status, answer = server.post("/update_weights_from_disk", body)
    assert status == 400 and "\n" not in answer["message"]


def test_a_killed_server_is_waited_for(model, tmp_path):
  config = tiny_config.get_config()
  config.serve.backend, config.serve.extra = "sglang", ()
  config.serve.weights = str(tmp_path)
  spec = supervise.spec_of(
    config,
    "policy",
    model.directory / "policy",
    port=supervise.free_port(),
  )
  updating.a_killed_server_is_waited_for(model, spec, "sglang", tmp_path)
