"""StarPO: episodes by exact ids, credit of turns, filters, and its limits."""

import asyncio
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.algorithms import (
  advantages,
  credit,
  grpo,
  ppo,
  selection,
  starpo,
)
from sophia_jax.algorithms.reductions import token
from sophia_jax.algorithms.registry import build
from sophia_jax.envs import registry
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.envs.sokoban import Sokoban
from sophia_jax.types import Chat, Problem, Role, SophiaError, Status
from tests.algorithms import rows, words

ROAD = FrozenLake(rows=("SFFFFG",), success_rate=1.0)


def start(env=ROAD, **changes):
  return Problem(id="p", question="_", answer=registry.written(env), **changes)


class Table(words.World):
  """A world that gives episode i the i-th list of answers."""

  def __init__(self, *scripts):
    super().__init__()
    self.scripts = scripts

  async def ask(self, role, problem, path, prompt, turn=0):
    self.asked.append((path, turn))
    text = self.scripts[path[0]][turn]
    ids = [*words.encode(text), words.END]
    return rows.completion(ids, [-0.5] * len(ids), text=text)

  def extend(self, prompt, completion, text, pictures=()):
    shown = words.encode("".join(pictures) + text)
    return rows.prompt([*prompt.token_ids, *completion.token_ids, *shown])

  def picture(self, pixels):
    return f"<{'x'.join(map(str, pixels.shape))}>"

  def chance(self, problem, path):
    return path[0]


def says(*actions):
  return f"<think></think><answer>{' || '.join(actions)}</answer>"


def played(algorithm, *scripts, problem=None):
  world = Table(*scripts)
  group = asyncio.run(algorithm.sample(world, problem or start()))
  return group, world


def method(name="starpo", **settings):
  return build(name, {"n": 2, "context": 4000, **settings})


HOME = [says("right"), "what?", says("right", "right", "right", "right")]
LOST = [says("left"), says("left"), says("left")]


# --------------------------------------------------------------------- episodes
def test_every_prompt_continues_the_ids_that_were_sampled():
  group, world = played(method(turns=3), HOME, LOST)
  assert sorted(world.asked) == [((i,), t) for i in (0, 1) for t in range(3)]
  for rollout in group.rollouts:
    for before, after in zip(rollout.turns, rollout.turns[1:]):
      past = [*before.prompt.token_ids, *before.completion.token_ids]
      assert [*after.prompt.token_ids[: len(past)]] == past
  won, lost = group.rollouts
  assert won.rewards["turns"] == (0.0, -0.1, 1.0)
  assert (won.rewards["env"], won.rewards["format"]) == (1.0, -0.1)
  assert (won.rewards["accuracy"], won.rewards["invalid"]) == (1.0, 1.0)
  assert won.rewards["ended_done"] == lost.rewards["ended_limit"] == 1
  assert won.verdict.status is Status.RIGHT
  assert lost.verdict.status is Status.WRONG
  assert won.length == sum(len(t) + 1 for t in HOME)


@pytest.mark.parametrize("advantage", starpo.ADVANTAGES)
def test_the_loss_covers_the_policys_tokens_of_all_turns(advantage):
  algorithm = method(turns=3, advantage=advantage, rewards="turn")
  group, _ = played(algorithm, HOME, LOST)
  kept, sequences = credit.learn(algorithm, [group], None, rows.START)
  assert [s.id for s in sequences] == ["p/0", "p/1"] and kept
  for s, said in zip(sequences, (HOME, LOST)):
    own = s.streams["mask"] > 0
    text = "".join(map(chr, s.token_ids[own]))
    assert text == "".join(f"{t}\x01" for t in said)
    assert np.array_equal(own, s.roles == Role.RESPONSE)
    assert s.streams["weights"].sum() == pytest.approx(1)
    np.testing.assert_array_equal(s.streams["behaviour_logps"], -0.5 * own)
    if advantage != "group":
      ends = np.flatnonzero(s.streams["ends"])
      assert [*s.token_ids[ends]] == [words.END] * 3
      turns = dict(zip(("p/0", "p/1"), ((0, -0.1, 1), (0, 0, 0))))
      np.testing.assert_allclose(s.streams["rewards"][ends], turns[s.id])
      assert np.count_nonzero(s.streams["rewards"]) <= 3


def test_the_reward_of_an_episode_may_lie_on_its_last_token_alone():
  algorithm = method(turns=3, advantage="gae")
  group, _ = played(algorithm, HOME, LOST)
  won, lost = credit.learn(algorithm, [group], None, rows.START)[1]
  last = np.flatnonzero(won.streams["ends"])[-1]
  assert won.streams["rewards"][last] == pytest.approx(0.9)
  assert np.count_nonzero(won.streams["rewards"]) == 1
  assert not lost.streams["rewards"].any()


def test_an_episode_ends_where_the_context_does():
  long = [says("left")] * 5
  group, _ = played(method(turns=5, context=120), long, long)
  for rollout in group.rollouts:
    assert 1 <= len(rollout.turns) < 5
    assert all(len(t.prompt) <= 120 for t in rollout.turns)
    assert rollout.rewards["ended_context"] == 1
    assert rollout.verdict.status is Status.TRUNCATED


def test_answers_that_cannot_be_read_are_counted_and_penalised():
  group, _ = played(method(turns=2), ["fly", "<answer>"], [says("jump")] * 2)
  for rollout in group.rollouts:
    assert rollout.rewards["turns"] == (-0.1, -0.1)
    assert (rollout.rewards["invalid"], rollout.rewards["actions"]) == (2, 0)
    assert rollout.verdict.status is Status.UNPARSEABLE


def test_boards_are_shown_as_pictures_where_the_start_is_one():
  box = Sokoban(rows=("#####", "#@-.#", "#-$-#", "#---#", "#####"))
  problem = start(box, images=("a.png",))
  group, _ = played(method(turns=2), LOST, LOST, problem=problem)
  text = "".join(map(chr, group.rollouts[0].turns[1].prompt.token_ids))
  assert "<60x60x3>Reward: -0.1" in text and "#" not in text


def test_problems_without_an_environment_are_refused():
  other = Problem(id="p9", question="?", answer="6")
  algorithm = method()
  with pytest.raises(SophiaError, match=r"p9.*no environment"):
    algorithm.check(other)
  algorithm.check(start())

  class Worded(Table):
    def prompt(self, template, problem, **context):
      return Chat(text="_")

  with pytest.raises(SophiaError, match="token ids"):
    asyncio.run(algorithm.sample(Worded(HOME, LOST), start()))


# ----------------------------------------------------------------- bi-level GAE
def by_hand(r, v, ends, high, low):
  """Bi-level GAE of one sequence's learnt tokens, as loops."""
  (gh, lh), (gl, ll) = high, low
  places = np.flatnonzero(ends)
  paid, after_v, after_a = np.zeros(len(r)), 0.0, 0.0
  for t in reversed(places):
    after_a = r[t] + gh * after_v - v[t] + gh * lh * after_a
    after_v = v[t]
    paid[t] = after_a + v[t]
  out = np.zeros(len(r))
  for t in reversed(range(len(r))):
    if ends[t]:
      after_v = after_a = 0.0
    after_a = paid[t] + gl * after_v - v[t] + gl * ll * after_a
    out[t], after_v = after_a, v[t]
  return out


@pytest.mark.parametrize("high", [(0.95, 1.0), (0.9, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("low", [(1.0, 1.0), (0.9, 0.8)])
def test_bilevel_advantages_are_those_of_the_loops(high, low):
  rng = np.random.default_rng(0)
  ids = np.array([[1] * 12 + [2] * 6 + [0] * 2, [1] * 20])
  mask = (rng.random(ids.shape) < 0.7) * (ids > 0)
  mask[:, [0, 11, 17, 19]] = [[1, 1, 1, 0], [1, 1, 1, 1]]
  ends = np.zeros(ids.shape)
  ends[0, [11, 17]] = ends[1, [11, 19]] = 1
  ends[0, np.flatnonzero(mask[0, :9])[-1]] = 1
  ends[1, np.flatnonzero(mask[1, :9])[-1]] = 1
  # A turn that earns nothing is a turn.
  rewards = rng.normal(size=ids.shape) * ends
  rewards[0, np.flatnonzero(ends[0])[0]] = 0
  values = rng.normal(size=ids.shape)
  got = advantages.bilevel(
    *(jnp.asarray(x, jnp.float32) for x in (rewards, values, mask, ends)),
    jnp.asarray(ids),
    high,
    low,
  )
  want = np.zeros(ids.shape)
  for row, segment in ((0, 1), (0, 2), (1, 1)):
    at = np.flatnonzero((ids[row] == segment) & (mask[row] > 0))
    streams = (rewards[row, at], values[row, at], ends[row, at])
    want[row, at] = by_hand(*streams, high, low)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_one_turn_is_plain_gae_and_undiscounted_turns_are_the_returns():
  rng = np.random.default_rng(1)
  ids, mask = jnp.ones((1, 8), jnp.int32), jnp.ones((1, 8))
  values = jnp.asarray(rng.normal(size=(1, 8)), jnp.float32)
  rewards = jnp.zeros((1, 8)).at[0, 7].set(2.0)
  last = jnp.zeros((1, 8)).at[0, 7].set(1.0)
  for low in ((1.0, 1.0), (0.9, 0.7)):
    np.testing.assert_allclose(
      advantages.bilevel(rewards, values, mask, last, ids, (0.5, 0.3), low),
      advantages.gae(rewards, values, mask, ids, *low),
      atol=1e-6,
    )
  both = last.at[0, 3].set(1.0)
  paid = rewards.at[0, 3].set(1.0)
  ones = ((1.0, 1.0), (1.0, 1.0))
  made = advantages.bilevel(paid, values, mask, both, ids, *ones) + values
  np.testing.assert_allclose(made[0], [3, 3, 3, 3, 2, 2, 2, 2], atol=1e-5)


# ---------------------------------------------------------------------- filters
def of_rewards(*groups):
  made = [
    rows.group(i, [(2, r) for r in each]) for i, each in enumerate(groups)
  ]
  return credit.rewarded(made, lambda r, m: r.rewards["accuracy"], rows.START)


def ids(rule, *groups):
  return [g.problem.id for g in rule(of_rewards(*groups), rows.START)]


SPREADS = ((0, 0), (0, 4), (0, 1), (0, 2), (3, 3))
"""Deviations 0, 2.83, 0.71, 1.41, 0."""


def test_filters_read_unbiased_deviations_of_raw_rewards():
  group = of_rewards((0, 1, 1, 4))[0]
  assert selection.deviation(group) == pytest.approx(3**0.5)
  assert selection.deviation(of_rewards((7,))[0]) == 0


@pytest.mark.parametrize(
  ("mass", "want"),
  [(0.5, ["p1"]), (0.6, ["p1", "p3"]), (0.85, ["p1", "p3"]), (1.0, "p1 p2 p3")],
)
def test_a_mass_of_the_deviations(mass, want):
  rule = selection.most_of_deviation(mass)
  assert ids(rule, *SPREADS) == (want.split() if want == "p1 p2 p3" else want)


def test_filters_skip_a_round_in_which_all_returns_are_equal():
  for rule in (
    selection.most_of_deviation(0.9),
    selection.most_of_deviation(0.9, softmax=True),
    selection.least_deviation(0.5),
  ):
    assert ids(rule, (1, 1), (0, 0)) == []
    assert ids(rule) == []
  algorithm = method("starpo_s", filter="mass", turns=3)
  group, _ = played(algorithm, LOST, LOST)
  assert credit.learn(algorithm, [group], None, rows.START) == ([], [])


def test_a_softmax_of_small_deviations_hardly_filters():
  rule = selection.most_of_deviation(0.9, softmax=True)
  small = [(0, 0.1 * i) for i in range(1, 9)]
  assert len(ids(rule, *small)) >= 7
  large = [(0, 4.0 * i) for i in range(1, 9)]
  assert len(ids(rule, *large)) <= 2


def test_a_ratio_of_the_largest_deviation():
  assert ids(selection.least_deviation(0.5), *SPREADS) == ["p1", "p3"]
  assert ids(selection.least_deviation(0.01), *SPREADS) == ["p1", "p2", "p3"]


# ----------------------------------------------------------------------- limits
def same(one, two, groups=rows.GROUPS):
  a, b = (rows.ready(m, groups) for m in (one, two))
  for name in a.streams.keys() & b.streams.keys():
    np.testing.assert_allclose(a.streams[name], b.streams[name], err_msg=name)
  far = rows.params(7)
  rows.close(rows.gradient(one, far, a), rows.gradient(two, far, b))


def scored(algorithm):
  """With the reward of one turn, as the groups of rows have it."""
  one = lambda r, m: r.rewards["accuracy"]
  return dataclasses.replace(algorithm, reward=one)


def test_with_one_turn_it_is_grpo():
  common = {"n": 4, "low": 0.2, "high": 0.3, "kl": 0.01, "entropy": 0.001}
  mine = starpo.starpo(starpo.Config(**common))
  same(scored(mine), grpo.grpo(grpo.Config(**common)))


@pytest.mark.parametrize("advantage", ["gae", "bilevel"])
def test_with_one_turn_and_a_critic_it_is_ppo(advantage):
  common = {"n": 4, "entropy": 0.001, "value": 0.1, "value_clip": 0.2}
  common |= {"gamma": 0.9, "lam": 0.8}
  mine = starpo.starpo(starpo.Config(kl=0.0, advantage=advantage, **common))
  theirs = ppo.ppo(ppo.Config(kl=0.0, reduction="sequence", **common))
  same(scored(mine), theirs)


def test_a_filter_that_keeps_all_starts_is_none():
  plain = starpo.starpo(starpo.Config(kl=0.0, high=0.28))
  for settings in ({"kept": 1.0}, {"filter": "ratio", "kept": 1e-9}):
    same(scored(plain), scored(starpo.starpo(starpo.ConfigS(**settings))))


def test_the_stabilised_method_differs_in_three_switches():
  s = starpo.ConfigS()
  assert (s.filter, s.kept, s.high, s.kl) == ("share", 0.25, 0.28, 0.0)
  assert build("starpo_s", {}).models == ("policy",)
  assert build("starpo", {}).models == ("policy", "reference")
  four = of_rewards((0, 0), (0, 1), (1, 1), (0, 4))
  kept = build("starpo_s", {}).select(four, rows.START)
  assert [g.problem.id for g in kept] == ["p3"]


@pytest.mark.parametrize(
  ("settings", "want"),
  [
    ({"advantage": "gea"}, "starpo.advantage: 'gea'"),
    ({"filter": "top"}, "starpo.filter: 'top'"),
    ({"rewards": "token"}, "starpo.rewards"),
    ({"critic": "body"}, "starpo.critic"),
    ({"kept": 0.0}, "starpo.kept: 0.0"),
    ({"context": 0}, "starpo.context"),
    ({"crossed": 1}, "starpo.crossed: 1 x 4"),
    ({"turns": 0}, "turns: 0"),
    ({"n": 1}, "group of 1"),
    ({"kl_estimator": "k1"}, "k1"),
  ],
)
def test_settings_that_cannot_work_are_refused(settings, want):
  with pytest.raises(SophiaError, match=want):
    build("starpo", settings)


def test_rewards_of_turns_need_no_continued_prompt():
  """A prompt that does not continue the ids begins another sequence."""
  group, _ = played(method(turns=3), HOME, LOST)
  won = group.rollouts[0]
  broken = dataclasses.replace(won.turns[2], prompt=rows.prompt([5, 6, 7]))
  other = dataclasses.replace(won, turns=(*won.turns[:2], broken))
  [scored_group] = credit.rewarded(
    [dataclasses.replace(group, rollouts=(other,))],
    lambda r, m: 0.9,
    rows.START,
  )
  one, two = credit.by_turns(token)([scored_group], None, rows.START)
  assert (one.id, two.id) == ("p/0", "p/0#1")
  paid = [s.streams["rewards"][s.streams["ends"] > 0] for s in (one, two)]
  np.testing.assert_allclose(np.concatenate(paid), [0, -0.1, 1])
