"""The client against a real SGLang-JAX server."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangChat, SGLangEngine
from sophia_jax.servers import supervise
from sophia_jax.types import Chat, Request, Sampling, SophiaError
from tests.servers import served, tiny_config
from tests.servers.served import LENGTH, NEW, TOLERANCE

pytestmark = pytest.mark.servers

GREEDY = Sampling(temperature=0.0, max_new_tokens=NEW)


@pytest.fixture
def config(monkeypatch, policy_server):
  monkeypatch.setenv("TEST_KEY", policy_server.key)
  return ClientConfig(api_key_env="TEST_KEY", concurrency=8, backoff_s=0.1)


@pytest.fixture
def client(config, policy, policy_server):
  with SGLangEngine([policy_server.url], config, policy.words) as engine:
    yield engine


def test_the_server_passes_the_check(client, policy):
  client.check(str(policy.directory / "policy"), LENGTH)
  with pytest.raises(SophiaError, match="has a context of"):
    client.check(str(policy.directory / "policy"), 10 * LENGTH)
  with pytest.raises(SophiaError, match=r"serves .*policy, not"):
    client.check(str(policy.directory / "tokenizer"), LENGTH)


def test_it_says_what_the_embedded_engine_says(client, policy):
  prompts = served.prompts(policy)
  expected = dict(zip(prompts, policy.embedded(list(prompts.values()))))
  requests = (
    Request(id=f"{name}/{i}", prompt=prompt, sampling=GREEDY)
    for i in range(4)  # more at once than the server runs
    for name, prompt in prompts.items()
  )
  done = {c.request_id: c for c in client.generate(requests)}
  assert len(done) == 4 * len(prompts)
  for name, completion in done.items():
    want = expected[name.rpartition("/")[0]]
    assert completion.token_ids == want.token_ids
    assert completion.text == want.text
    assert completion.finish_reason == want.finish_reason
    np.testing.assert_allclose(
      completion.logps, want.logps, atol=TOLERANCE, rtol=0
    )


def test_a_seed_is_one_answer(client, policy):
  prompt = policy.prompt("What do you see")
  seeds = (7, 8, (1 << 62) + 9, 7)
  requests = [
    Request(
      id=str(i), prompt=prompt, sampling=Sampling(max_new_tokens=NEW, seed=seed)
    )
    for i, seed in enumerate(seeds)
  ]
  done = {c.request_id: c.token_ids for c in client.generate(requests)}
  assert done["0"] == done["3"]
  assert len(set(done.values())) == 3


def test_words_are_rendered_by_the_server(config, policy, policy_server):
  """Its template is ours, and a seed counts there too."""
  chat = Chat(text="What do you see", system="Look.")
  prompt = policy.words.prompt("What do you see")
  (expected,) = policy.embedded([prompt])
  how = [GREEDY, *(Sampling(max_new_tokens=NEW, seed=s) for s in (1, 2, 1))]
  requests = [
    Request(id=str(i), prompt=chat, sampling=h) for i, h in enumerate(how)
  ]
  with SGLangChat([policy_server.url], config) as engine:
    engine.check(str(policy.directory / "policy"), LENGTH)
    done = {c.request_id: c for c in engine.generate(requests)}
  assert done["0"].text == expected.text
  assert done["0"].finish_reason == expected.finish_reason
  assert done["1"].text == done["3"].text != done["2"].text


def test_what_the_server_refuses_is_said(client, policy):
  prompt = policy.prompt("What do you see")
  how = Sampling(max_new_tokens=10 * LENGTH)
  with pytest.raises(SophiaError, match=r"request long: .* answered 400: .*"):
    list(client.generate([Request(id="long", prompt=prompt, sampling=how)]))


def test_what_is_closed_early_is_aborted(client, policy, policy_server):
  prompt = policy.prompt("What do you see")
  how = Sampling(max_new_tokens=LENGTH - len(prompt) - 4)
  requests = (
    Request(id=str(i), prompt=prompt, sampling=how) for i in itertools.count()
  )
  completions = client.generate(requests)
  next(completions)
  completions.close()
  # It flushes only when nothing runs and nothing waits.
  deadline = time.monotonic() + 60
  while policy_server.post("/flush_cache", {})[0] != 200:
    assert time.monotonic() < deadline
    time.sleep(0.1)


def test_a_run_outlives_a_server_that_is_killed(policy, tmp_path):
  """SIGKILL in the middle, and another one on the same port."""
  spec = supervise.spec_of(
    tiny_config.get_config(),
    "policy",
    policy.directory / "policy",
    port=supervise.free_port(),
  )
  start = lambda name: supervise.Server(spec, "sglang_jax", tmp_path / name)
  first = start("first.log")
  second = []

  def restart():
    os.kill(first._process.pid, signal.SIGKILL)
    first._process.wait()
    deadline = time.monotonic() + 60
    while not second:  # its processes follow it a moment later
      try:
        second.append(start("second.log"))
      except SophiaError:
        assert time.monotonic() < deadline
        time.sleep(0.1)

  prompt = policy.prompt("What do you see")
  requests = [
    Request(id=str(i), prompt=prompt, sampling=GREEDY) for i in range(40)
  ]
  try:
    first.wait_ready(600)
    config = ClientConfig(concurrency=4, deadline_s=300, give_up_s=600)
    done = []
    with SGLangEngine([first.url], config, policy.words) as engine:
      for completion in engine.generate(requests):
        done.append(completion)
        if len(done) == 10:
          restarting = threading.Thread(target=restart)
          restarting.start()
    restarting.join()
  finally:
    for server in (first, *second):
      server.stop()
  (expected,) = policy.embedded([prompt])
  assert sorted(int(c.request_id) for c in done) == list(range(40))
  assert {c.token_ids for c in done} == {expected.token_ids}
