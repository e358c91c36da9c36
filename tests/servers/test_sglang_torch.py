"""A real SGLang (PyTorch) server of a policy, on the CPU.

Against the embedded engine and transformers. Started once for each variant, by
`launch.serve --backend=sglang`; a start takes most of the time.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils import murmurhash3_32
from transformers import AutoModelForImageTextToText

from sophia_jax.checkpoints import Format, save_params
from sophia_jax.data.images import TileCache
from sophia_jax.models import InternVL
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangEngine
from sophia_jax.servers.backends import sglang
from sophia_jax.types import Prompt, Request, Sampling
from tests.parity import tiny
from tests.rollout import little
from tests.servers import served
from tests.servers.served import NEW, TOLERANCE, Model, Served, body, encoded
from tests.servers.tiny_config import CHUNK, LENGTH

pytestmark = pytest.mark.servers

KEY = "only for tests"
CASES = (
  *("no image", "one image", "tiles", "several images"),
  *("sixteen frames", "over a chunk"),
)
# Both encoders and both decoders.
VARIANTS = [
  ("6b", "qwen2"),
  pytest.param(("300m", "internlm2"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=VARIANTS, ids="-".join)
def model(request, tmp_path_factory) -> Model:
  vision, llm = request.param
  directory = tmp_path_factory.mktemp(f"{vision}-{llm}")
  made = served.make(directory, vision=vision, llm=llm, head_dim=8)
  # As in every released InternVL; it changes nothing below max_positions.
  decoder = dataclasses.replace(
    made.module.cfg.decoder,
    rope_scaling="dynamic",
    rope_factor=2.0,
    max_positions=512,
  )
  cfg = dataclasses.replace(made.module.cfg, decoder=decoder)
  made = dataclasses.replace(made, module=InternVL(cfg))
  made.save("policy", format=Format.INTERNVL_CHAT)
  made.save("other", seed=1, format=Format.INTERNVL_CHAT)
  made.save("hf", format=Format.HF)
  return made


@pytest.fixture(scope="module")
def server(model):
  chunks = ("--chunked-prefill-size", str(CHUNK))
  options = ("--backend=sglang", f"--config.serve.extra={chunks}")
  with served.serving(model.directory, "policy", KEY, options=options) as found:
    yield found


@pytest.fixture(scope="module")
def asked(model) -> dict[str, Prompt]:
  return served.prompts(model)


@pytest.fixture(scope="module")
def expected(model, asked):
  return dict(zip(asked, model.embedded(list(asked.values()))))


@pytest.fixture(scope="module")
def allowed(model) -> np.ndarray:
  """Which ids an answer may hold."""
  mask = np.ones(model.module.cfg.decoder.vocab, bool)
  mask[list(model.words.banned_ids)] = False
  mask[model.words.vocab_size :] = False
  return mask


@pytest.fixture(scope="module")
def reference(model):
  """(prompt, answer) -> log p of every id at each of the answer's places."""
  hf = AutoModelForImageTextToText.from_pretrained(
    model.directory / "hf", dtype=torch.float32
  ).eval()
  cut = TileCache(little.IMAGES)

  @torch.no_grad()
  def logps(prompt: Prompt, ids: list[int]) -> np.ndarray:
    tiles = [cut(*shown) for shown in zip(prompt.images, prompt.tiles)]
    whole = np.append(prompt.token_ids, ids[:-1]).astype(np.int64)
    logits = hf(
      input_ids=torch.from_numpy(whole)[None],
      pixel_values=tiny.pixels(np.concatenate(tiles)) if tiles else None,
    ).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1).numpy()

  return logps


def same(answer, completion) -> None:
  ids, logps = answer
  assert tuple(ids) == completion.token_ids
  np.testing.assert_allclose(logps, completion.logps, atol=TOLERANCE, rtol=0)


# ------------------------------------------------------------------------- answers
@pytest.mark.parametrize("case", CASES)
def test_greedy_answers_are_the_embedded_engines(
  model, server, asked, expected, case
):
  # A prefix that is already there would shift the chunks.
  server.post("/flush_cache", {})
  request = body(asked[case], model.words.end_id)
  same(server.ask(request), expected[case])
  same(server.ask(request), expected[case])  # from both caches


@pytest.mark.parametrize("case", CASES)
def test_greedy_answers_are_those_of_transformers(
  model, server, asked, allowed, reference, case
):
  ids, found = server.ask(body(asked[case], model.words.end_id))
  logps = reference(asked[case], ids)
  best = np.where(allowed, logps, -np.inf).argmax(-1)
  assert ids == best.tolist()
  drawn = logps[np.arange(len(ids)), ids]
  np.testing.assert_allclose(found, drawn, atol=TOLERANCE, rtol=0)


def test_a_list_of_requests(model, server, asked, expected):
  server.post("/flush_cache", {})
  single = [body(p, model.words.end_id) for p in asked.values()]
  keys = ("input_ids", "image_data", "sampling_params", "logprob_start_len")
  request: dict[str, Any] = {k: [b.get(k, []) for b in single] for k in keys}
  status, answers = server.post(
    "/generate", {**request, "return_logprob": True}
  )
  assert status == 200, answers
  for answer, case in zip(answers, asked, strict=True):
    assert answer["meta_info"]["prompt_tokens"] == len(asked[case])
    same(served.triples(answer), expected[case])


def test_our_client_gets_the_same(model, server, asked, expected, monkeypatch):
  monkeypatch.setenv("TEST_KEY", server.key)
  config = ClientConfig(api_key_env="TEST_KEY")
  how = Sampling(temperature=0.0, max_new_tokens=NEW)
  requests = [
    Request(id=case, prompt=prompt, sampling=how)
    for case, prompt in asked.items()
  ]
  with SGLangEngine([server.url], config, model.words) as client:
    client.check(str(model.directory / "policy"), LENGTH)
    done = {c.request_id: c for c in client.generate(requests)}
  assert done.keys() == expected.keys()
  for case, found in done.items():
    same((found.token_ids, found.logps), expected[case])
    assert found.text == expected[case].text
    assert found.finish_reason == expected[case].finish_reason


# ------------------------------------------------------------------------ sampling
@pytest.mark.parametrize(
  "how", [{}, {"top_p": 0.8}, {"top_k": 4}, {"temperature": 0.5}], ids=str
)
def test_a_seed_decides_and_scores_are_at_temperature_one(
  model, server, asked, reference, how
):
  prompt, how = asked["one image"], {"temperature": 1.0, **how}
  draw = lambda **seed: server.ask(
    body(prompt, model.words.end_id, **how, **seed)
  )
  (ids, found), (again, _), (other, _) = (
    draw(sampling_seed=seed) for seed in (7, 7, 8)
  )
  assert ids == again != other
  logps = reference(prompt, ids)[np.arange(len(ids)), ids]
  np.testing.assert_allclose(found, logps, atol=TOLERANCE, rtol=0)


def test_without_a_seed_every_draw_is_another(model, server, asked):
  request = body(asked["no image"], model.words.end_id, temperature=1.0)
  assert server.ask(request)[0] != server.ask(request)[0]


def test_draws_follow_the_model(model, server, asked, allowed, reference):
  """The mean surprise of 200 draws is the distribution's entropy."""
  prompt, n = asked["no image"], 200
  one = body(prompt, model.words.end_id, new=1, temperature=1.0)
  how = one["sampling_params"]
  status, answers = server.post(
    "/generate",
    {
      **one,
      "input_ids": [one["input_ids"]] * n,
      "sampling_params": [{**how, "sampling_seed": i} for i in range(n)],
    },
  )
  assert status == 200, answers
  logps = np.where(allowed, reference(prompt, [0])[0], -np.inf)
  logps -= np.logaddexp.reduce(logps)
  p = np.exp(logps)
  surprise = np.where(allowed, -logps, 0)
  entropy = np.sum(p * surprise)
  spread = np.sqrt(np.sum(p * (surprise - entropy) ** 2) / n)
  drawn = [served.triples(answer)[0][0] for answer in answers]
  assert abs(surprise[drawn].mean() - entropy) < 4 * spread


def test_ids_that_no_answer_holds_are_never_drawn(
  model, server, asked, allowed
):
  """At temperature 100 one draw in 25 would be such an id."""
  how = {"temperature": 100.0, "stop_token_ids": [], "ignore_eos": True}
  new = 100
  request = body(asked["no image"], 0, new, sampling_seed=3, **how)
  ids, _ = server.ask(request)
  assert len(ids) == new and allowed[ids].all()


def test_the_stand_ins_hash_is_murmur3():
  """Seeded draws of a CPU come from it."""
  path = str(Path(sglang.__file__).with_name("sglang_cpu_kernel.txt"))
  loader = importlib.machinery.SourceFileLoader("sgl_kernel", path)
  spec = importlib.util.spec_from_loader("sgl_kernel", loader)
  loader.exec_module(importlib.util.module_from_spec(spec))
  seeds, places, columns = [7, 2**62 + 3], [0, 500], [0, 1, 151_673]
  found = torch.ops.sgl_kernel.murmur_hash32_cpu.default(
    torch.tensor(seeds), torch.tensor(places), torch.tensor(columns)
  )
  for row, seed, place in zip(found.tolist(), seeds, places):
    words = [[seed & 0xFFFFFFFF, seed >> 32, place, c] for c in columns]
    assert row == [
      murmurhash3_32(np.array(w, "<u4").tobytes(), 0, positive=True)
      for w in words
    ]


# ------------------------------------------------------------------------- weights
def update(server: Served, path: Path) -> tuple[int, str]:
  status, answer = server.post(
    "/update_weights_from_disk", {"model_path": str(path)}
  )
  return status, answer["message"]


def test_new_weights_answer_also_for_an_image_seen_before(
  model, server, asked, expected
):
  prompts = list(asked.values())
  others = dict(zip(asked, model.embedded(prompts, seed=1)))
  for name, answers in (("other", others), ("policy", expected)):
    for prompt in prompts:  # the weights before see everything
      server.ask(body(prompt, model.words.end_id))
    assert update(server, model.directory / name)[0] == 200
    for case, prompt in asked.items():
      same(server.ask(body(prompt, model.words.end_id)), answers[case])


def truncated(model: Model, path: Path) -> Path:
  shutil.copytree(model.directory / "other", path)
  whole = (path / "model.safetensors").read_bytes()
  (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
  return path


def of_another_shape(model: Model, path: Path) -> Path:
  decoder = dataclasses.replace(model.module.cfg.decoder, mlp=64)
  cfg = dataclasses.replace(model.module.cfg, decoder=decoder)
  params, tokenizer = little.params(InternVL(cfg)), model.directory / "hf"
  save_params(params, cfg, path, tokenizer, format=Format.INTERNVL_CHAT)
  return path


BROKEN = {
  "truncated or not safetensors": truncated,
  "describes another model": of_another_shape,
  "not in the original format": lambda model, _: model.directory / "hf",
  "no such directory": lambda _, path: path,
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_checkpoint_leaves_the_old_weights(
  model, server, asked, expected, tmp_path, message
):
  status, said = update(server, BROKEN[message](model, tmp_path / "broken"))
  assert status == 400 and message in said and "\n" not in said
  request = body(asked["one image"], model.words.end_id)
  same(server.ask(request), expected["one image"])


# ------------------------------------------------------------------------ refusals
def of(prompt: Prompt, **changes: Any) -> dict[str, Any]:
  return {"input_ids": prompt.token_ids.tolist(), **changes}


def films(prompt: Prompt, url: str) -> dict[str, Any]:
  shown = [encoded(prompt.images[0])]
  return of(prompt, image_data=shown, video_data=[f"{url}/a.mp4"])


REFUSED = {
  "input_ids[1] is -5": lambda p, _: {"input_ids": [1, -5, 3]},
  "input_ids[0] is 100000": lambda p, _: {"input_ids": [100000]},
  "input_ids[2] is -1": lambda p, _: {"input_ids": [[1, 2], [1, 2, -1]]},
  "paths are not opened": lambda p, _: of(p, image_data=[p.images[0]]),
  "URLs are not opened": lambda p, url: of(p, image_data=[f"{url}/a.png"]),
  "image 1: URLs": lambda p, _: of(p, image_data=[f"file://{p.images[0]}"]),
  "not an image": lambda p, _: of(p, image_data=["AAAA"]),
  "2 images where": lambda p, _: of(p, image_data=[encoded(p.images[0])] * 2),
  "image_data has no image": lambda p, _: of(p),
  "neither sounds nor films": films,
  "come with input_ids": lambda p, _: {
    "text": "<image>",
    "image_data": [encoded(p.images[0])],
  },
  "longer than the model's context": lambda p, _: {"input_ids": [1] * 300},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_with_a_line_and_the_server_lives(
  model, server, asked, expected, message
):
  request = REFUSED[message](asked["one image"], server.url)
  how = {"max_new_tokens": 1}
  status, answer = server.post("/generate", {**request, "sampling_params": how})
  assert status == 400 and message in answer["error"]["message"]
  request = body(asked["one image"], model.words.end_id)
  same(server.ask(request), expected["one image"])


def test_requests_without_the_key_are_refused(server):
  stranger = dataclasses.replace(server, key="")
  assert stranger.post("/generate", {"input_ids": [1]})[0] == 401
