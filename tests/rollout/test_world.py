"""The world: what roles are asked, and what is never asked twice."""

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sophia_jax.algorithms.sampling import attempts, described
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World, request_name, seed_of
from sophia_jax.types import Chat, Problem, Role, SophiaError
from tests.rollout import lives
from tests.rollout.lives import Scripted, Stepped, seats, words


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  return lives.Little(tmp_path_factory.mktemp("world"))


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "s", lives.META) as store:
    yield store


@pytest.fixture
def sampled(store):
  """sampled(problems, recipe, **engines): the groups."""

  def run(problems, recipe, rewards=None, **engines):
    how = {"rewards": rewards} if rewards else {}
    with Verifier(workers=1) as verifier:
      world = World(store, seats(**engines), lives.Counted(), verifier, **how)
      return list(collect(problems, recipe, world))

  return run


# ---------------------------------------------------------------------- prompts
def test_a_caption_cannot_know_the_question(small, store):
  world = small.world(store)
  problem = small.problems[0]
  other = dataclasses.replace(problem, question="How blue?", choices=("a", "b"))
  one, two = (world.prompt("caption", p) for p in (problem, other))
  assert one.token_ids.tolist() == two.token_ids.tolist()
  assert one.images == problem.images
  assert (one.roles == Role.IMAGE).sum() == 4


def test_a_reasoner_never_sees_the_image(small, store):
  prompt = small.world(store).prompt(
    "reasoner", small.problems[0], caption="Two {question} apples."
  )
  assert prompt == Chat(text="Two {question} apples.\nIs it red")


def test_the_policy_is_asked_to_think(small, store):
  problem = small.problems[2]
  prompt = small.world(store).prompt("policy", problem)
  want = small.words.prompt(
    problem.text, problem.images, small.prompts.slow_thinking
  )
  assert prompt.token_ids.tolist() == want.token_ids.tolist()
  assert prompt.tiles == (3,)


# ------------------------------------------------------------------------ seeds
def test_seeds_are_of_the_request_alone():
  assert seed_of(0, "a/1") == seed_of(0, "a/1") == seed_of(0, "a/1", 0)
  seeds = {
    seed_of(s, request_name(role, p, path, turn), round)
    for s in (0, 1)
    for p in "ab"
    for path in ((1,), (2,), (1, 2))
    for role in ("policy", "caption", "teacher")
    for turn in (0, 1)
    for round in (0, 3)
  }
  assert len(seeds) == 2 * 2 * 3 * 3 * 2 * 2
  assert all(0 <= seed < 2**63 for seed in seeds)


def test_requests_are_named_by_their_place():
  assert request_name("caption", "mv/17", (0,)) == "mv/17/0"
  assert request_name("reasoner", "mv/17", (0, 3)) == "mv/17/0/3"
  assert request_name("policy", "mv/17", (2,)) == "mv/17/2:policy"
  assert request_name("policy", "mv/17", (2,), 1) == "mv/17/2:policy.1"


# --------------------------------------------------------- asked, stored, replayed
def test_what_was_not_graded_is_graded_and_not_asked_again(sampled, store):
  engine = Scripted()

  async def ungraded(world, problem):
    prompt = world.prompt("policy", problem)
    for i in range(3):
      await world.ask("policy", problem, (i,), prompt)
    return await attempts(0)(world, problem)

  sampled(words(2), ungraded, policy=engine)
  assert store.index.answers == 6 == len(engine.asked)
  groups = sampled(words(2), attempts(3), policy=engine)
  assert len(engine.asked) == 6 and store.index.grades == 6
  assert [r.rewards for r in groups[1].rollouts] == [{"accuracy": 1.0}] * 3


def test_a_reworded_problem_is_asked_again(sampled):
  engine = Scripted()
  sampled(words(2), attempts(2), policy=engine)
  [one, other] = words(2)
  changed = [one, dataclasses.replace(other, question="And now?")]
  sampled(changed, attempts(2), policy=engine)
  assert engine.asked[4:] == ["w1/0:policy", "w1/1:policy"]


def test_a_reasoner_for_each_difficulty(sampled):
  easy, hard = Scripted(), Scripted()
  problems = words(2) + [
    dataclasses.replace(p, id=f"h{p.id}", difficulty="hard") for p in words(2)
  ]
  sampled(
    problems,
    described(1, 2),
    caption=Scripted(),
    reasoner={"easy": easy, "hard": hard},
  )
  assert sorted(easy.asked) == ["w0/0/0", "w0/0/1", "w1/0/0", "w1/0/1"]
  assert {name[0] for name in hard.asked} == {"h"} and len(hard.asked) == 4


def test_reward_parts_are_named_and_kept(sampled, store):
  parts = lambda problem, completion, verdict: {
    "accuracy": float(verdict.status == "right"),
    "format": 0.5,
  }
  [group] = sampled(words(1), attempts(1), rewards=parts, policy=Scripted())
  assert group.rollouts[0].rewards == {"accuracy": 1.0, "format": 0.5}
  world = World(store, seats(policy={}), lives.Counted())
  [again] = collect(words(1), attempts(1), world)
  assert again.rollouts[0].rewards == group.rollouts[0].rewards


def test_lengths_are_counted_once_and_kept(sampled, store):
  long = Scripted(lambda name: "one two three \\boxed{6}")
  [group] = sampled(
    words(1), described(1, 1), caption=Scripted(), reasoner=long
  )
  caption, trajectory = group.rollouts
  assert (caption.length, trajectory.length) == (1, 4)

  class Silent:
    def count(self, text):
      raise AssertionError("counted again")

  world = World(store, seats(caption={}, reasoner={}), Silent())
  [again] = collect(words(1), described(1, 1), world)
  assert again.rollouts[1].length == 4


def test_a_picture_is_stored_once_and_found_again(store):
  world = World(store, {}, lives.Counted())
  board = np.arange(48, dtype=np.uint8).reshape(2, 8, 3)
  path = world.picture(board)
  assert np.array_equal(np.asarray(Image.open(path)), board)
  written = Path(path).stat().st_mtime_ns
  assert world.picture(board.copy()) == path
  assert world.picture(board.reshape(8, 2, 3)) != path
  assert Path(path).stat().st_mtime_ns == written
  with Store(store.path, read_only=True) as found:
    replay = World(found, {}, lives.Counted())
    assert replay.picture(board) == path
    with pytest.raises(SophiaError, match="is missing"):
      replay.picture(board + 1)


def test_chance_is_of_run_round_and_place(store):
  [one, two] = words(2)
  seeds = {
    World(store, {}, lives.Counted(), seed=s, round=r).chance(p, path)
    for s in (0, 1)
    for r in (0, 1)
    for p in (one, two)
    for path in ((0,), (1,))
  }
  assert len(seeds) == 16


def test_several_turns_of_one_path(sampled, store):
  async def talk(world, problem):
    prompt = world.prompt("policy", problem)
    texts = [
      (await world.ask("policy", problem, (0,), prompt, turn)).text
      for turn in range(3)
    ]
    assert texts == ["w0/0:policy", "w0/0:policy.1", "w0/0:policy.2"]
    return await attempts(0)(world, problem)

  sampled(words(1), talk, policy=Stepped(lambda name: name))
  assert store.index.answers == 3


# ------------------------------------------------------------------------ errors
def test_one_place_is_not_asked_twice_at_the_same_time(sampled):
  async def twice(world, problem):
    prompt = world.prompt("policy", problem)
    ask = lambda: world.ask("policy", problem, (0,), prompt)
    await asyncio.gather(ask(), ask())

  with pytest.raises(ValueError, match="w0/0:policy is asked twice"):
    sampled(words(1), twice, policy=Stepped())


def test_a_replay_says_what_is_missing(store):
  world = World(store, seats(policy={}), lives.Counted())
  with pytest.raises(SophiaError) as error:
    list(collect(words(1), attempts(1), world))
  assert str(error.value) == (
    f"{store.path}: the answer w0/0:policy is missing; sample it again"
  )


def test_a_role_that_nobody_plays(sampled):
  with pytest.raises(SophiaError, match="role 'policy' is not one of caption"):
    sampled(words(1), attempts(1), caption=Stepped())


def test_a_difficulty_without_a_reasoner(store):
  engines = {"easy": Stepped()}
  world = World(store, seats(reasoner=engines), lives.Counted())
  hard = Problem(id="p/1", question="?", answer="6", difficulty="hard")
  world.check([*words(3), hard])  # a sole reasoner takes all
  engines["4"] = Stepped()
  with pytest.raises(SophiaError) as error:
    world.check([*words(3), hard])
  assert str(error.value) == (
    "problem p/1: difficulty 'hard' names no reasoner; config.reasoners has "
    "4, easy"
  )


def test_a_picture_that_went_away(small, store):
  gone = dataclasses.replace(small.problems[0], images=("/nowhere/1.png",))
  with (
    Verifier(workers=1) as verifier,
    pytest.raises(SophiaError, match=r"/nowhere/1\.png"),
  ):
    list(collect([gone], described(2, 3), small.world(store, verifier)))
  assert lives.no_thread_is_left()
