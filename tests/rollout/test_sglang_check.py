"""The check of a server before anything is sampled, and of its address."""

import threading

import pytest

from sophia_jax.rollout import readiness
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangEngine
from sophia_jax.types import SophiaError
from tests.rollout.fake_server import status, stuck


def ready(fake, words):
  fake.prompt_tokens = words.count(readiness._TEXT)


def test_a_good_server_passes(fake, client, words):
  ready(fake, words)
  client(fake).check("/here/little/", 95)
  *_, probe = fake.asked
  assert probe["sampling_params"]["max_new_tokens"] == 1
  assert probe["return_logprob"] is True


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (lambda f: f.stop(), "no rollout server at"),
    (lambda f: f.models["data"].clear() or f.info.update(model_path="/m/big"),
     "serves /m/big, not /models/little"),
    (lambda f: f.models["data"][0].update(max_model_len=80),
     "has a context of 80 tokens"),
    (lambda f: setattr(f, "prompt_tokens", 3), "makes 3 tokens of a text"),
    (lambda f: setattr(f, "always", status(500)), "does not generate"),
    (lambda f: setattr(f, "always", stuck), "does not generate: no answer"),
  ],
)  # fmt: skip
def test_a_server_that_will_not_do_is_found_out(
  fake, client, words, spoil, message
):
  ready(fake, words)
  # Two seconds, so that only the server that is stuck takes them.
  engine = client(fake, deadline_s=2.0)
  spoil(fake)
  with pytest.raises(SophiaError, match=message) as raised:
    engine.check("/models/little", 95)
  assert fake.url in str(raised.value)
  assert "\n" not in str(raised.value)


def test_a_server_that_is_starting_is_waited_for(start, client, words):
  fake = start()
  engine = client(fake, ready_s=20.0)
  fake.stop()

  def restart():
    ready(start(fake.port), words)

  threading.Timer(0.5, restart).start()
  engine.check("little", 95)


def test_directories_that_are_both_here_are_compared(
  fake, client, words, tmp_path
):
  ready(fake, words)
  ours, theirs = tmp_path / "a" / "warm", tmp_path / "b" / "warm"
  ours.mkdir(parents=True)
  theirs.mkdir(parents=True)
  fake.models["data"].clear()
  fake.info["model_path"] = str(theirs)
  with pytest.raises(SophiaError, match=f"serves {theirs}, not {ours}"):
    client(fake).check(str(ours), 95)
  client(fake).check(str(theirs), 95)


@pytest.mark.parametrize("url", ["localhost:30000", "ftp://x", ""])
def test_a_url_is_a_url(words, url):
  with pytest.raises(SophiaError, match="give http://HOST:PORT"):
    SGLangEngine([url], ClientConfig(), words)


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"deadline_s": -1.0}])
def test_a_config_makes_sense(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    ClientConfig(**bad)
