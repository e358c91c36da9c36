"""From groups to sequences: exact ids, per-token streams, pairs."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import advantages, credit, reductions
from sophia_jax.types import Chat, Group, Problem, Role, SophiaError, Turn
from tests.algorithms import rows
from tests.algorithms.words import END, Letters, encode, text_of

PROBLEM = Problem(
  id="p", question="How many?", answer="6", images=("a.png",), hint="Count."
)


def scored(*groups):
  return credit.rewarded(
    groups, lambda r, moment: r.rewards["accuracy"], rows.START
  )


def by_group(group, advantage=advantages.centred, reduction=reductions.token):
  rule = credit.by_group(advantage, reduction)
  return rule(scored(group), Letters(), rows.START)


def episode(*turns, author="policy"):
  """[(prompt ids, answer ids, log-probabilities), ...] -> a rollout."""
  return dataclasses.replace(
    rows.rollout(PROBLEM, 0, 1, 1),
    author=author,
    turns=tuple(
      Turn(prompt=rows.prompt(asked), completion=rows.completion(ids, logps))
      for asked, ids, logps in turns
    ),
  )


# -------------------------------------------------------------------- exact ids
def test_ids_and_log_probabilities_are_those_that_were_sampled():
  for group in rows.GROUPS:
    made = by_group(group)
    assert [s.id for s in made] == [r.id for r in group.rollouts]
    for s, r in zip(made, group.rollouts):
      n, turn = len(r.completion.token_ids), r.turns[0]
      assert tuple(s.token_ids[-n:]) == r.completion.token_ids
      np.testing.assert_array_equal(s.token_ids[:-n], turn.prompt.token_ids)
      behaviour = s.streams["behaviour_logps"]
      np.testing.assert_allclose(behaviour[-n:], r.completion.logps)
      assert not behaviour[:-n].any()
      np.testing.assert_array_equal(s.roles == Role.RESPONSE, s.streams["mask"])


def test_advantages_are_of_the_group_and_nothing_is_outside_of_the_mask():
  made = by_group(rows.GROUPS[0])
  values = [s.streams["advantages"].max(initial=-1) for s in made]
  assert [v if v > 0 else None for v in values] == [0.5, None, None, 0.5]
  for s in made:
    outside = s.streams["mask"] == 0
    for name, stream in s.streams.items():
      assert stream.dtype == np.float32, name
      assert not stream[outside].any(), name
    assert set(s.streams["size"][~outside]) == {4.0}


def test_unknown_log_probabilities_are_absent_and_not_zero():
  (made,) = credit.sequences(episode(([5], [6, 7], None)), PROBLEM, Letters())
  assert "behaviour_logps" not in made.streams


def test_a_stream_that_not_all_have_is_left_out():
  known, unknown = episode(([5], [6], [-0.1])), episode(([5], [6], None))
  unknown = dataclasses.replace(unknown, path=(1,))
  mixed = Group(problem=PROBLEM, rollouts=(known, unknown))
  assert all("behaviour_logps" not in s.streams for s in by_group(mixed))
  same = Group(problem=PROBLEM, rollouts=(known, known))
  assert all("behaviour_logps" in s.streams for s in by_group(same))


def test_turns_that_continue_each_other_are_one_sequence():
  """The environment's words are shown and not learnt."""
  first = ([1, 2], [3, 4], [-0.3, -0.4])
  second = ([1, 2, 3, 4, 9, 9], [5], [-0.5])
  (made,) = credit.sequences(episode(first, second), PROBLEM, Letters())
  assert made.token_ids.tolist() == [1, 2, 3, 4, 9, 9, 5]
  assert credit.learnt(made.roles).tolist() == [0, 0, 1, 1, 0, 0, 1]
  np.testing.assert_allclose(
    made.streams["behaviour_logps"], [0, 0, -0.3, -0.4, 0, 0, -0.5]
  )


def test_turns_that_do_not_are_several_and_share_the_rollouts_weight():
  first = ([1, 2], [3, 4], [-0.3, -0.4])
  again = ([1, 2, 8], [5], [-0.5])
  group = Group(problem=PROBLEM, rollouts=(episode(first, again),))
  a, b = by_group(group, advantages.raw, reductions.sequence)
  assert (a.id, b.id) == ("p/0", "p/0#1")
  assert a.token_ids.tolist() == [1, 2, 3, 4]
  assert b.token_ids.tolist() == [1, 2, 8, 5]
  weights = a.streams["weights"].sum() + b.streams["weights"].sum()
  np.testing.assert_allclose(weights, 1.0)


def test_what_the_policy_was_asked_in_words_cannot_be_learnt():
  rollout = episode(([1], [2], None))
  asked = dataclasses.replace(rollout.turns[0], prompt=Chat(text="?"))
  rollout = dataclasses.replace(rollout, turns=(asked,))
  with pytest.raises(SophiaError, match="p/0: the policy was asked by text"):
    credit.sequences(rollout, PROBLEM, Letters())


def test_what_another_model_wrote_is_rendered_under_the_policys_prompt():
  for author, text, system in (
    ("reasoner", "six", "default"),
    ("reasoner", "<think></think>6", "Think slowly."),
    # A teacher answers in the policy's stead, and so under its prompt.
    ("teacher", "six", "Think slowly."),
  ):
    taught = episode(([1], encode("x"), None), author=author)
    turn = Turn(
      prompt=Chat(text="?"), completion=rows.completion([7], text=text)
    )
    (made,) = credit.sequences(
      dataclasses.replace(taught, turns=(turn,)), PROBLEM, Letters()
    )
    assert text_of(made) == (f"[{system}]a.pngCount.\nHow many?", text)
    assert made.token_ids[-1] == END
    assert made.streams["source"].max() == 1


def taught_group():
  """Three rollouts of the policy, one of them right, and a teacher's."""
  own = rows.group(3, [(2, 0), (3, 1), (2, 0)])
  other = dataclasses.replace(
    rows.rollout(own.problem, 3, 2, 1), author="teacher"
  )
  turn = dataclasses.replace(
    other.turns[0], completion=rows.completion([7], text="six")
  )
  other = dataclasses.replace(other, turns=(turn,))
  return dataclasses.replace(own, rollouts=(*own.rollouts, other))


def test_tokens_of_a_teacher_are_marked_and_their_sampler_is_unknown():
  *own, other = by_group(taught_group())
  for s in own:
    assert not s.streams["source"].any()
    assert np.isfinite(s.streams["behaviour_logps"]).all()
  learnt = credit.learnt(other.roles) > 0
  np.testing.assert_array_equal(other.streams["source"], learnt)
  np.testing.assert_array_equal(
    np.isnan(other.streams["behaviour_logps"]), learnt
  )
  assert text_of(other) == ("[Think slowly.]?", "six")


@pytest.mark.parametrize("advantage", ["centred", "normalised"])
def test_a_mixed_group_has_one_baseline_or_that_of_the_policy(advantage):
  measure = getattr(advantages, advantage)
  group = taught_group()
  value = lambda split: [
    s.streams["advantages"][-1]
    for s in credit.by_group(measure, reductions.token, split)(
      scored(group), Letters(), rows.START
    )
  ]
  rewards, own = np.array([0.0, 1, 0, 1]), np.array([0.0, 1, 0])
  deviation = {
    "centred": (1.0, 1.0),
    "normalised": (np.std(rewards, ddof=1), np.std(own, ddof=1)),
  }[advantage]
  together = (rewards - 0.5) / deviation[0]
  np.testing.assert_allclose(value(False), together, rtol=1e-5)
  apart = (rewards - 1 / 3) / deviation[1]
  np.testing.assert_allclose(value(True), apart, rtol=1e-5)


# ---------------------------------------------------------------------- rewards
def test_the_tag_of_a_problem_is_its_own_and_exact():
  ids = [f"{i * 2654435761 % 2**31:032x}" for i in range(20000)]
  tags = [credit.tag(dataclasses.replace(PROBLEM, id=id)) for id in ids]
  assert len(set(tags)) == len(ids)
  np.testing.assert_array_equal(np.array(tags, np.float32), tags)


def test_a_reward_lies_on_the_last_token():
  rule = credit.by_reward(reductions.token)
  made = rule(scored(*rows.GROUPS), Letters(), rows.START)
  rollouts = [r for g in rows.GROUPS for r in g.rollouts]
  for s, r in zip(made, rollouts):
    assert s.streams["rewards"][-1] == r.rewards["accuracy"]
    assert not s.streams["rewards"][:-1].any()


# ------------------------------------------------------------------- reductions
ROLES = [
  np.array([Role.PROMPT, Role.IMAGE, Role.RESPONSE], np.int8),
  np.array([Role.PROMPT, *[Role.RESPONSE] * 4], np.int8),
]


@pytest.mark.parametrize(
  ("reduction", "want"),
  [
    # Losses: 3 in the one, 1 and 1 and 1 and 5 in the other.
    (reductions.total, (3 + 8) / 2),
    (reductions.token, (3 + 8) / 5),
    (reductions.sequence, (3 + 2) / 2),
    (reductions.square, (3 / 1 + 8 / 2) / (1 + 2)),  # n ** 0.5 each
    (reductions.constant(10), (3 + 8) / 10 / 2),
  ],
)
def test_reductions_of_two_responses_of_1_and_4_tokens(reduction, want):
  losses = [np.array([0, 0, 3.0]), np.array([0, 1.0, 1.0, 1.0, 5.0])]
  made = [credit.reduced(roles, reduction) for roles in ROLES]
  total = sum((s["weights"] * loss).sum() for s, loss in zip(made, losses))
  count = sum(s["count"].sum() for s in made)
  assert total / count == pytest.approx(want)


def test_a_sequence_without_a_response_counts_for_nothing():
  roles = np.zeros(3, np.int8)
  for reduction in reductions.REDUCTIONS.values():
    for stream in credit.reduced(roles, reduction, advantages=1.0).values():
      assert stream.tolist() == [0, 0, 0]


# ------------------------------------------------------------------------ pairs
def pairs(group, limit):
  made = credit.by_pairs(limit)(scored(group), Letters(), rows.START)
  assert [a.bundle for a in made[::2]] == [b.bundle for b in made[1::2]]
  return list(zip(made[::2], made[1::2]))


@given(st.lists(st.booleans(), max_size=7), st.integers(0, 20))
def test_pairs_are_right_and_wrong_each_once_and_spread_evenly(right, limit):
  group = rows.group(0, [(2, r) for r in right])
  found = pairs(group, limit)
  assert len(found) == min(limit, sum(right) * (len(right) - sum(right)))
  rewards = {r.id: r.rewards["accuracy"] for r in group.rollouts}
  used: dict[str, int] = {}
  for chosen, rejected in found:
    ids = [s.id.split(":")[1] for s in (chosen, rejected)]
    assert [rewards[i] for i in ids] == [1, 0]
    for i in ids:
      used[i] = used.get(i, 0) + 1
  assert len({a.bundle for a, _ in found}) == len(found)
  for value in (0, 1):
    counts = [used.get(i, 0) for i, r in rewards.items() if r == value]
    assert not found or max(counts) - min(counts) <= 1


@pytest.mark.parametrize("id", ["p", ":q", "set:17", "q#1", "a/b>0:c#2"])
def test_a_sequence_names_its_rollout_whatever_the_problem_is_called(id):
  problem = dataclasses.replace(PROBLEM, id=id)
  first, again = ([1, 2], [3], None), ([9], [5], None)
  whole = dataclasses.replace(episode(first, again), problem_id=id)
  other = dataclasses.replace(whole, path=(1,), rewards={"accuracy": 0.0})
  group = Group(problem=problem, rollouts=(whole, other))
  bare = credit.sequences(whole, problem, Letters())
  assert [credit.rollout_of(s) for s in bare] == [whole.id] * 2
  made = credit.by_pairs(1)(scored(group), Letters(), rows.START)
  names = [credit.rollout_of(s) for s in made]
  assert names == [whole.id] * 2 + [other.id] * 2
  assert credit.of_rollouts(made, {whole.id, other.id}) == made
  assert credit.of_rollouts(made, {whole.id}) == [], "half a pair is none"
  assert credit.of_rollouts(bare, {whole.id}) == bare


def test_streams_of_a_pair_sum_to_one():
  ((chosen, rejected), *_) = pairs(rows.GROUPS[0], 4)
  sums = lambda name: [s.streams[name].sum() for s in (chosen, rejected)]
  np.testing.assert_allclose(sum(sums("pair")), 1.0, rtol=1e-6)
  np.testing.assert_allclose(sums("answer"), [1, 1], rtol=1e-6)
  np.testing.assert_allclose(sums("chosen"), [1, 0], rtol=1e-6)
  assert chosen.streams["sign"].max() == 1
  assert rejected.streams["sign"].min() == -1
