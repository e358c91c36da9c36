"""Fake servers, and clients of them."""

import pytest

from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangChat, SGLangEngine
from tests.rollout import little
from tests.rollout.asking import QUICK
from tests.rollout.fake_server import Fake


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  return little.renderer(str(tmp_path_factory.mktemp("tokenizer")), True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  return little.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def start(words):
  """Starts servers; ends them after the test."""
  fakes = []

  def start(port=0):
    fakes.append(Fake(words.end_id, port))
    return fakes[-1]

  yield start
  for fake in fakes:
    fake.stop()


@pytest.fixture
def fake(start):
  return start()


@pytest.fixture
def client(words):
  """Makes engines; closes them after the test."""
  engines = []

  def make(*fakes, renderer=words, **config):
    urls = [f.url for f in fakes]
    config = ClientConfig(**{**QUICK, **config})
    engines.append(
      SGLangEngine(urls, config, renderer)
      if renderer
      else SGLangChat(urls, config)
    )
    return engines[-1]

  yield make
  for engine in engines:
    engine.close()
