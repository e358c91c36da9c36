"""Where each role generates, as the config says."""

import pytest
from ml_collections import ConfigDict

from sophia_jax.config import defaults
from sophia_jax.data.images import ImageConfig
from sophia_jax.rollout import readiness
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.runs import engines, policies
from sophia_jax.runs.policies import ReasonerConfig, RuntimeConfig
from sophia_jax.runs.run import Run
from sophia_jax.train.sharding import MeshConfig
from sophia_jax.types import Chat, Request, Sampling, SophiaError
from tests.launch.commands import export
from tests.rollout import little
from tests.rollout.fake_server import Fake


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
  """Directories of a policy and of a reasoner."""
  new = tmp_path_factory.mktemp
  return {
    name: export(new(name) / "little", new("words"), vision)
    for name, vision in (("policy", True), ("reasoner", False))
  }


@pytest.fixture
def config(checkpoints):
  c = ConfigDict()
  c.policy = defaults(
    RuntimeConfig, path=str(checkpoints["policy"]), dtype="float32"
  )
  c.reasoners = {
    "easy": defaults(ReasonerConfig, path=str(checkpoints["reasoner"]))
  }
  c.prompts = {"system": "Look."}
  c.images = defaults(ImageConfig, tile_size=little.SIDE, max_tiles=4)
  c.engine = defaults(EngineConfig, slots=4, length=96, prefill_rows=2, chunk=3)
  c.mesh = defaults(MeshConfig)
  c.captioning = defaults(Sampling, max_new_tokens=8)
  c.reasoning = defaults(Sampling, max_new_tokens=8)
  return c


@pytest.fixture
def fake(checkpoints):
  words = little.renderer(str(checkpoints["policy"]), True)
  fake = Fake(words.end_id)
  fake.prompt_tokens = words.count(readiness._TEXT)
  yield fake
  fake.stop()


def question(name="a"):
  how = Sampling(temperature=0.0, max_new_tokens=6)
  return Request(id=name, prompt=Chat(text="What do you see"), sampling=how)


def test_both_are_embedded_by_default(config, checkpoints, tmp_path):
  run = Run(config, tmp_path)
  with (
    engines.policy(run, checkpoints["policy"], 8) as policy,
    engines.reasoner(run, "easy") as reasoner,
  ):
    for engine in (policy, reasoner):
      assert isinstance(engine, EmbeddedEngine)
      (completion,) = engine.generate([question()])
      assert completion.token_ids


def test_a_served_policy_needs_no_weights_here(
  config, checkpoints, tmp_path, fake, monkeypatch
):
  monkeypatch.delattr(policies, "load_sharded")
  config.policy.engine = "sglang"
  config.policy.urls = f"{fake.url}/"
  fake.info["model_path"] = str(checkpoints["policy"])
  with engines.policy(
    Run(config, tmp_path), checkpoints["policy"], 8
  ) as policy:
    (completion,) = policy.generate([question()])
    expected = policy.renderer.prompt("What do you see").token_ids.tolist()
  assert completion.token_ids == tuple(fake.ids)
  assert fake.asked[-1]["input_ids"] == expected


def test_a_served_reasoner_is_asked_in_words(config, tmp_path, fake):
  config.reasoners.easy.engine = "sglang"
  config.reasoners.easy.urls = f"{fake.url}, {fake.url}"
  config.reasoners.easy.path = "not/here/little"
  with engines.reasoner(Run(config, tmp_path), "easy") as reasoner:
    assert len(list(reasoner.generate([question()]))) == 1
  assert fake.asked[-1]["messages"][-1]["content"] == "What do you see"


@pytest.mark.parametrize(
  ("need", "length"), [(8, 4 * (4 + 1) + 8), (20, 4 * (4 + 1) + 20)]
)
def test_a_context_that_is_too_short_is_found_out(
  config, checkpoints, tmp_path, fake, need, length
):
  config.policy.engine, config.policy.urls = "sglang", fake.url
  fake.info["model_path"] = str(checkpoints["policy"])
  run = Run(config, tmp_path)
  fake.models["data"][0]["max_model_len"] = length
  with (
    pytest.raises(SophiaError, match=f"a context of {length} tokens"),
    engines.policy(run, checkpoints["policy"], need),
  ):
    pass
  fake.models["data"][0]["max_model_len"] = length + 1
  with engines.policy(run, checkpoints["policy"], need):
    pass


def test_another_name_may_be_given(config, checkpoints, tmp_path, fake):
  fake.info["model_path"] = "/models/other"
  fake.models["data"][0]["id"] = "org/other"
  config.policy.engine, config.policy.urls = "sglang", fake.url
  with (
    pytest.raises(SophiaError, match="serves org/other alias /models/other"),
    engines.policy(Run(config, tmp_path), checkpoints["policy"], 8),
  ):
    pass
  config.policy.served = "org/other"
  with engines.policy(Run(config, tmp_path), checkpoints["policy"], 8):
    pass


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"engine": "vllm"}, "engine must be one of embedded, sglang"),
    ({"remat": "most"}, "remat must be one of none, dots, up, attention"),
    ({"attention": "fast"}, "attention must be one of auto, xla, blockwise"),
    ({"dtype": "fp8"}, "dtype must be one of float32, bfloat16, float16"),
    ({"urls": "http://a"}, "urls are given, engine is 'embedded'"),
    ({"engine": "sglang", "urls": "a:1"}, "give http://HOST:PORT"),
  ],
)
def test_mistakes_are_one_line(config, checkpoints, tmp_path, changes, message):
  config.policy.update(changes)
  with (
    pytest.raises(SophiaError, match=message),
    engines.policy(Run(config, tmp_path), checkpoints["policy"], 8),
  ):
    pass
