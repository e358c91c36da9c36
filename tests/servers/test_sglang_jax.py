"""A real SGLang-JAX server of a policy, against the embedded engine."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageTextToText

from sophia_jax.data.images import load_tiles
from sophia_jax.types import FinishReason
from tests.parity import tiny
from tests.rollout import little
from tests.servers import served
from tests.servers.served import NEW, TOLERANCE, body, encoded

pytestmark = pytest.mark.servers

WEIGHTS = "model.safetensors"
COMPILED = b"Compiling jit("


@pytest.fixture(scope="module")
def asked(policy):
  return served.prompts(policy)


@pytest.fixture(scope="module")
def expected(policy, asked):
  return dict(zip(asked, policy.embedded(list(asked.values()))))


def same(answer, completion):
  """Tokens are equal, log-probabilities within the tolerance."""
  ids, logps = answer
  assert tuple(ids) == completion.token_ids
  np.testing.assert_allclose(logps, completion.logps, atol=TOLERANCE, rtol=0)


# ------------------------------------------------------------------------- answers
@pytest.mark.parametrize(
  "case",
  [
    *("no image", "one image", "tiles", "several images"),
    *("sixteen frames", "over a chunk"),
  ],
)
def test_greedy_answers_are_the_embedded_engines(
  policy, policy_server, asked, expected, case
):
  # A prefix that is already there would shift the chunks.
  policy_server.post("/flush_cache", {})
  request = body(asked[case], policy.words.end_id)
  same(policy_server.ask(request), expected[case])
  same(policy_server.ask(request), expected[case])  # from both caches


def test_requests_side_by_side_do_not_touch_each_other(
  policy, policy_server, asked, expected
):
  policy_server.post("/flush_cache", {})
  # More than run at once, and many that show the same image.
  names = [name for _ in range(8) for name in asked]
  requests = [body(asked[name], policy.words.end_id) for name in names]
  with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
    for answer, name in zip(pool.map(policy_server.ask, requests), names):
      same(answer, expected[name])


def test_greedy_answers_are_those_of_transformers(policy, policy_server, asked):
  model = AutoModelForImageTextToText.from_pretrained(
    policy.directory / "policy", dtype=torch.float32
  )
  banned = [*policy.words.banned_ids]
  banned += range(policy.words.vocab_size, policy.module.cfg.decoder.vocab)
  for prompt in (asked["no image"], asked["several images"]):
    ids, pixels = prompt.token_ids.tolist(), None
    if prompt.images:
      tiles = [
        load_tiles(path, n, little.IMAGES)
        for path, n in zip(prompt.images, prompt.tiles)
      ]
      pixels = tiny.pixels(np.concatenate(tiles))
    out: list[int] = []
    with torch.no_grad():
      while len(out) < NEW and policy.words.end_id not in out:
        given = torch.tensor([ids + out])
        logits = model(input_ids=given, pixel_values=pixels).logits[0, -1]
        logits[banned] = -torch.inf
        out.append(int(logits.argmax()))
    request = body(prompt, policy.words.end_id)
    assert policy_server.ask(request)[0] == out


def test_tiles_may_come_already_cut(policy, policy_server, asked, expected):
  prompt = asked["tiles"]
  tiles = load_tiles(prompt.images[0], prompt.tiles[0], little.IMAGES)
  request = body(prompt, policy.words.end_id)
  request["image_data"] = [
    {"tiles": served.base64.b64encode(tiles).decode(), "count": len(tiles)}
  ]
  same(policy_server.ask(request), expected["tiles"])


def test_a_list_of_requests(policy, policy_server, asked, expected):
  names = ["one image", "tiles"]
  single = [body(asked[name], policy.words.end_id) for name in names]
  request = {key: [b[key] for b in single] for key in single[0]}
  request["return_logprob"] = True
  status, answers = policy_server.post("/generate", request)
  assert status == 200, answers
  for answer, name in zip(answers, names):
    same(served.triples(answer), expected[name])


def test_finish_reasons(policy, policy_server, asked):
  request = body(asked["no image"], policy.words.end_id)
  ids, _ = policy_server.ask(request)
  _, answer = policy_server.post("/generate", request)
  assert answer["meta_info"]["finish_reason"]["type"] == FinishReason.LENGTH
  # The first token ends it, and is handed out all the same.
  request = body(asked["no image"], ids[0])
  _, answer = policy_server.post("/generate", request)
  assert answer["meta_info"]["finish_reason"]["type"] == FinishReason.STOP
  assert served.triples(answer)[0] == ids[:1]


# ------------------------------------------------------------------------ sampling
def test_a_seed_decides_and_scores_are_at_temperature_one(
  policy, policy_server, asked
):
  prompt, end = asked["no image"], policy.words.end_id
  how = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}
  first, logps = policy_server.ask(body(prompt, end, sampling_seed=7, **how))
  again, _ = policy_server.ask(body(prompt, end, sampling_seed=7, **how))
  other, _ = policy_server.ask(body(prompt, end, sampling_seed=8, **how))
  free = [policy_server.ask(body(prompt, end, **how))[0] for _ in range(2)]
  assert first == again != other
  assert free[0] != free[1]
  tokens = np.concatenate([prompt.token_ids, first])[None]
  params = {"params": little.params(policy.module)}
  ones = np.ones_like(tokens)
  hidden = policy.module.apply(
    params, tokens, ones, np.arange(tokens.shape[1])[None]
  )
  logits = policy.module.apply(params, hidden, method="logits")[0]
  scores = jax.nn.log_softmax(logits[len(prompt) - 1 : -1])
  wanted = scores[jnp.arange(len(first)), jnp.asarray(first)]
  np.testing.assert_allclose(logps, wanted, atol=TOLERANCE, rtol=0)


def test_tokens_are_drawn_in_proportion(policy, policy_server, asked):
  prompt, n = asked["no image"], 400
  params = {"params": little.params(policy.module)}
  tokens = prompt.token_ids[None]
  hidden = policy.module.apply(
    params, tokens, np.ones_like(tokens), np.arange(tokens.shape[1])[None]
  )
  logits = policy.module.apply(params, hidden, method="logits")[0, -1]
  allowed = np.ones(len(logits), bool)
  allowed[[*policy.words.banned_ids]] = False
  allowed[policy.words.vocab_size :] = False
  p = np.asarray(jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf)))
  one = body(prompt, policy.words.end_id, 1, temperature=1.0)
  request = {
    **one,
    "input_ids": [one["input_ids"]] * n,
    "sampling_params": [
      {**one["sampling_params"], "sampling_seed": seed} for seed in range(n)
    ],
  }
  status, answers = policy_server.post("/generate", request)
  assert status == 200, answers
  drawn = [served.triples(answer)[0][0] for answer in answers]
  counts = np.bincount(drawn, minlength=len(p))
  assert not counts[~allowed].any()
  # Pearson's statistic over the likely tokens and the rest: mean k - 1.
  likely = np.argsort(-p)[:20]
  seen = np.append(counts[likely], n - counts[likely].sum())
  hoped = n * np.append(p[likely], 1 - p[likely].sum())
  statistic = ((seen - hoped) ** 2 / hoped).sum()
  assert statistic < len(likely) + 5 * np.sqrt(2 * len(likely))


# ------------------------------------------------------------------------ refusals
BROKEN = {
  "negative id": ({"input_ids": [7, -1]}, "input_ids[1] is -1"),
  "id beyond": ({"input_ids": [10**6]}, "input_ids[0] is 1000000"),
  "in a list": ({"input_ids": [[7], [7, -5]]}, "input_ids[1] is -5"),
  "no ids": ({"input_ids": []}, "empty"),
  "too long": ({"input_ids": [7] * 1000}, "longer than"),
  "parameter": ({"sampling_params": {"temp": 1}}, "sampling_params.temp"),
  "seed": ({"sampling_params": {"sampling_seed": 2**31}}, "31 bits"),
  "heat": ({"sampling_params": {"temperature": "hot"}}, "not a number"),
  "path": ({"image_data": ["/etc/passwd"]}, "paths are not opened"),
  "file URL": ({"image_data": ["file:///etc/passwd"]}, "URLs are not opened"),
  "http URL": ({"image_data": ["http://127.0.0.1/x"]}, "URLs are not opened"),
  "no image": ({"image_data": []}, "image tokens"),
  "two images": ({"image_data": ["", ""]}, "2 images where input_ids have 1"),
  "not an image": ({"image_data": ["aGVsbG8="]}, "not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_requests_are_refused_and_the_server_lives(
  policy, policy_server, asked, expected, name
):
  prompt = asked["one image"]
  changes, message = BROKEN[name]
  request = {**body(prompt, policy.words.end_id), **changes}
  if "input_ids" in changes:
    del request["image_data"]
  status, answer = policy_server.post("/generate", request)
  assert status == 400, answer
  assert message in answer["error"]["message"]
  assert "\n" not in answer["error"]["message"]
  good = body(prompt, policy.words.end_id)
  same(policy_server.ask(good), expected["one image"])


def test_a_tile_count_that_does_not_fit_names_both(
  policy, policy_server, asked
):
  request = body(asked["tiles"], policy.words.end_id)
  request["image_data"] = [encoded(asked["one image"].images[0])]
  status, answer = policy_server.post("/generate", request)
  assert status == 400
  assert "1 tiles where the prompt has 3" in answer["error"]["message"]


def test_a_huge_image_is_refused_before_it_is_decoded(
  policy, policy_server, asked, tmp_path
):
  path = tmp_path / "huge.png"
  little.Image.new("1", (12000, 12000)).save(path)
  request = body(asked["one image"], policy.words.end_id)
  request["image_data"] = [encoded(str(path))]
  status, answer = policy_server.post("/generate", request)
  assert status == 400
  assert "too large" in answer["error"]["message"]


def test_requests_without_the_key_are_refused(policy_server, asked):
  stranger = dataclasses.replace(policy_server, key="guess")
  status, _ = stranger.post("/generate", {"input_ids": [7]})
  assert status == 401


# ------------------------------------------------------------------------- weights
def update(server, directory):
  """Posts new weights, again while a request that was answered still ends."""
  deadline = time.monotonic() + 60
  while True:
    status, answer = server.post(
      "/update_weights_from_disk", {"model_path": str(directory)}
    )
    ending = "requests are running" in str(answer)
    if not ending or time.monotonic() > deadline:
      return status, answer
    time.sleep(0.05)


def test_new_weights_answer_and_nothing_is_compiled_again(
  policy, policy_server, asked, expected
):
  names = ["no image", "one image", "tiles"]
  for name in names:  # images and prefixes are remembered
    same(
      policy_server.ask(body(asked[name], policy.words.end_id)), expected[name]
    )
  other = policy.save("other", seed=1)
  wanted = policy.embedded([asked[name] for name in names], seed=1)
  before = policy_server.log.stat().st_size
  try:
    status, answer = update(policy_server, other)
    assert status == 200, answer
    for name, completion in zip(names, wanted):
      request = body(asked[name], policy.words.end_id)
      same(policy_server.ask(request), completion)
    log = policy_server.log.read_bytes()
    assert COMPILED in log[:before]
    assert COMPILED not in log[before:]
  finally:
    status, answer = update(policy_server, policy.directory / "policy")
    assert status == 200, answer
  same(
    policy_server.ask(body(asked["tiles"], policy.words.end_id)),
    expected["tiles"],
  )


def broken_checkpoint(policy, directory, how):
  """A copy of other weights with one thing wrong."""
  shutil.copytree(policy.save("other", seed=1), directory)
  if how == "no such":
    return directory / "missing"
  path = directory / WEIGHTS
  if how == "truncated":
    path.write_bytes(path.read_bytes()[:-1000])
    return directory
  if how == "another model":
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (directory / "config.json").write_text(json.dumps(config))
    return directory
  tensors = load_file(path)
  name = "language_model.model.norm.weight"
  if how == "shape":
    tensors[name] = tensors[name][:-1]
  elif how == "not a number":
    tensors[name][3] = np.nan
  else:
    del tensors[name]
  save_file(tensors, path)
  return directory


@pytest.mark.parametrize(
  "how",
  ["no such", "truncated", "another model", "shape", "not a number", "absent"],
)
def test_a_broken_checkpoint_leaves_the_old_weights(
  policy, policy_server, asked, expected, tmp_path, how
):
  directory = broken_checkpoint(policy, tmp_path / "broken", how)
  status, answer = update(policy_server, directory)
  assert status == 400
  assert answer["success"] is False
  assert str(directory) in answer["message"]
  assert "\n" not in answer["message"]
  request = body(asked["one image"], policy.words.end_id)
  same(policy_server.ask(request), expected["one image"])
