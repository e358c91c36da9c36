"""Sampling with embedded engines: each answer once, and the same every time."""

import threading
from collections import Counter

import pytest

from sophia_jax.algorithms.sampling import attempts, described
from sophia_jax.rollout.records import Answer, Finished, decode
from sophia_jax.rollout.store import Store
from sophia_jax.types import FinishReason, Status
from tests.rollout import lives

K, N = 2, 3
SOPHIA = described(K, N)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  return lives.Little(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(small, directory):
  return small.life(directory, SOPHIA)


def test_everything_is_sampled_once(small, undisturbed):
  groups, (captions, trajectories) = undisturbed
  assert [g.problem for g in groups] == small.problems
  paths = sorted(
    [(k,) for k in range(K)] + [(k, n) for k in range(K) for n in range(N)]
  )
  assert all([r.path for r in g.rollouts] == paths for g in groups)
  names = [f"{p.id}/{k}" for p in small.problems for k in range(K)]
  assert sorted(captions) == sorted(names)
  assert sorted(trajectories) == sorted(
    f"{c}/{n}" for c in names for n in range(N)
  )
  texts = {r.completion.text for g in groups for r in g.depth(2)}
  assert len(texts) == len(trajectories), "each has a seed of its own"


def test_a_trajectory_is_counted_and_graded(small, undisturbed):
  groups, _ = undisturbed
  for group in groups:
    for t in group.depth(2):
      assert t.author == "reasoner"
      assert t.length == small.words.count(t.completion.text)
      cut = t.completion.finish_reason is FinishReason.LENGTH
      want = Status.TRUNCATED if cut else Status.UNPARSEABLE
      assert t.verdict.status is want and t.rewards == {"accuracy": 0.0}
      caption = group.rollouts[
        [r.path for r in group.rollouts].index(t.path[:1])
      ]
      assert caption.completion.text in t.turns[0].prompt.text


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_sampled_does_not_depend_on_how_fast_anything_is(
  small, undisturbed, tmp_path, seed
):
  """To the last bit: the same requests are decoded together."""
  again = small.life(tmp_path, SOPHIA, seed=seed)
  assert lives.bare(again[0]) == lives.bare(undisturbed[0])
  assert again[1] == undisturbed[1]


def test_a_complete_store_is_read_without_engines(
  small, directory, undisturbed
):
  groups, _ = undisturbed
  again = small.replayed(directory, SOPHIA)
  assert lives.bare(again) == lives.bare(groups)
  for one, other in zip(groups, again):
    for a, b in zip(one.depth(1), other.depth(1)):
      ids = a.turns[0].prompt.token_ids
      assert ids.tolist() == b.turns[0].prompt.token_ids.tolist()


def test_a_complete_store_asks_for_nothing(small, directory, undisturbed):
  before = {p.name: p.read_bytes() for p in directory.glob("*.jsonl")}
  groups, asked = small.life(directory, SOPHIA)
  assert asked == ([], []) and len(groups) == 3
  assert {p.name: p.read_bytes() for p in directory.glob("*.jsonl")} == before


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.6, 0.8, 0.97])
def test_a_killed_life_is_continued(
  small, directory, undisturbed, tmp_path, share
):
  """Killed after any record, in the middle of the next one."""
  whole = (directory / "0.jsonl").read_bytes()
  end = int(len(whole) * share)
  (tmp_path / "store.json").write_bytes((directory / "store.json").read_bytes())
  (tmp_path / "0.jsonl").write_bytes(whole[:end])
  kept = whole[: whole.rfind(b"\n", 0, end) + 1]
  there = {
    (r.problem_id, r.path)
    for r in map(decode, kept.splitlines(True))
    if isinstance(r, Answer)
  }
  groups, (captions, trajectories) = small.life(tmp_path, SOPHIA)
  # Nothing is asked that was there, graded or not, and nothing twice.
  every = {
    (g.problem.id, r.path): r for g in undisturbed[0] for r in g.rollouts
  }
  asked = Counter(captions + trajectories)
  assert asked == Counter(every[key].id for key in every.keys() - there)
  # And it ends as if it had never been killed.
  assert lives.rounded(groups) == lives.rounded(undisturbed[0])
  after = (tmp_path / "0.jsonl").read_bytes()
  assert after.startswith(kept)
  records = [decode(line) for line in after.splitlines(True)]
  assert None not in records and len(records) == len(whole.splitlines())
  assert sum(isinstance(r, Finished) for r in records) == 3


def test_an_early_end_keeps_what_has_finished(small, undisturbed, tmp_path):
  first, asked = small.life(tmp_path, SOPHIA, stop=1)
  assert lives.bare(first) == lives.bare(undisturbed[0][:1])
  there = Store(tmp_path, read_only=True).index.answers
  groups, again = small.life(tmp_path, SOPHIA)
  assert lives.rounded(groups) == lives.rounded(undisturbed[0])
  assert there + sum(map(len, again)) == 3 * K * (1 + N)
  assert len(asked[0]) == 3 * K  # all captions were asked for at once


def test_a_flat_group_in_the_policy_s_own_tokens(small, tmp_path):
  groups, (asked, _) = small.life(tmp_path, attempts(4))
  assert len(asked) == len(set(asked)) == 12
  for group in groups:
    for r in group.rollouts:
      [turn] = r.turns
      ids = turn.completion.token_ids
      assert turn.prompt.images == group.problem.images
      assert len(turn.completion.logps) == len(ids) and r.author == "policy"


# ----------------------------------------------------------------------- rounds
def test_each_round_draws_other_tokens(small, tmp_path):
  first, second = (
    small.life(tmp_path / str(r), attempts(2), round=r)[0] for r in (1, 2)
  )
  pairs = zip(first, second, strict=True)
  assert all(
    a.completion.token_ids != b.completion.token_ids
    for one, other in pairs
    for a, b in zip(one.rollouts, other.rollouts)
  )


def test_weights_that_change_while_a_thread_samples(small, tmp_path):
  """Every token knows its version, and the records keep it."""
  engine, groups = small.policy, []
  engine.load(engine.params, 7)
  try:

    def sample():
      found, _ = small.life(tmp_path, attempts(40))
      groups.extend(found)

    thread = threading.Thread(target=sample)
    thread.start()
    while not list(tmp_path.glob("*.jsonl")) or not (
      Store(tmp_path, read_only=True).index.answers
    ):
      pass
    engine.load(engine.params, 8)
    thread.join(60)
  finally:
    engine.version = None
  said = [r.completion for g in groups for r in g.rollouts]
  assert len(said) == 120
  for one in said:
    assert sum(n for _, n in one.versions) == len(one.token_ids)
    assert [v for v, _ in one.versions] in ([7], [8], [7, 8])
  assert {one.version for one in said} == {7, 8}
  assert lives.bare(small.replayed(tmp_path, attempts(40))) == lives.bare(
    groups
  )
