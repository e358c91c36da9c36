"""The embedded engine against the trainer's own forward pass."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import TileCache
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.train.outputs import response_logps
from sophia_jax.types import FinishReason, Request, Role, Sampling, SophiaError
from tests.rollout import little

logps_of = jax.jit(response_logps, static_argnums=(0, 3))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(module, params, batch):
  apply = functools.partial(module.apply, {"params": params})
  embeds = apply(batch.tiles, method="encode")
  rows = batch.tokens, batch.segment_ids, batch.positions, batch.tile_slots
  return apply(apply(*rows, embeds), method="logits")


class World:
  """A vision-language model, its renderer, and three pictures."""

  def __init__(self, directory):
    self.directory = str(directory / "tokenizer")
    self.words = little.renderer(self.directory, True)
    self.module = little.model(self.words)
    self.params = little.params(self.module)
    self.pictures = little.pictures(directory)
    self.engine = little.engine(self.module, self.words)

  def request(self, name, text, *images, **how):
    prompt = self.words.prompt(text, [self.pictures[i] for i in images])
    how = {"max_new_tokens": 12, "seed": sum(name.encode())} | how
    return Request(id=name, prompt=prompt, sampling=Sampling(**how))

  def batch(self, prompt, token_ids):
    """The sequence as the trainer gets it."""
    sequence = self.words.sequence(prompt, token_ids, id="")
    return sequence, pack(
      [[sequence]],
      PackConfig(rows=1, length=96, tile_budget=4),
      tokens_per_tile=4,
      tile_size=little.SIDE,
      streams=(),
      load_tiles=TileCache(little.IMAGES),
    )

  def trainer_logps(self, request, token_ids):
    sequence, batch = self.batch(request.prompt, token_ids)
    logps = np.asarray(logps_of(self.module, self.params, batch, 32))[0]
    return logps[np.flatnonzero(sequence.roles == Role.RESPONSE) - 1]

  def full_logits(self, request, token_ids, params=None):
    """What the trainer's model predicts for each response token."""
    sequence, batch = self.batch(request.prompt, token_ids)
    params = self.params if params is None else params
    logits = np.array(logits_of(self.module, params, batch))[0]
    return logits[np.flatnonzero(sequence.roles == Role.RESPONSE) - 1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def requests(world):
  """Of every kind; more than there are slots."""
  ask = world.request
  return [
    ask("plain", "What do you see"),
    ask("greedy", "What do you see", temperature=0.0),
    ask("image", "What do you see", 0),
    ask("image again", "What do you see", 0, temperature=0.7),
    ask("other question", "red ink", 0, max_new_tokens=5),
    ask("other image", "What do you see", 1, temperature=0.0),
    ask("wide", "red ink on paper", 2, temperature=1.3),
    ask("top_k 1", "What do you see", top_k=1),
    ask("top_p", "What do you see", 1, top_p=0.6),
    ask("both", "red ink", top_p=0.9, top_k=7, max_new_tokens=20),
    ask("last", "paper", 0, max_new_tokens=1),
  ]


@pytest.fixture(scope="module")
def alone(world, requests):
  """Each request's completion with nothing beside it."""
  return {r.id: next(world.engine.generate([r])) for r in requests}


def assert_as_alone(completions, alone):
  found = list(completions)
  assert len(found) == len({c.request_id for c in found})
  for completion in found:
    want = alone[completion.request_id]
    assert completion.token_ids == want.token_ids, completion.request_id
    np.testing.assert_allclose(completion.logps, want.logps, atol=1e-5)
    assert completion.text == want.text
    assert completion.finish_reason == want.finish_reason
  return {c.request_id for c in found}


# -------------------------------------------------------- the batch around it
def test_a_request_does_not_see_its_neighbours(world, requests, alone):
  every = {r.id for r in requests}
  assert len(requests) > 2 * little.ENGINE.slots
  for order in (requests, requests[::-1], requests[1::2] + requests[::2]):
    assert assert_as_alone(world.engine.generate(order), alone) == every


def test_nor_whether_they_truncate(world, requests, alone):
  plain = [
    r for r in requests if r.sampling.top_p == 1 and not r.sampling.top_k
  ]
  names = assert_as_alone(world.engine.generate(plain), alone)
  assert names == {r.id for r in plain}


def test_seeds_and_temperatures_make_a_difference(world, alone):
  """Or the tests above would compare constants."""
  texts = [c.token_ids for c in alone.values()]
  assert len(set(texts)) == len(texts) - 1  # "top_k 1" is greedy
  seeds = [world.request("", "paper", seed=s) for s in (1, 2, 2**32 + 1)]
  drawn = {next(world.engine.generate([r])).token_ids for r in seeds}
  assert len(drawn) == 3


# ----------------------------------------------------------- the forward pass
def test_logps_are_the_trainers(world, requests, alone):
  """At temperature 1, whatever the sampling, images included."""
  for request in requests:
    completion = alone[request.id]
    want = world.trainer_logps(request, completion.token_ids)
    np.testing.assert_allclose(
      completion.logps, want, atol=1e-4, err_msg=request.id
    )
    assert np.min(want) < -1 or len(want) == 1


def test_greedy_is_the_argmax_of_the_full_pass(world, requests, alone):
  banned = [*world.words.banned_ids, *range(world.words.vocab_size, 10**4)]
  for name in ("greedy", "other image", "top_k 1"):
    request = next(r for r in requests if r.id == name)
    found = alone[name].token_ids
    logits = world.full_logits(request, found)
    logits[:, [i for i in banned if i < logits.shape[1]]] = -np.inf
    assert found == tuple(logits.argmax(-1).tolist())
  assert alone["top_k 1"].token_ids == alone["greedy"].token_ids


def test_an_image_is_seen(alone, world):
  """The same question, greedily, about two images and about none."""
  asked = [
    world.request("", "red ink", *i, temperature=0.0) for i in ((), (0,), (1,))
  ]
  found = {c.logps for c in world.engine.generate(asked)}
  assert len(found) == 3


# -------------------------------------------------------------------- banned ids
def test_banned_ids_are_never_sampled(world):
  words, module = world.words, world.module
  extra = range(words.vocab_size, module.cfg.decoder.vocab)
  banned = {*words.banned_ids, *extra}
  assert words.image_id in banned and words.end_id not in banned
  weights = little.indifferent(module, banned)
  asked = [
    world.request("a", "paper", 0, temperature=0.0),
    world.request("b", "paper", temperature=1.0),
    world.request("c", "paper", temperature=2.0, top_p=0.9),
    world.request("d", "paper", 1, temperature=1.0, top_k=3),
  ]
  engine = little.engine(module, words, weights)
  for completion in engine.generate(asked):
    assert completion.token_ids
    assert banned.isdisjoint(completion.token_ids)
    # The model itself would have said nothing else.
    assert max(completion.logps) < -10
    logits = world.full_logits(asked[0], completion.token_ids, weights)
    assert set(logits.argmax(-1).tolist()) <= banned


# ------------------------------------------------------------------------ finish
def test_the_end_of_turn_stops(world):
  end = world.words.end_id
  engine = little.engine(
    world.module, world.words, little.indifferent(world.module, [end])
  )
  asked = [world.request(str(n), "paper", max_new_tokens=n) for n in (1, 2, 9)]
  for completion in engine.generate(asked):
    assert completion.token_ids == (end,)
    assert completion.finish_reason is FinishReason.STOP
    assert completion.text == ""
    assert len(completion.logps) == 1


def test_length_stops(world):
  letter = int(world.words.encode("paper")[-1])
  weights = little.indifferent(world.module, [letter])
  engine = little.engine(world.module, world.words, weights)
  asked = [
    world.request(str(n), "paper", max_new_tokens=n) for n in (0, 1, 3, 4, 9)
  ]
  for completion in engine.generate(asked):
    n = int(completion.request_id)
    assert completion.token_ids == (letter,) * n
    assert completion.text == world.words.decode([letter]) * n
    assert completion.finish_reason is FinishReason.LENGTH
    assert len(completion.logps) == n


def test_a_response_may_fill_the_length(world):
  room = little.ENGINE.length - len(world.request("", "paper").prompt)
  letter = int(world.words.encode("paper")[-1])
  weights = little.indifferent(world.module, [letter])
  engine = little.engine(world.module, world.words, weights)
  longest = world.request("x", "paper", max_new_tokens=room)
  (completion,) = engine.generate([longest])
  assert len(completion.token_ids) == room
  with pytest.raises(SophiaError) as error:
    list(
      engine.generate([world.request("y", "paper", max_new_tokens=room + 1)])
    )
  message = str(error.value)
  assert message.startswith("request y: a prompt of ") and "\n" not in message
  assert f"{room + 1} new ones do not fit length=96; " in message


# ------------------------------------------------------------------------- slots
def test_requests_are_drawn_as_slots_free(world):
  drawn = []

  def endless():
    for i in range(50):
      drawn.append(i)
      yield world.request(str(i), "paper", max_new_tokens=1 + i % 5)

  slots = little.ENGINE.slots
  done = 0
  for done, _ in enumerate(world.engine.generate(endless()), start=1):
    assert len(drawn) <= done + slots
    if done == 1:
      assert len(drawn) == slots
  assert done == len(drawn) == 50


def test_no_request_no_completion(world):
  assert not list(world.engine.generate([]))


def test_abandoned_requests_leave_nothing_behind(world, requests, alone):
  generator = world.engine.generate(requests)
  next(generator)
  generator.close()
  assert_as_alone(world.engine.generate(requests[:3]), alone)


# ------------------------------------------------------------------------ images
def test_prompts_that_share_an_image_share_its_tiles(world, requests, alone):
  loads = collections.Counter()
  cached = TileCache(little.IMAGES)

  def load(path, count):
    loads[path, count] += 1
    return cached(path, count)

  engine = little.engine(world.module, world.words, load_tiles=load)
  shown = [
    r for r in requests if r.id in ("image", "image again", "other question")
  ]
  assert len({r.prompt.images for r in shown}) == 1
  assert_as_alone(engine.generate(shown), alone)
  assert loads == {(world.pictures[0], 1): 1}


def test_one_image_cut_in_two_ways(world):
  """A wide image alone has 3 tiles; where it may only have one, one."""
  whole = world.request("whole", "red", 2, temperature=0.0)
  one_tile = dataclasses.replace(little.IMAGES, max_tiles=1)
  words = Renderer(world.directory, one_tile, 4, "Look.")
  small = Request(
    id="small",
    prompt=words.prompt("red", [world.pictures[2]]),
    sampling=whole.sampling,
  )
  assert (whole.prompt.tiles, small.prompt.tiles) == ((3,), (1,))
  one_by_one = {r.id: next(world.engine.generate([r])) for r in (whole, small)}
  assert_as_alone(world.engine.generate([whole, small]), one_by_one)
  assert_as_alone(world.engine.generate([small, whole]), one_by_one)


# --------------------------------------------------------------------- text only
def test_a_text_only_model(tmp_path):
  words = little.renderer(str(tmp_path / "text"), False)
  module = little.model(words)
  assert module.cfg.vision is None
  engine = little.engine(module, words)
  asked = [
    Request(
      id=str(i),
      prompt=words.prompt("What do you see" * (1 + i)),
      sampling=Sampling(seed=i, max_new_tokens=8),
    )
    for i in range(6)
  ]
  together = {c.request_id: c for c in engine.generate(asked)}
  assert len(together) == 6
  for request in asked:
    completion = together[request.id]
    assert next(engine.generate([request])).token_ids == completion.token_ids
    sequence = words.sequence(request.prompt, completion.token_ids, id="")
    batch = pack(
      [[sequence]],
      PackConfig(rows=1, length=96, tile_budget=0),
      tokens_per_tile=0,
      tile_size=1,
      streams=(),
      load_tiles=TileCache(little.IMAGES),
    )
    logps = np.asarray(logps_of(module, little.params(module), batch, 32))[0]
    where = np.flatnonzero(sequence.roles == Role.RESPONSE) - 1
    np.testing.assert_allclose(completion.logps, logps[where], atol=1e-4)
