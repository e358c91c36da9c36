"""The other encoder, the other decoders, and heads of 64 and 128."""

from __future__ import annotations

import os
import signal

import numpy as np
import psutil
import pytest

from sophia_jax.types import Chat, Request, Sampling
from tests.rollout import little
from tests.servers import served
from tests.servers.served import ENGINE, NEW, TOLERANCE, body

pytestmark = pytest.mark.servers


def test_the_big_encoder_with_internlm2_over_four_devices(big_policy):
  """More devices than key heads, and a vocabulary that they do not divide."""
  asked = served.prompts(big_policy)
  expected = big_policy.embedded(list(asked.values()))
  with served.serving(big_policy.directory, "policy", devices=4) as server:
    for prompt, completion in zip(asked.values(), expected):
      ids, logps = server.ask(body(prompt, big_policy.words.end_id))
      assert tuple(ids) == completion.token_ids
      np.testing.assert_allclose(
        logps, completion.logps, atol=TOLERANCE, rtol=0
      )


def test_a_reasoner_is_asked_in_words_and_ends_with_its_launcher(reasoner):
  with served.serving(reasoner.directory, "reasoner") as server:
    asks_in_words(reasoner, server)
    family = psutil.Process(server.launcher.pid).children(recursive=True)
    assert len(family) > 2
    os.kill(server.launcher.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert len(gone) == len(family)


def asks_in_words(reasoner, server):
  texts = ["What do you see", "red ink on paper"]
  weights = little.params(reasoner.module)
  engine = little.engine(reasoner.module, reasoner.words, weights, ENGINE)
  how = Sampling(temperature=0.0, max_new_tokens=NEW)
  requests = [
    Request(id=text, prompt=Chat(text=text), sampling=how) for text in texts
  ]
  expected = {c.request_id: c.text for c in engine.generate(requests)}
  for text in texts:
    assert said(server, text, temperature=0.0) == expected[text]
  drawn = [said(server, texts[0], temperature=1.0, seed=s) for s in (3, 3, 4)]
  assert drawn[0] == drawn[1] != drawn[2]


def said(server, text, **how):
  request = {
    "model": "any",
    "messages": [{"role": "user", "content": text}],
    "max_tokens": NEW,
    **how,
  }
  status, answer = server.post("/v1/chat/completions", request)
  assert status == 200, answer
  return answer["choices"][0]["message"]["content"]


def test_a_server_that_dies_ends_its_launcher(reasoner):
  with served.serving(reasoner.directory, "reasoner") as server:
    family = psutil.Process(server.launcher.pid).children(recursive=True)
    scheduler = next(p for p in family if "scheduler" in " ".join(p.cmdline()))
    scheduler.kill()
    assert server.launcher.wait(timeout=60) == 1
    psutil.wait_procs(family, timeout=20)
  errors = (reasoner.directory / "launch-reasoner.log").read_text("utf-8")
  assert str(server.log) in errors.splitlines()[-1]
