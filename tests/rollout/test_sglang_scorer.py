"""Log-probabilities of given responses from servers."""

import pytest
from aiohttp import web

from sophia_jax.rollout import wire
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangScorer
from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import Prompt, Request, Sampling
from tests.rollout import little
from tests.rollout.fake_server import Fake

IDS = [4, 8, 15, 16]


def answer(ids, first=None):
  triples = [[-0.25 * i, token, None] for i, token in enumerate(ids)]
  triples[0][0] = first
  return {"meta_info": {"input_token_logprobs": triples}}


def test_the_last_ids_are_read_and_the_first_is_null():
  assert wire.read_scored(answer(IDS), IDS, 2) == (-0.5, -0.75)
  assert wire.read_scored(answer(IDS[1:]), IDS, 2) == (-0.25, -0.5)
  assert wire.read_scored(answer(IDS), IDS, 0) == ()


@pytest.mark.parametrize(
  "bad",
  [
    None,
    {},
    {"meta_info": {}},
    {"meta_info": {"input_token_logprobs": []}},
    {"meta_info": {"input_token_logprobs": [1, 2, 3]}},
    {"meta_info": {"input_token_logprobs": [[None, 15], [-1.0, 16]]}},
    {"meta_info": {"input_token_logprobs": [[float("nan"), 15], [-1.0, 16]]}},
    answer([4, 8, 15, 17]),
    answer([16]),
  ],
)
def test_another_answer_is_trouble(bad):
  with pytest.raises(Trouble):
    wire.read_scored(bad, IDS, 2)


def test_a_server_is_asked_by_ids(tmp_path):
  words = little.renderer(str(tmp_path / "words"), vision=False)

  async def scored(fake, request):
    body = await request.json()
    return web.json_response(answer(body["input_ids"]))

  server = Fake(words.end_id)
  server.always = scored
  try:
    prompt = words.prompt("What do you see")
    sequence = words.sequence(prompt, "red ink", id="a")
    request = Request(
      id="a",
      prompt=Prompt(token_ids=sequence.token_ids, roles=sequence.roles),
      sampling=Sampling(temperature=0.0, max_new_tokens=1),
    )
    with SGLangScorer([server.url], ClientConfig(), words) as engine:
      (found,) = engine.generate([request])
  finally:
    server.stop()
  ids = sequence.token_ids.tolist()
  assert server.asked[0]["input_ids"] == ids
  assert [*found.token_ids] == ids[len(prompt) :]
  assert found.logps == tuple(-0.25 * i for i in range(len(prompt), len(ids)))
