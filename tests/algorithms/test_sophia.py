"""SOPHIA (arXiv 2507.16814): Eq. 5 to 7, the ablations and the variants."""

import asyncio
import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import credit, selection
from sophia_jax.algorithms.sophia import Config, select, sophia
from sophia_jax.types import (
  FinishReason,
  Group,
  Problem,
  Role,
  Rollout,
  Turn,
)
from tests.algorithms import rows
from tests.algorithms.words import Letters, World, encode, text_of

PROBLEM = Problem(
  id="apples",
  question="How many?",
  answer="6",
  images=("apples.png",),
  hint="Count.",
  choices=("five", "six"),
)
R, W = True, False


def said(path, text, author, accuracy, length, reason=FinishReason.STOP):
  ids = encode(text) if author == "policy" else ()
  asked = rows.prompt(encode("describe"))
  answer = rows.completion(ids, [-1.0] * len(ids), reason, text)
  return Rollout(
    problem_id="apples",
    path=path,
    turns=(Turn(prompt=asked, completion=answer),),
    rewards={"accuracy": float(accuracy)},
    author=author,
    length=length,
  )


def group(table, texts="{k}{n}", problem=PROBLEM, cut=()):
  """[k][n] of (right?, length) -> a group; captions `cut` have no end."""
  made = []
  for k, row in enumerate(table):
    reason = FinishReason.LENGTH if k in cut else FinishReason.STOP
    made.append(said((k,), f"seen {k}\n", "policy", 0, 7, reason))
    made += [
      said((k, n), texts.format(k=k, n=n), "reasoner", right, length)
      for n, (right, length) in enumerate(row)
    ]
  return selection.with_values(Group(problem=problem, rollouts=tuple(made)))


# Caption 0 is right in 2 of 3, caption 1 in 3 of 3; the shortest of all is
# wrong, the shortest right one is built on the worse caption.
TOY = group([[(R, 5), (W, 1), (R, 9)], [(R, 8), (R, 7), (R, 8)]])


def chosen(toy=TOY, **config):
  (one,) = select(Config(**config))([toy], rows.START)
  assert one.depth(1) == tuple(sorted(toy.depth(1), key=lambda c: c.path))
  return [t.path for t in one.depth(2)]


def learnt(toy=TOY, **config):
  return credit.learn(sophia(Config(**config)), [toy], Letters(), rows.START)[1]


# ---------------------------------------------------------------------- rewards
def test_the_caption_reward_is_the_mean_outcome():
  """Eq. 5."""
  assert [c.rewards["accuracy"] for c in TOY.depth(1)] == [2 / 3, 1.0]
  wrong = group([[(W, 1), (W, 2)]])
  assert wrong.depth(1)[0].rewards["accuracy"] == 0.0


@given(
  st.lists(
    st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5
  ),
  st.integers(0, 99),
)
def test_the_caption_reward_does_not_depend_on_the_order(table, seed):
  one = group([[(right, 1) for right in row] for row in table])
  mixed = random.Random(seed).sample(one.rollouts, len(one.rollouts))
  other = selection.with_values(dataclasses.replace(one, rollouts=tuple(mixed)))
  value = lambda g: {c.path: c.rewards["accuracy"] for c in g.depth(1)}
  assert value(other) == value(one)
  assert value(one) == {(k,): np.mean(row) for k, row in enumerate(table)}


# -------------------------------------------------------------------- selection
def test_the_shortest_right_one_on_a_good_caption():
  """Eq. 6."""
  assert chosen() == [(1, 1)]


def test_alpha_is_strict():
  assert chosen(alpha=2 / 3) == [(1, 1)]
  assert chosen(alpha=2 / 3 - 1e-9) == [(0, 0)]
  assert chosen(alpha=1.0) == []
  # 3 of 4 is not above the paper's 0.75; 7 of 8 is.
  assert chosen(group([[(R, 1)] * 3 + [(W, 1)]])) == []
  assert chosen(group([[(R, 1)] * 7 + [(W, 1)]])) == [(0, 0)]


def test_keep_n():
  assert chosen(keep_n=2) == [(1, 0), (1, 1)]
  assert chosen(keep_n=8) == [(1, 0), (1, 1), (1, 2)]
  assert chosen(keep_n=8, alpha=0.0) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_ties_go_to_the_lowest_place():
  same = group([[(R, 4)] * 3, [(R, 4)] * 3])
  assert chosen(same) == [(0, 0)]
  assert chosen(same, keep_n=4) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_no_caption_reward():
  assert chosen(no_caption_reward=True) == [(0, 0)]
  one_right = group([[(W, 1), (R, 9), (W, 2)], [(W, 3), (W, 4), (W, 5)]])
  assert chosen(one_right) == []
  assert chosen(one_right, no_caption_reward=True) == [(0, 1)]


def over_seeds(**config):
  return {p for seed in range(60) for p in chosen(seed=seed, **config)}


def test_no_shortest_is_a_random_eligible_one():
  assert over_seeds(no_shortest=True) == {(1, 0), (1, 1), (1, 2)}
  right = {(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)}
  assert over_seeds(no_shortest=True, no_caption_reward=True) == right


def test_random_is_any_right_or_wrong():
  every = {(k, n) for k in range(2) for n in range(3)}
  assert over_seeds(random=True) == every
  wrong = group([[(W, 1)] * 3, [(W, 1)] * 3])
  assert len(chosen(wrong, random=True)) == 1
  assert len(chosen(random=True, keep_n=2)) == 2


def test_random_choices_are_of_the_seed_and_the_problem():
  assert chosen(random=True, seed=3) == chosen(random=True, seed=3)
  places = set()
  for i in range(30):
    problem = dataclasses.replace(PROBLEM, id=f"p{i}")
    places.add(
      chosen(dataclasses.replace(TOY, problem=problem), random=True)[0]
    )
  assert len(places) > 3, "one draw would choose the same place of each problem"


outcomes = st.tuples(st.booleans(), st.integers(1, 4))
groups = st.integers(1, 4).flatmap(
  lambda n: st.lists(
    st.lists(outcomes, min_size=n, max_size=n), min_size=1, max_size=4
  ).map(group)
)
configs = st.builds(
  Config,
  alpha=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
  keep_n=st.integers(1, 3),
  random=st.booleans(),
  no_caption_reward=st.booleans(),
  no_shortest=st.booleans(),
  seed=st.integers(0, 3),
)


@given(groups, configs, st.integers(0, 99))
def test_the_order_of_the_rollouts_changes_nothing(one, config, seed):
  mixed = random.Random(seed).sample(one.rollouts, len(one.rollouts))
  other = dataclasses.replace(one, rollouts=tuple(mixed))
  a, b = select(config)([one, other], rows.START)
  assert a == b


@given(groups, configs)
def test_selection_by_definition(one, config):
  """Eq. 6 read aloud: of the eligible, the keep_n least, and all of them."""
  every = one.depth(2)
  mean = {
    c.path: np.mean([t.rewards["accuracy"] for t in one.children(c.path)])
    for c in one.depth(1)
  }
  allowed = [
    t
    for t in every
    if config.random
    or (
      t.rewards["accuracy"]
      and (config.no_caption_reward or mean[t.path[:1]] > config.alpha)
    )
  ]
  (found,) = select(config)([one], rows.START)
  found = found.depth(2)
  assert len(found) == min(config.keep_n, len(allowed))
  assert all(t in allowed for t in found)
  if not (config.random or config.no_shortest):
    left = [t for t in allowed if t not in found]
    key = lambda t: (t.length, t.path)
    assert not left or not found or max(map(key, found)) < min(map(key, left))


# ----------------------------------------------------------------------- credit
def test_credit_is_question_pixels_and_trajectory():
  """The caption is not in the context, and the advantage is the reward, 1."""
  (made,) = learnt()
  assert made.id == "apples/1/1"
  question = "[default]apples.pngCount.\nHow many?\nA. five\nB. six"
  assert text_of(made) == (question, "11")
  response = made.roles == Role.RESPONSE
  for name in ("advantages", "weights", "count"):
    np.testing.assert_array_equal(made.streams[name], response)


def test_only_what_thinks_in_tags_has_the_slow_thinking_prompt():
  thinking = group([[(R, 3), (R, 2)]], texts="<think>{k}{n}</think> 6")
  (made,) = learnt(thinking)
  prompt, response = text_of(made)
  assert prompt.startswith("[Think slowly.]")
  assert response == "<think>01</think> 6"


def test_nothing_selected_nothing_learnt():
  assert learnt(alpha=1.0) == []


def test_eq_7_to_the_letter_is_a_sum_over_tokens():
  (made,) = learnt(reduction="sum")
  np.testing.assert_allclose(made.streams["count"].sum(), 1.0)
  assert set(made.streams["weights"]) == {0.0, 1.0}


# --------------------------------------------------------------------- variants
def ids(**config):
  return [s.id for s in learnt(**config)]


def test_di_adds_every_perfect_caption_by_its_sampled_ids():
  """(x_d, v, c) with R(c) = 1, whatever alpha is."""
  perfect = [(R, 4)] * 3
  toy = group([perfect, [(R, 9), (R, 9), (W, 9)], perfect])
  assert ids(toy=toy) == ["apples/0/0"]
  trajectory, *captions = learnt(toy, describe=True, alpha=0.5)
  assert trajectory.id == "apples/0/0"
  assert [s.id for s in captions] == ["apples/0", "apples/2"]
  stored = {c.id: c for c in toy.depth(1)}
  for s in captions:
    turn = stored[s.id].turns[0]
    sampled = [*turn.prompt.token_ids, *turn.completion.token_ids]
    assert s.token_ids.tolist() == sampled
    assert s.streams["advantages"].sum() == len(turn.completion.token_ids)


def test_di_has_captions_where_no_trajectory_is_selected():
  toy = group([[(R, 4)], [(R, 4)]])
  found = ids(toy=toy, describe=True, alpha=1.0)
  assert found == ["apples/0", "apples/1"]


def test_di_leaves_out_what_has_no_end_and_what_shows_nothing():
  table = [[(R, 1), (R, 2)]] * 2
  found = ids(toy=group(table, cut=(0,)), describe=True)
  assert found == ["apples/0/0", "apples/1"]
  text = dataclasses.replace(PROBLEM, images=())
  found = ids(toy=group(table, problem=text), describe=True)
  assert found == ["apples/0/0"]


def test_h_puts_the_trajectorys_own_caption_before_it():
  toy = group([[(R, 4)] * 2, [(R, 3)] * 2], texts="<think>{k}{n}</think>")
  for made in (
    learnt(toy, caption_first=True),
    learnt(
      dataclasses.replace(toy, rollouts=toy.rollouts[::-1]), caption_first=True
    ),
  ):
    assert text_of(made[0])[1] == "seen 1\n\n<think>10</think>"
  assert text_of(made[0])[0].startswith("[Think slowly.]")


def test_h_does_not_think_because_the_caption_shows_a_tag():
  """The system prompt depends on the trajectory alone."""
  toy = group([[(R, 1)]], texts="plain")
  shown = said((0,), "a <think> page", "policy", 1, 7)
  toy = dataclasses.replace(toy, rollouts=(shown, toy.rollouts[1]))
  (made,) = learnt(toy, caption_first=True)
  assert text_of(made) == (
    "[default]apples.pngCount.\nHow many?\nA. five\nB. six",
    "a <think> page\n\nplain",
  )


# ------------------------------------------------------------------- end to end
def test_from_a_problem_to_what_is_learnt():
  method = sophia(Config(captions=2, trajectories=4, alpha=0.7, describe=True))
  world = World(right=lambda path: path[0] == 1 or path[1] > 1)
  sampled = asyncio.run(method.sample(world, PROBLEM))
  kept, made = credit.learn(method, [sampled], Letters(), rows.START)
  assert [s.id for s in made] == ["apples/1/0", "apples/1"]
  assert text_of(made[0])[1] == "reasoner10"
  assert [r.path for r in kept[0].rollouts] == [(0,), (1,), (1, 0)]


@pytest.mark.parametrize("name", ["describe", "caption_first"])
def test_variants_are_off_by_default(name):
  assert not getattr(Config(), name)
  assert [s.id for s in learnt()] == ["apples/1/1"]
