"""OpenVLThinker (arXiv 2503.17352): chains, buckets, the reward of a summary."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import buckets, chains, grpo, openvlthinker
from sophia_jax.algorithms.reflections import (
  AHA,
  has_empty_summary,
  mentions,
  truncated,
)
from sophia_jax.algorithms.registry import build
from sophia_jax.types import Chat, Problem, SophiaError
from tests.algorithms import rows
from tests.algorithms.test_sophia import PROBLEM, R, W, group, said
from tests.algorithms.words import Letters


# -------------------------------------------------------------- text of a chain
@pytest.mark.parametrize(
  ("limit", "left"),
  [
    (-1, "It is 6. Wait, let me check. Yes. But wait, again. 6."),
    (0, "It is 6."),
    (1, "It is 6. Wait, let me check. Yes."),
    (2, "It is 6. Wait, let me check. Yes. But wait, again. 6."),
  ],
)
def test_a_thought_is_cut_at_the_reflection_that_is_one_too_many(limit, left):
  thought = "It is 6. Wait, let me check. Yes. But wait, again. 6."
  text = f"<think>{thought}</think> So \\boxed{{6}}"
  assert truncated(text, limit) == f"<think>{left}</think> So \\boxed{{6}}"


@pytest.mark.parametrize(
  "text", ["Wait, wait. \\boxed{6}", "<think>I await. Waiting.</think> 6", ""]
)
def test_what_does_not_reflect_in_tags_is_left_alone(text):
  assert truncated(text, 0) == text


@given(st.text(alphabet="Wait. But<think>/ \n", max_size=80), st.integers(0, 3))
def test_cutting_twice_is_cutting_once(text, limit):
  once = truncated(text, limit)
  assert truncated(once, limit) == once
  assert once.rpartition("</think>")[2] == text.rpartition("</think>")[2]


@pytest.mark.parametrize(
  ("text", "empty"),
  [
    ("<think>a</think> <answer>6</answer>", True),
    ("<think>a</think> It is 6. <answer>6</answer>", False),
    ("<think>a</think>\n\\boxed{6}", True),
    ("<think>a</think> So \\boxed{6}", False),
    ("<answer>6</answer>", False),
    ("<think>a</think> 6", False),
  ],
)
def test_an_empty_summary(text, empty):
  assert has_empty_summary(text) is empty


def test_words_of_doubt_are_whole_words_in_any_case():
  assert mentions("Hmm, so", AHA) and mentions("let me Double-Check", AHA)
  assert mentions("I should confirm.", AHA)
  assert not mentions("against a mistaken waiter", AHA)
  assert not mentions("anything", ())


# -------------------------------------------------------------------- the reward
@pytest.mark.parametrize(
  ("right", "text", "want"),
  [
    (1, "<think>a</think> So <answer>6</answer>", 1.0),
    (1, "<think>a</think><answer>6</answer>", 0.5),
    (0, "<think>a</think> So <answer>5</answer>", 0.0),
    (0, "<think>a</think><answer>5</answer>", 0.0),
  ],
)
def test_a_right_answer_without_a_summary_earns_half(right, text, want):
  rollout = said((0,), text, "policy", right, 3)
  reward = build("openvlthinker").reward
  assert reward(rollout, rows.START) == want


def test_it_is_grpo_otherwise():
  names = {f.name for f in dataclasses.fields(grpo.Config)}
  config = openvlthinker.Config(n=4)
  same = grpo.Config(**{name: getattr(config, name) for name in names})
  mine, plain = openvlthinker.openvlthinker(config), grpo.grpo(same)
  batch = rows.ready(plain)
  for params in (rows.params(0), rows.params(7, scale=3.0)):
    rows.close(
      rows.gradient(mine, params, batch),
      rows.gradient(plain, params, batch),
      rtol=0,
    )


# -------------------------------------------------------------------- the chains
TABLE = [[(R, 9), (R, 4), (W, 1)], [(R, 4), (W, 2), (W, 3)]]


def made(table=TABLE, texts="{k}{n}", **config):
  found = group(table, texts)
  return chains.files(chains.Config(**config))([found], Letters())


def test_the_shortest_right_chain_is_kept_under_the_bare_problem():
  (example,) = made()["chains.jsonl"]
  assert (example.id, example.response) == ("apples", "01")
  assert example.question == PROBLEM.text and example.images == PROBLEM.images
  assert example.system is None
  ids = [e.id for e in made(keep_n=0)["chains.jsonl"]]
  assert ids == ["apples/0/0", "apples/0/1", "apples/1/0"]


def test_doubt_parts_sft_from_rl_and_thoughts_get_their_prompt():
  plain = made(texts="<think>{k}</think> {n}")
  assert [e.response for e in plain["sft.jsonl"]] == ["<think>0</think> 1"]
  assert plain["sft.jsonl"][0].system == "Think slowly."
  assert not plain["rl.jsonl"]
  doubted = made(texts="Hmm, {k}{n}")
  assert not doubted["sft.jsonl"] and len(doubted["chains.jsonl"]) == 1
  assert doubted["rl.jsonl"] == (PROBLEM,)


def test_chains_that_speak_of_a_caption_are_left_out():
  with pytest.raises(SophiaError, match="no chain is right"):
    made(texts="the caption says {k}{n}")
  assert made(texts="the caption says {k}{n}", second_hand=())["chains.jsonl"]


def test_wrong_chains_stay_where_none_is_verified():
  (example,) = made(unverified=True)["chains.jsonl"]
  assert example.response == "02", "the shortest of all"


def test_a_blind_example_is_what_the_reasoner_saw():
  found = group(TABLE, "{k}{n}")
  shown = lambda r: dataclasses.replace(
    r.turns[0], prompt=Chat(text=f"seen {r.path[0]}")
  )
  rollouts = tuple(
    dataclasses.replace(r, turns=(shown(r),)) for r in found.rollouts
  )
  asked = dataclasses.replace(found, rollouts=rollouts)
  write = chains.files(chains.Config(blind=True))
  (example,) = write([asked], Letters())["chains.jsonl"]
  assert (example.question, example.images) == ("seen 0", ())
  assert example.response == "01"


def test_a_teacher_s_captions_are_asked_of_it_alone():
  assert build("chains", {"captioner": True}).roles == (
    "captioner",
    "reasoner",
  )
  for key in ("captioner", "blind"):
    with pytest.raises(ValueError, match=f"{key} without captions"):
      chains.Config(captions=0, **{key: True})


def test_the_policy_that_thinks_itself_is_asked_with_the_image():
  assert build("chains", {"captions": 0}).roles == ("policy",)
  own = dataclasses.replace(
    group(TABLE), rollouts=(said((0,), "6", "policy", 1, 1),)
  )
  found = chains.files(chains.Config(captions=0))([own], Letters())
  assert [e.response for e in found["chains.jsonl"]] == ["6"]


# ------------------------------------------------------------------- the buckets
def brute(values, k):
  """The least sum of squares over all cuts of the sorted values."""
  known = np.sort(values)
  cost = lambda part: ((part - part.mean()) ** 2).sum()
  cuts = itertools.combinations(range(1, len(known)), k - 1)
  return min(sum(map(cost, np.split(known, c))) for c in cuts)


@given(
  st.lists(st.integers(-50, 50), min_size=3, max_size=8, unique=True),
  st.integers(1, 3),
)
def test_the_buckets_are_the_best_intervals(values, k):
  values = np.array(values, float)
  found = buckets.clustered(values, k)
  assert sorted(set(found.tolist())) == list(range(k))
  assert (np.diff(found[np.argsort(values)]) >= 0).all()
  parts = [values[found == i] for i in range(k)]
  got = sum(((p - p.mean()) ** 2).sum() for p in parts)
  np.testing.assert_allclose(got, brute(values, k), atol=1e-8)


def test_difficulty_is_the_mean_of_two_scores():
  errors = {"a": 0.1, "b": 0.3, "c": 0.8}
  alone = buckets.difficulties(errors, {})
  np.testing.assert_allclose(
    list(alone.values()),
    (np.array([0.1, 0.3, 0.8]) - 0.4) / np.std([0.1, 0.3, 0.8]),
  )
  rated = buckets.difficulties(errors, {"a": 5, "b": 3, "c": 1})
  assert rated["c"] < alone["c"] and rated["a"] > alone["a"]


def answered(source, right, number):
  problem = Problem(
    id=f"{source}{number}", question="?", answer="6", source=source
  )
  return dataclasses.replace(rows.group(number, [(1, right)]), problem=problem)


def sorted_problems(**config):
  rates = {"easy": 4, "middle": 2, "hard": 0, "harder": 0}
  groups = [
    answered(source, i < right, i)
    for source, right in rates.items()
    for i in range(4)
  ]
  c = buckets.Config(**config)
  found = buckets.files(c)(groups, Letters())
  return {name: [p.id for p in problems] for name, problems in found.items()}


def test_problems_are_sorted_by_the_error_rate_of_their_source():
  found = sorted_problems()
  assert list(found) == ["easy.jsonl", "medium.jsonl", "hard.jsonl"]
  assert found["medium.jsonl"] == [f"middle{i}" for i in range(4)]
  assert found["hard.jsonl"][:3] == ["hard0", "harder0", "hard1"]
  few = sorted_problems(most=(0, 1, 3))
  assert [len(ids) for ids in few.values()] == [4, 1, 3]


@pytest.mark.parametrize(
  ("config", "said"),
  [
    ({"names": ("a", "b", "c", "d")}, "one would be empty"),
    ({"ratings": ("easy=1",)}, "none for the source 'hard'"),
    ({"ratings": ("easy=x",)}, "'easy=x' is no rating"),
    ({"ratings": ("nan",)}, "'nan' is no rating"),
    ({"most": (1,)}, "1 numbers for 3 names"),
  ],
)
def test_buckets_that_cannot_be_made_are_refused(config, said):
  with pytest.raises(SophiaError, match=said):
    sorted_problems(**config)
