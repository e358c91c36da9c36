"""InternVL3.5's decoder in both servers, before and after new weights."""

from __future__ import annotations

import numpy as np
import pytest

from sophia_jax.checkpoints import Format
from tests.servers import served
from tests.servers.served import TOLERANCE, Model, Served, body
from tests.servers.tiny_config import CHUNK

pytestmark = pytest.mark.servers

OPTIONS = {
  "sglang_jax": (),
  "sglang": (
    "--backend=sglang",
    f"--config.serve.extra={('--chunked-prefill-size', str(CHUNK))}",
  ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
  """Heads of 16, which together are wider than the model."""
  directory = tmp_path_factory.mktemp("qwen3")
  made = served.make(directory, vision="300m", llm="qwen3", head_dim=16)
  made.save("policy", format=Format.INTERNVL_CHAT)
  made.save("other", seed=1, format=Format.INTERNVL_CHAT)
  return made


@pytest.fixture(scope="module", params=OPTIONS)
def server(request, model):
  options = OPTIONS[request.param]
  with served.serving(model.directory, "policy", options=options) as found:
    yield found


def answers_are_the_embedded_engines(
  model: Model, server: Served, seed: int
) -> None:
  asked = list(served.prompts(model).values())
  for prompt, completion in zip(asked, model.embedded(asked, seed)):
    ids, logps = server.ask(body(prompt, model.words.end_id))
    assert tuple(ids) == completion.token_ids
    np.testing.assert_allclose(logps, completion.logps, atol=TOLERANCE, rtol=0)


def test_greedy_answers_of_both_weights(model, server):
  answers_are_the_embedded_engines(model, server, seed=0)
  directory = str(model.directory / "other")
  status, said = server.post(
    "/update_weights_from_disk", {"model_path": directory}
  )
  assert status == 200, said
  answers_are_the_embedded_engines(model, server, seed=1)
