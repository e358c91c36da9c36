"""The mixture: proportions, determinism, resumption, any number of hosts."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.mixture import Joined, Mixture, MixtureConfig
from sophia_jax.data.packing import PackConfig
from sophia_jax.types import SophiaError
from tests.data.data_samples import SMALL, joined

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)
SOURCES = st.dictionaries(st.sampled_from("abcd"), LENGTHS, min_size=1)
AMOUNTS = st.floats(0.05, 4.0)


def counts(order, lengths):
  """Draws of each stream."""
  ends = np.cumsum([len(own) for own in lengths.values()])
  of = np.searchsorted(ends, order, side="right")
  return dict(zip(lengths, np.bincount(of, minlength=len(lengths)).tolist()))


# ------------------------------------------------------------------- proportions
@given(SOURCES, st.data(), st.integers(0, 9))
def test_epochs_are_passes_over_the_stream(lengths, data, seed):
  amounts = {name: data.draw(AMOUNTS) for name in lengths}
  mixture = Mixture(lengths, amounts, "epochs", seed)
  drawn = collections.Counter()
  for epoch in range(4):
    drawn.update(mixture.order(epoch).tolist())
    first = 0
    for name, own in lengths.items():
      times = [drawn[i] for i in range(first, first + len(own))]
      # None is drawn again before all the others were drawn as often.
      assert max(times) - min(times) <= 1
      assert (
        abs(sum(times) - (epoch + 1) * amounts[name] * len(own)) <= 0.5 + 1e-6
      )
      first += len(own)


@given(SOURCES, st.data(), st.integers(0, 9))
def test_weights_are_relative_numbers_of_sequences(lengths, data, seed):
  weights = {name: data.draw(AMOUNTS) for name in lengths}
  mixture = Mixture(lengths, weights, "weight", seed)
  found = counts(mixture.order(0), lengths)
  scale = min(len(own) / weights[name] for name, own in lengths.items())
  for name, own in lengths.items():
    assert abs(found[name] - scale * weights[name]) <= 0.5 + 1e-6
    assert found[name] <= len(own)
  # One stream, the scarcest for its weight, is gone through.
  assert any(found[name] == len(own) for name, own in lengths.items())
  assert len(set(mixture.order(0).tolist())) == sum(found.values())


@given(SOURCES, st.data(), st.integers(0, 9))
def test_tokens_are_a_budget(lengths, data, seed):
  budgets = {name: data.draw(st.integers(0, 2000)) for name in lengths}
  mixture = Mixture(lengths, budgets, "tokens", seed)
  flat = np.array([n for own in lengths.values() for n in own])
  firsts = np.cumsum([0, *map(len, lengths.values())])
  order = np.concatenate([mixture.order(epoch) for epoch in range(3)])
  for first, name in zip(firsts, lengths):
    own = order[(order >= first) & (order < first + len(lengths[name]))]
    off = flat[own].sum() - 3 * budgets[name]
    assert 0 <= off < 50, "the last sequence is taken whole, of all epochs"


@given(SOURCES, st.data())
def test_every_part_of_an_epoch_has_the_proportions_of_the_whole(lengths, data):
  amounts = {name: data.draw(AMOUNTS) for name in lengths}
  order = Mixture(lengths, amounts, "epochs", 0).order(0)
  total = counts(order, lengths)
  assume(len(order))
  end = data.draw(st.integers(0, len(order)))
  part = counts(order[:end], lengths)
  for name in lengths:
    assert abs(part[name] - total[name] * end / len(order)) <= len(lengths)


def test_an_amount_of_nothing_leaves_a_stream_out():
  lengths = {"a": [1] * 5, "b": [], "c": [1] * 3}
  for by in ("epochs", "weight", "tokens"):
    amounts = {"a": 0, "b": 0.0, "c": 2}
    found = counts(Mixture(lengths, amounts, by, 0).order(0), lengths)
    assert found["a"] == found["b"] == 0 < found["c"]


# ------------------------------------------------------------------- determinism
@given(SOURCES, st.sampled_from(["epochs", "tokens"]), st.integers(0, 99))
def test_an_epoch_depends_on_its_arguments_only(lengths, by, seed):
  amounts = dict.fromkeys(lengths, 1.5 if by == "epochs" else 70)
  orders = [Mixture(lengths, amounts, by, seed).order(3) for _ in range(2)]
  asked_before = Mixture(lengths, amounts, by, seed)
  for epoch in range(4):
    last = asked_before.order(epoch)
  np.testing.assert_array_equal(orders[0], orders[1])
  np.testing.assert_array_equal(orders[0], last)


def test_the_seed_and_the_pass_decide_the_order():
  lengths = {"a": [1] * 50, "b": [1] * 50}
  made = lambda seed, epoch: tuple(
    Mixture(lengths, {"a": 1, "b": 1}, "epochs", seed).order(epoch).tolist()
  )
  assert len({made(s, e) for s in range(3) for e in range(3)}) == 9
  a, b = [[i % 50 for i in made(0, 0) if i // 50 == s] for s in range(2)]
  assert a != b, "each source has an order of its own"
  still = Mixture(lengths, {"a": 1, "b": 1}, "epochs", 0, shuffle=False)
  assert still.order(2).tolist()[:4] == [0, 50, 1, 51]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_a_source_alone_is_shuffled_as_without_a_mixture(n, seed, epoch):
  rng = np.random.default_rng([seed, epoch])
  order = Mixture({"a": [3] * n}, {"a": 1.0}, "epochs", seed).order(epoch)
  np.testing.assert_array_equal(order, rng.permutation(n))


def test_a_source_does_not_feel_the_ones_after_it():
  alone = Mixture({"a": [1] * 9}, {"a": 1}, "epochs", 7).order(1)
  both = Mixture({"a": [1] * 9, "b": [1] * 4}, {"a": 1, "b": 1}, "epochs", 7)
  assert [i for i in both.order(1) if i < 9] == alone.tolist()


# ------------------------------------------------------------------------ errors
def test_a_source_without_amount_or_sequences_is_an_error():
  with pytest.raises(SophiaError, match=r"'a' has no amount; .* of b"):
    Mixture({"a": [1]}, {"b": 1.0}, "epochs", 0)
  with pytest.raises(SophiaError, match="'a' has no sequence left"):
    Mixture({"a": []}, {"a": 1.0}, "epochs", 0)


@pytest.mark.parametrize(
  "values", [{"by": "rows"}, {"text": -1.0}, {"visual": float("nan")}]
)
def test_config_is_checked(values):
  with pytest.raises(ValueError, match=next(iter(values))):
    MixtureConfig(**values)


def test_joined_sources_are_one_list():
  joined = Joined([[], ["a", "b"], [], ["c"]])
  assert [joined[i] for i in range(len(joined))] == ["a", "b", "c"]
  assert len(Joined([])) == 0


# -------------------------------------------------------------------- the loader
SHAPE = PackConfig(rows=4, length=96, tile_budget=16, microbatches=2, shards=4)


@pytest.fixture(scope="module")
def sources(renderer, picture):
  """Trajectories about images, about text, and questions, as three lists."""

  def make(name, number, weight, images=()):
    return [
      renderer.sequence(
        renderer.prompt(f"{name}{i}", images[i % 3 : i % 3 + 1], ""),
        "y" * (1 + i % 9),
        id=f"{name}{i}",
        streams={"weights": weight + i},
      )
      for i in range(number)
    ]

  pictures = [picture(30, 30), picture(112, 56), picture(56, 120)]
  return {
    "visual": make("v", 30, 1000, pictures),
    "text": make("t", 50, 2000),
    "general": make("g", 20, 3000, pictures),
  }


def loader(sources, shape=SHAPE, process=(0, 1), threads=0, batches=0, **mix):
  mix = {"amounts": {"visual": 2, "text": 1, "general": 0.5}, **mix}
  return Loader(
    sources,
    shape,
    LoaderConfig(epochs=2, seed=5, threads=threads, batches=batches),
    Reading(
      streams=("weights",),
      tokens_per_tile=4,
      image=SMALL,
      slice_index=process[0],
      slices=process[1],
    ),
    **mix,
  )


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def drawn(batches):
  """How many sequences of each thousand of weights."""
  values = collections.Counter()
  for batch in batches:
    for segments, weights in zip(
      batch.segment_ids.reshape(-1, 96),
      batch.streams["weights"].reshape(-1, 96),
    ):
      for segment in range(1, segments.max() + 1):
        values[int(weights[segments == segment].max()) // 1000] += 1
  return values


def test_a_run_has_the_proportions_asked_for(sources):
  made = loader(sources)
  assert drawn(made) == {1: 2 * 2 * 30, 2: 2 * 50, 3: 20}
  found = made.summary()
  assert {n: s["drawn"] for n, s in found["sources"].items()} == {
    "visual": 120,
    "text": 100,
    "general": 20,
  }
  assert found["sources"]["text"]["drawn_tokens"] == 2 * sum(
    map(len, sources["text"])
  )
  assert found["dropped"] == 0
  json.dumps(found)
  weighted = loader(
    sources, amounts={"visual": 1, "text": 1, "general": 2}, by="weight"
  )
  assert drawn(weighted) == {1: 2 * 10, 2: 2 * 10, 3: 2 * 20}


def test_what_is_dropped_takes_no_part(sources):
  small = dataclasses.replace(SHAPE, tile_budget=8, drop_oversize=True)
  made = loader(sources, small)
  few = made.summary()["sources"]["visual"]["drawn"]
  assert made.dropped and few == 2 * 2 * 10
  assert drawn(made)[1] == few


@pytest.mark.parametrize("processes", [2, 4])
def test_hosts_make_up_the_batch_of_one(sources, processes):
  """Bit for bit, so that a run may go on with another number of hosts."""
  whole = loader(sources)
  parts = [loader(sources, process=(p, processes)) for p in range(processes)]
  for part in parts:
    assert part.identity == whole.identity
    assert part.steps == whole.steps
  for step in range(whole.steps):
    same(joined(parts, step), whole[step])


def test_a_host_needs_no_tile_of_another(sources):
  tiles = 16 * 4 // 4
  for p in range(4):
    for batch in loader(sources, process=(p, 4)):
      slots = batch.tile_slots[batch.tile_slots >= 0]
      assert ((slots >= p * tiles) & (slots < (p + 1) * tiles)).all()


def test_the_number_of_hosts_divides_the_shards(sources):
  with pytest.raises(SophiaError, match="shards 4 does not divide among 3"):
    loader(sources, process=(0, 3))


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_resumes_mid_epoch_with_other_threads_and_hosts(sources, data):
  whole = loader(sources)
  step = data.draw(st.integers(0, whole.steps))
  processes = data.draw(st.sampled_from([1, 2, 4]))
  cursor = json.loads(json.dumps(whole.cursor(step)))
  threads = data.draw(st.sampled_from([0, 1, 3]))
  others = [
    loader(sources, process=(p, processes), threads=threads).after(cursor)
    for p in range(processes)
  ]
  for n in range(step, min(step + 2, whole.steps)):
    slices = [next(other) for other in others]
    same(
      jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *slices),
      whole[n],
    )


def test_another_mixture_is_not_resumed(sources):
  cursor = loader(sources).cursor(0)
  amounts = {"visual": 2, "text": 1, "general": 0.25}
  for other in (
    loader(sources, amounts=amounts),
    loader(sources, amounts=dict.fromkeys(sources, 900), by="tokens"),
    loader({**sources, "text": sources["text"][1:]}),
    loader(sources, dataclasses.replace(SHAPE, shards=2)),
  ):
    with pytest.raises(
      SophiaError, match=r"other data .* restore data, mixture"
    ):
      other.after(cursor)


def test_a_mixture_of_nothing_is_an_error(sources):
  with pytest.raises(SophiaError, match="the mixture takes of no source"):
    loader(sources, amounts=dict.fromkeys(sources, 0.0))
  with pytest.raises(SophiaError, match="the mixture takes of no source"):
    loader(sources, amounts=dict.fromkeys(sources, 0.0), batches=3)
