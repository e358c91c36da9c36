"""Episodes in a world: the same after a kill, read again, and seen as pictures."""

import collections
import dataclasses

import numpy as np
import pytest

from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.algorithms.episodes import episodes
from sophia_jax.envs import registry
from sophia_jax.envs.board import ACTIONS
from sophia_jax.envs.episode import Limits
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.evals.browser import groups as browsed
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.records import Answer, Finished, decode
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.types import Completion, FinishReason, Problem, Role
from tests.rollout import little, lives

LAKE = FrozenLake(rows=("SFFF", "FFFF", "FFFG"), success_rate=0.5)
PLAY = episodes(3, Limits(turns=4, form="plain"), context=400)


class Player(lives.Stepped):
  """Answers by its request's seed: one or two moves, at times no move."""

  def __init__(self, words):
    super().__init__()
    self.words = words

  def tick(self):
    first = len(self.asked) - len(self.inbox) + 1
    inbox, self.inbox = self.inbox, []
    return [
      (ticket, self.played(request))
      for ticket, request in enumerate(inbox, first)
    ]

  def played(self, request):
    moves = np.random.default_rng(request.sampling.seed).integers(5, size=2)
    text = " || ".join([*ACTIONS, "fly"][m] for m in moves[: 1 + moves[0] % 2])
    ids = self.words.response_ids(text)
    return Completion(
      request_id=request.id,
      text=text,
      token_ids=tuple(map(int, ids)),
      logps=(-1.0,) * len(ids),
      finish_reason=FinishReason.STOP,
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  return little.renderer(str(tmp_path_factory.mktemp("words")), True)


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
  """Two starts in words, and one that is a picture."""
  picture = little.pictures(tmp_path_factory.mktemp("pictures"))[0]
  answer = registry.written(LAKE)
  return [
    Problem(id=f"s{i}", question=LAKE.text(LAKE.start()), answer=answer)
    for i in range(2)
  ] + [Problem(id="s2", question="_", answer=answer, images=(picture,))]


def life(directory, words, starts, read_only=False):
  """The groups, and what was asked."""
  player = Player(words)
  engines = None if read_only else {"policy": {"": player}}
  meta = None if read_only else lives.META
  with Store(directory, meta, read_only=read_only) as store:
    seats = roles.seats(words, Prompts(slow_thinking="Look."), {}, engines)
    world = World(store, seats, words, seed=3)
    return list(collect(starts, PLAY, world)), player.asked


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, words, starts):
  directory = tmp_path_factory.mktemp("whole")
  return directory, *life(directory, words, starts)


def prompts(groups):
  """Ids, roles and tiles of every prompt."""
  return [
    (
      turn.prompt.token_ids.tolist(),
      turn.prompt.roles.tolist(),
      turn.prompt.tiles,
    )
    for group in groups
    for rollout in group.rollouts
    for turn in rollout.turns
  ]


def test_episodes_differ_in_answers_and_chance(undisturbed):
  _, groups, asked = undisturbed
  assert len({*asked}) == len(asked)
  rollouts = [r for g in groups for r in g.rollouts]
  assert {len(r.turns) for r in rollouts} - {1}
  assert any(r.rewards["invalid"] for r in rollouts)
  for r in rollouts:
    for turn, after in zip(r.turns, r.turns[1:]):
      past = [*turn.prompt.token_ids, *turn.completion.token_ids]
      assert after.prompt.token_ids[: len(past)].tolist() == past
    own = r.turns[-1].prompt.roles == Role.RESPONSE
    said = sum(len(t.completion.token_ids) for t in r.turns[:-1])
    assert own.sum() == said


def test_later_boards_are_pictures_where_the_start_is_one(undisturbed):
  directory, groups, _ = undisturbed
  last = [r.turns[-1] for r in groups[2].rollouts]
  for turn in last:
    shown = turn.prompt.images[1:]
    assert all(str(directory) in path for path in shown)
    image = (turn.prompt.roles == Role.IMAGE).sum()
    assert image == 4 * sum(turn.prompt.tiles)
  assert any(turn.prompt.images[1:] for turn in last)
  assert not any(t.prompt.images for r in groups[0].rollouts for t in r.turns)


def test_a_complete_store_is_played_again_without_engines(
  undisturbed, words, starts
):
  directory, groups, _ = undisturbed
  again, _ = life(directory, words, starts, read_only=True)
  assert lives.bare(again) == lives.bare(groups)
  assert prompts(again) == prompts(groups)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.71, 0.95])
def test_a_kill_in_the_middle_of_an_episode_repeats_nothing(
  undisturbed, words, starts, tmp_path, share
):
  directory, groups, asked = undisturbed
  whole = (directory / "0.jsonl").read_bytes()
  end = int(len(whole) * share)
  (tmp_path / "store.json").write_bytes((directory / "store.json").read_bytes())
  (tmp_path / "0.jsonl").write_bytes(whole[:end])
  kept = whole[: whole.rfind(b"\n", 0, end) + 1]
  there = [
    r.completion.request_id
    for r in map(decode, kept.splitlines(True))
    if isinstance(r, Answer)
  ]
  again, more = life(tmp_path, words, starts)
  assert collections.Counter([*there, *more]) == collections.Counter(asked)
  assert lives.bare(again) == lives.bare(groups)
  ids = [ids for ids, *_ in prompts(again)]
  assert ids == [ids for ids, *_ in prompts(groups)]
  assert (tmp_path / "0.jsonl").read_bytes().startswith(kept)


def test_the_browser_plays_the_records(undisturbed, starts):
  directory, groups, _ = undisturbed
  algorithm = Algorithm(sample=PLAY, terms=())
  lines = (directory / "0.jsonl").read_bytes().splitlines(True)
  records = [r for r in map(decode, lines) if not isinstance(r, Finished)]
  for group, start in zip(groups, starts):
    own = [r for r in records if r.problem_id == start.id]
    found, complete = browsed.read(own, start, algorithm, seed=3)
    assert complete
    assert [r.rewards for r in found.rollouts] == [
      r.rewards for r in group.rollouts
    ]
    unknown = dataclasses.replace(start, answer="")
    found, complete = browsed.read(own, unknown, algorithm, seed=3)
    assert not complete and len(found.rollouts) == 3
    assert [len(r.turns) for r in found.rollouts] == [
      len(r.turns) for r in group.rollouts
    ]
