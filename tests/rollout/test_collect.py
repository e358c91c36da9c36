"""Collecting: whatever happens, every trajectory is sampled once and the same."""

import dataclasses
from itertools import islice

import numpy as np
import pytest

from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.collect import RolloutConfig, collect
from sophia_jax.rollout.requests import (
  Asking,
  caption_request,
  reasoning_request,
  seed_of,
)
from sophia_jax.rollout.store import Store
from sophia_jax.types import (
  Chat,
  FinishReason,
  Problem,
  Role,
  Sampling,
  SophiaError,
  Status,
)
from tests.rollout import little

CONFIG = RolloutConfig(captions=2, trajectories=3)
META = {"K": 2, "N": 3}


class Recorded:
  """An engine, and the ids of what it was asked."""

  def __init__(self, engine):
    self.engine, self.asked = engine, []

  def generate(self, requests):
    def noted():
      for request in requests:
        self.asked.append(request.id)
        yield request

    yield from self.engine.generate(noted())


class World:
  def __init__(self, directory):
    policy = little.renderer(str(directory / "policy"), True)
    reasoner = little.renderer(str(directory / "reasoner"), False)
    config = dataclasses.replace(little.ENGINE, length=160)
    self.policy = little.engine(little.model(policy), policy, config=config)
    self.reasoner = little.engine(
      little.model(reasoner), reasoner, config=config
    )
    self.asking = Asking(
      policy=policy,
      caption="What do you see",
      reason=lambda question, caption: f"{caption}\n{question}",
      captioning=Sampling(max_new_tokens=6),
      reasoning=Sampling(temperature=0.8, max_new_tokens=9),
      seed=5,
    )
    self.problems = [
      Problem(
        id=f"p/{i}",
        question=f"Is it red{'?' * i}",
        answer="6",
        answer_type="number",
        images=(path,),
        difficulty=("easy", "hard")[i == 1],
      )
      for i, path in enumerate(little.pictures(directory))
    ]

  def life(self, directory, stop=None):
    """Collects until `stop` trajectories; (yielded, asked, store) of this life."""
    policy, reasoner = Recorded(self.policy), Recorded(self.reasoner)
    reasoners = {d: reasoner for d in ("easy", "hard")}
    with Verifier(workers=1) as verifier, Store(directory, META) as store:
      generator = collect(
        self.problems,
        policy,
        reasoners,
        self.asking,
        verifier,
        store,
        CONFIG,
      )
      yielded = list(islice(generator, stop))
      generator.close()
    return yielded, (policy.asked, reasoner.asked), store


@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_to_compile):
  return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
  return world.life(tmp_path_factory.mktemp("undisturbed"))


def every_key(world):
  return {
    (p.id, k, n)
    for p in world.problems
    for k in range(CONFIG.captions)
    for n in range(CONFIG.trajectories)
  }


def test_everything_is_sampled_once(world, undisturbed):
  yielded, (captions, trajectories), store = undisturbed
  keys = [(t.problem_id, t.k, t.n) for t in yielded]
  assert len(keys) == len(set(keys)) and set(keys) == every_key(world)
  assert dict(zip(keys, yielded)) == store.trajectories
  assert sorted(captions) == sorted({f"{p}/{k}" for p, k, _ in keys})
  assert sorted(trajectories) == sorted(f"{p}/{k}/{n}" for p, k, n in keys)
  texts = {t.completion.text for t in yielded}
  assert len(texts) == len(yielded), "each has a seed of its own"


def test_what_is_stored_is_what_was_said(world, undisturbed):
  _, _, store = undisturbed
  words = world.asking.policy
  for t in store.trajectories.values():
    assert t.length == words.count(t.completion.text)
    cut = t.completion.finish_reason is FinishReason.LENGTH
    assert t.verdict.status is (Status.TRUNCATED if cut else Status.UNPARSEABLE)
    assert t.completion.request_id == t.id
  # Prompts of the reasoner hold the caption that is stored.
  easy = world.problems[0]
  caption = store.captions[easy.id, 1]
  request = reasoning_request(world.asking, easy, caption, 2)
  assert caption.completion.text in request.prompt.text
  assert easy.question in request.prompt.text


def assert_same_records(found, want):
  """The same but for the last bits of log-probabilities."""
  assert found.keys() == want.keys()
  for key, record in found.items():
    logps, other = record.completion.logps, want[key].completion.logps
    np.testing.assert_allclose(logps, other, atol=1e-5)
    completion = dataclasses.replace(record.completion, logps=other)
    assert dataclasses.replace(record, completion=completion) == want[key]


@pytest.mark.parametrize("stop", [0, 1, 4, 11, 17])
def test_a_killed_life_is_gone_on_with(world, undisturbed, tmp_path, stop):
  first, _, before = world.life(tmp_path, stop)
  assert len(first) == stop == len(before.trajectories)
  second, (captions, trajectories), store = world.life(tmp_path)
  # Nothing is asked that was there, and nothing twice.
  there = {t.id for t in before.trajectories.values()}
  every = {f"{p}/{k}/{n}" for p, k, n in every_key(world)}
  assert sorted(trajectories) == sorted(every - there)
  known = {c.id for c in before.captions.values()}
  assert sorted(captions) == sorted(
    {i.rpartition("/")[0] for i in every} - known
  )
  assert len(first) + len(second) == len(every)
  # And it comes out as if it had never been killed.
  _, _, want = undisturbed
  assert_same_records(store.captions, want.captions)
  assert_same_records(store.trajectories, want.trajectories)
  # A third life has nothing to do.
  assert world.life(tmp_path)[:2] == ([], ([], []))


def test_a_difficulty_without_a_reasoner(world, tmp_path):
  policy = Recorded(world.policy)
  reasoners = {"easy": world.reasoner}
  with Verifier(workers=1) as verifier, Store(tmp_path, META) as store:
    with pytest.raises(SophiaError) as error:
      next(
        collect(
          world.problems,
          policy,
          reasoners,
          world.asking,
          verifier,
          store,
          CONFIG,
        )
      )
    assert not store.captions and not policy.asked
  assert str(error.value) == (
    "problem p/1: difficulty 'hard' names no reasoner; config.reasoners has "
    "easy"
  )


# ---------------------------------------------------------------------- requests
def test_a_caption_cannot_know_the_question(world):
  problem = world.problems[0]
  other = dataclasses.replace(problem, question="How blue?", choices=("a", "b"))
  one, two = (caption_request(world.asking, p, 0) for p in (problem, other))
  assert one.prompt.token_ids.tolist() == two.prompt.token_ids.tolist()
  assert one.prompt.images == problem.images
  assert (one.prompt.roles == Role.IMAGE).sum() == 4
  assert one.sampling == two.sampling


def test_a_reasoner_never_sees_the_image(world, undisturbed):
  _, _, store = undisturbed
  problem = world.problems[0]
  caption = store.captions[problem.id, 0]
  request = reasoning_request(world.asking, problem, caption, 0)
  assert isinstance(request.prompt, Chat)


def test_seeds_are_of_the_request_alone():
  assert seed_of(0, "a/1") == seed_of(0, "a/1")
  seeds = {seed_of(s, f"{p}/{k}") for s in (0, 1) for p in "ab" for k in (1, 2)}
  assert len(seeds) == 8
  assert all(0 <= seed < 2**63 for seed in seeds)
