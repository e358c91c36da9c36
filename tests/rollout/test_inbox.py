"""The embedded engine, tick by tick: its inbox, and weights that change."""

import itertools

import pytest

from sophia_jax.types import Request, Sampling
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
def text(tmp_path_factory, quick_to_compile):
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
