"""The embedded engine, tick by tick: its inbox, and weights that change."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.types import Request, Sampling, SophiaError
from tests.rollout import little


class Text:
  """A text-only model, and requests to it."""

  def __init__(self, directory):
    self.words = little.renderer(str(directory / "text"), False)
    self.module = little.model(self.words)
    self.engine = little.engine(self.module, self.words)

  def request(self, name, text="paper", **how):
    return Request(
      id=name,
      prompt=self.words.prompt(text),
      sampling=Sampling(
        **{"max_new_tokens": 9, "seed": sum(name.encode())} | how
      ),
    )

  def always(self, letter):
    """Weights that want one token, and its id."""
    token = int(self.words.encode(letter)[-1])
    return little.indifferent(self.module, [token]), token


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  return Text(tmp_path_factory.mktemp("text"))


def ticked(engine):
  """Every completion by ticket, until the engine is idle."""
  found = {}
  while engine.busy:
    found.update(engine.tick())
  return found


def test_generate_is_submit_and_tick(text):
  requests = [text.request(f"r{i}") for i in range(9)]
  want = {c.request_id: c for c in text.engine.generate(requests)}
  tickets = {text.engine.submit(r): r.id for r in requests}
  found = ticked(text.engine)
  assert found.keys() == tickets.keys()
  assert {tickets[t]: c for t, c in found.items()} == want
  assert all(c.versions == () for c in want.values())


def test_a_later_request_joins_those_in_flight(text):
  engine, slots = text.engine, little.ENGINE.slots
  assert engine.room == slots and not engine.busy
  first = engine.submit(text.request("long", max_new_tokens=30))
  assert engine.busy and engine.room == slots - 1
  found = dict(engine.tick())
  second = engine.submit(text.request("short", max_new_tokens=1))
  found |= engine.tick()
  assert list(found) == [second]
  assert list(ticked(engine)) == [first]
  assert engine.room == slots


def test_a_full_house_waits_in_the_inbox(text):
  tickets = [
    text.engine.submit(text.request(f"r{i}", max_new_tokens=3))
    for i in range(10)
  ]
  order = []
  while text.engine.busy:
    order.append([ticket for ticket, _ in text.engine.tick()])
  done = list(itertools.chain(*order))
  assert sorted(done) == tickets and len(order) >= 3


def test_weights_that_change_between_ticks(text):
  """A token's version is that of the weights which drew it."""
  (before, a), (after, b) = text.always("paper"), text.always("red")
  assert a != b
  engine = little.engine(text.module, text.words, before)
  engine.load(before, 3)
  engine.submit(text.request("x", max_new_tokens=8))
  engine.tick()
  engine.load(after, 4)
  engine.submit(text.request("y", max_new_tokens=4))
  x, y = sorted(ticked(engine).values(), key=lambda c: c.request_id)
  chunk = little.ENGINE.chunk
  assert x.versions == ((3, chunk), (4, 8 - chunk)) and x.version == 3
  assert x.token_ids == (a,) * chunk + (b,) * (8 - chunk)
  assert y.versions == ((4, 4),) and y.token_ids == (b,) * 4
  assert len(x.logps) == 8


def test_a_version_that_drew_nothing_is_not_named(text):
  weights, token = text.always("paper")
  engine = little.engine(text.module, text.words, weights)
  engine.load(weights, 1)
  engine.submit(text.request("x", max_new_tokens=5))
  engine.tick()
  for version in (2, 3):
    engine.load(weights, version)
  (one,) = ticked(engine).values()
  assert one.token_ids == (token,) * 5
  assert one.versions == ((1, 3), (3, 2))


def test_what_is_dropped_leaves_nothing_behind(text):
  requests = [text.request(f"r{i}") for i in range(9)]
  want = {c.request_id: c for c in text.engine.generate(requests)}
  for request in requests:
    text.engine.submit(request)
  text.engine.tick()
  text.engine.clear()
  assert not text.engine.busy and text.engine.tick() == []
  assert {c.request_id: c for c in text.engine.generate(requests)} == want


def test_siblings_are_prefilled_once(text, monkeypatch):
  prefills = []
  arrays = text.engine._prompt_arrays

  def counted(prompts):
    prefills.append(len(prompts))
    return arrays(prompts)

  monkeypatch.setattr(text.engine, "_prompt_arrays", counted)
  for i in range(little.ENGINE.slots):
    text.engine.submit(text.request(f"r{i}"))
  text.engine.tick()
  assert prefills == [1]
  text.engine.clear()


# ------------------------------------------------------------------------ lanes
LANES = dataclasses.replace(little.ENGINE, lanes=2)


def test_slots_are_shared_between_lanes():
  assert little.ENGINE.shares() == [4]
  assert dataclasses.replace(LANES, slots=5).shares() == [2, 3]
  assert EngineConfig(slots=63).shares() == [63]
  assert sum(EngineConfig(slots=1001).shares()) == 1001


def test_lanes_say_what_one_lane_says(text):
  requests = [
    text.request(f"r{i}", max_new_tokens=1 + 5 * i % 13) for i in range(11)
  ]
  want = {c.request_id: c for c in text.engine.generate(requests)}
  engine = little.engine(text.module, text.words, config=LANES)
  found = {c.request_id: c for c in engine.generate(requests)}
  assert_same_words(found, want)
  again = little.engine(text.module, text.words, config=LANES)
  assert {c.request_id: c for c in again.generate(requests)} == found


def test_siblings_share_a_lane(talk):
  prefills = []
  engine = talk.engine(prefills, LANES)
  for i in range(LANES.slots):
    engine.submit(talk.asked(f"r{i}", talk.words.prompt("red" * (i // 2))))
  assert engine.room == 0
  engine.tick()
  assert prefills == [1, 1]


def test_a_lane_that_fails_leaves_the_others_whole(talk, tmp_path):
  engine = talk.engine([], LANES)
  [want] = engine.generate([talk.first(2)])
  good = engine.submit(talk.first(2))
  gone = shutil.copy(talk.pictures[0], tmp_path / "gone.png")
  engine.submit(talk.asked("x", talk.words.prompt("What", [str(gone)])))
  gone.unlink()
  with pytest.raises(SophiaError, match=r"gone\.png"):
    engine.tick()
  assert ticked(engine) == {good: want}


# ------------------------------------------------------------------ later turns
class Talk:
  """A policy that sees, and conversations of exact ids with it."""

  def __init__(self, directory):
    self.words = little.renderer(str(directory / "talk"), True)
    self.module = little.model(self.words)
    self.pictures = little.pictures(directory)

  def engine(self, prefills, config=little.ENGINE):
    engine = little.engine(self.module, self.words, config=config)
    arrays = engine._prompt_arrays

    def counted(prompts):
      prefills.append(len(prompts))
      return arrays(prompts)

    engine._prompt_arrays = counted
    return engine

  def first(self, i):
    """The first turn of conversation i; the first two show a picture."""
    shown = self.pictures[i : i + 1] if i < 2 else []
    return self.asked(f"{i}.0", self.words.prompt("What do you see", shown))

  def asked(self, name, prompt):
    how = Sampling(max_new_tokens=7, seed=sum(name.encode()))
    return Request(id=name, prompt=prompt, sampling=how)

  def next(self, name, request, completion, text="red ink"):
    """The turn after: all ids so far, and what is said to the answer."""
    more = [*completion.token_ids, *self.words.encode(text)]
    ids = np.append(request.prompt.token_ids, np.asarray(more, np.int32))
    roles = np.zeros(len(ids), np.int8)
    roles[: len(request.prompt)] = request.prompt.roles
    prompt = dataclasses.replace(request.prompt, token_ids=ids, roles=roles)
    return self.asked(name, prompt)

  def talk(self, engine, turns, others=0):
    """Every answer of three conversations, turn by turn."""
    said, requests = {}, [self.first(i) for i in range(3)]
    for turn in range(turns):
      tickets = {engine.submit(r): r for r in requests}
      for i in range(others):
        engine.submit(self.asked(f"x{turn}{i}", self.words.prompt("red" * i)))
      found = ticked(engine)
      requests = []
      for ticket, request in tickets.items():
        said[request.id] = found[ticket]
        name = f"{request.id.partition('.')[0]}.{turn + 1}"
        requests.append(self.next(name, request, found[ticket]))
    return said


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
  return Talk(tmp_path_factory.mktemp("talk"))


@pytest.fixture(scope="module")
def afresh(talk):
  """The same conversations, each turn prefilled as a whole."""
  engine = talk.engine([])
  engine._place_to_continue = lambda prompt: None
  return talk.talk(engine, 4)


def assert_same_words(found, want):
  assert found.keys() == want.keys()
  for name, one in found.items():
    assert one.token_ids == want[name].token_ids, name
    np.testing.assert_allclose(one.logps, want[name].logps, atol=1e-4)


@pytest.mark.parametrize("config", [little.ENGINE, LANES])
def test_a_later_turn_is_not_prefilled_again(talk, afresh, config):
  prefills = []
  assert_same_words(talk.talk(talk.engine(prefills, config), 4), afresh)
  assert sum(prefills) == 3  # two pictures, and none
  assert len({c.token_ids for c in afresh.values()}) > 9


def test_unless_somebody_else_took_its_slot(talk, afresh):
  """More requests than slots: some caches are gone, no answer is another."""
  prefills = []
  assert_same_words(talk.talk(talk.engine(prefills), 4, others=6), afresh)
  assert len(prefills) > 4


def test_or_the_weights_or_the_picture_changed_or_much_was_said(talk):
  first = talk.first(0)

  def second_after(change=lambda engine: None, text="red ink", images=None):
    prefills = []
    engine = talk.engine(prefills)
    engine.submit(first)
    [said] = ticked(engine).values()
    change(engine)
    request = talk.next("0.1", first, said, text)
    if images:
      prompt = dataclasses.replace(request.prompt, images=images)
      request = dataclasses.replace(request, prompt=prompt)
    engine.submit(request)
    ticked(engine)
    return sum(prefills)

  assert second_after() == 1
  assert second_after(lambda engine: engine.load(engine.params, 1)) == 2
  assert second_after(lambda engine: engine.clear()) == 2
  assert second_after(images=(talk.pictures[1],)) == 2


def test_a_load_before_the_turn_begins(talk):
  prefills = []
  engine = talk.engine(prefills)
  first = talk.first(2)
  engine.submit(first)
  [said] = ticked(engine).values()
  engine.submit(talk.next("2.1", first, said))
  assert engine.busy and engine.room == little.ENGINE.slots - 1
  engine.load(engine.params, 1)
  [second] = ticked(engine).values()
  assert sum(prefills) == 2
  assert second.versions == ((1, len(second.token_ids)),)
