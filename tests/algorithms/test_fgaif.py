"""Rewards and labels of clauses: their places, their values, what is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.algorithms import clauses, credit
from sophia_jax.algorithms.registry import build
from sophia_jax.rewards.facts import ABSENT, KINDS, RIGHT, UNKNOWN, WRONG
from sophia_jax.types import (
  FinishReason,
  Group,
  Problem,
  Rollout,
  SophiaError,
  Turn,
)
from tests.algorithms import rows, words

SAID = (
  "It is red. Is it? No!",
  "A cat sits on the mat, a dog lies under it.",
  "x",
  "Yes. No. Yes! No? It is.",
  " ",
)
CHARS = 256
rng = np.random.default_rng(0)
TABLES = {kind: rng.normal(size=(CHARS, 3)).astype("f") for kind in KINDS}
MODELS = {
  name: {
    "logits": rng.normal(size=(CHARS, CHARS)).astype("f"),
    "value": rng.normal(size=CHARS).astype("f"),
  }
  for name in ("policy", "reference", "critic")
} | {"rewards": {"logits": np.zeros((CHARS, CHARS), "f"), **TABLES}}


def rollout(problem, i, text, reason=FinishReason.STOP, **rewards):
  ids = [*words.encode(text), *[words.END] * (reason is FinishReason.STOP)]
  asked = rows.prompt(words.encode("?" * (2 + i % 3)))
  said = rows.completion(ids, [-0.5] * len(ids), reason, text)
  return Rollout(
    problem_id=problem.id,
    path=(i,),
    turns=(Turn(prompt=asked, completion=said),),
    rewards={"accuracy": 0.0, **rewards},
    length=len(ids),
  )


def group(texts=SAID, **how):
  problem = Problem(id="p", question="?", answer="-")
  told = (rollout(problem, i, text, **how) for i, text in enumerate(texts))
  return Group(problem=problem, rollouts=tuple(told))


def learnt(algorithm, groups):
  return credit.learn(algorithm, groups, words.Letters(), rows.START)[1]


def annotated(algorithm, groups=None, models=MODELS, **layout):
  sequences = learnt(algorithm, groups or [group()])
  batch = rows.laid_out(
    sequences, algorithm.streams, **{"length": 60, "rows": 4, **layout}
  )
  return rows.annotated(algorithm, [batch], models)[0]


def method(**changes):
  return build("fgaif", {"whiten": False, **changes})


def by_hand(text, weights=(1, 1, 1)):
  """(character that a clause ends with, its reward) of each clause."""
  value = lambda char, kind: (0, 1, -1)[int(TABLES[kind][ord(char)].argmax())]
  marks = [text[c.end - 1] for c in clauses.split(text)]
  return [
    (m, sum(w * value(m, k) for w, k in zip(weights, KINDS))) for m in marks
  ]


# ---------------------------------------------------------------------- rewards
@settings(max_examples=10)
@given(st.integers(0, 99))
def test_rewards_lie_on_the_last_tokens_of_clauses_in_packed_rows(seed):
  batch = annotated(method(kl=0.0), rows=6, shuffle=seed)
  found = []
  for r, own in rows.segments_of(batch):
    paid = own & (np.asarray(batch.streams["ends"][r]) > 0)
    assert not np.asarray(batch.streams["rewards"][r])[own & ~paid].any()
    chars = map(chr, np.asarray(batch.targets[r])[paid])
    values = np.asarray(batch.streams["rewards"][r])[paid]
    found.append(list(zip(chars, values.tolist())))
  assert sorted(found) == sorted(map(by_hand, SAID))


def test_weights_scale_and_expectations():
  one = annotated(method(kl=0.0, object=2.0, attribute=0.0, scale=10.0))
  paid = np.asarray(one.streams["ends"]) > 0
  want = sorted(v for s in SAID for _, v in by_hand(s, (20, 0, 10)))
  assert sorted(np.asarray(one.streams["rewards"])[paid].tolist()) == want
  assert "attribute_found" not in one.streams
  soft = annotated(method(kl=0.0, soft=True, attribute=0.0, relation=0.0))
  ends = np.argwhere(np.asarray(soft.streams["ends"]) > 0)
  for r, t in ends:
    e = np.exp(TABLES["object"][int(soft.targets[r, t])])
    want = (e[1] - e[2]) / e.sum()
    assert soft.streams["rewards"][r, t] == pytest.approx(want, rel=1e-4)


def test_one_reward_at_the_end_is_ppo_with_the_sum_as_its_reward():
  """The control differs from PPO in nothing but who pays."""
  told = group()
  control = annotated(method(place="response", kl=0.1), [told])
  summed = [
    dataclasses.replace(
      r, rewards={"accuracy": sum(v for _, v in by_hand(r.completion.text))}
    )
    for r in told.rollouts
  ]
  ppo = build("ppo", {"critic": "model", "whiten": False, "kl": 0.1})
  other = annotated(ppo, [dataclasses.replace(told, rollouts=tuple(summed))])
  for name in ("rewards", "values", "advantages", "returns", "weights"):
    rows.close(control.streams[name], other.streams[name])
  near = {k: v + 0.01 for k, v in MODELS["policy"].items()}
  ours, theirs = (
    rows.objective(a, near, b)
    for a, b in ((method(place="response", kl=0.1), control), (ppo, other))
  )
  assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_both_places_pay_a_response_the_same():
  dense, control = (
    annotated(method(place=p, kl=0.0)) for p in ("clause", "response")
  )
  for (r, own), (q, same) in zip(
    rows.segments_of(dense), rows.segments_of(control)
  ):
    totals = [
      np.asarray(b.streams["rewards"][i])[m].sum()
      for b, i, m in ((dense, r, own), (control, q, same))
    ]
    assert totals[0] == pytest.approx(totals[1], abs=1e-5)
    # With gamma = lambda = 1 the first token's return is the whole reward.
    firsts = [
      np.asarray(b.streams["returns"][i])[m][0]
      for b, i, m in ((dense, r, own), (control, q, same))
    ]
    assert firsts[0] == pytest.approx(firsts[1], abs=1e-4)


def test_length_and_a_missing_end_cost():
  algorithm = method(length_cost=10.0, longest=20, unfinished=8.0)
  (whole, cut) = learnt(
    algorithm,
    [group(("A b.",)), group(("A b. C",), reason=FinishReason.LENGTH)],
  )
  for s, cost in ((whole, -10 * 5 / 20), (cut, -8 - 10 * 6 / 20)):
    assert s.streams["shaped"][-1] == pytest.approx(cost)
    assert np.count_nonzero(s.streams["shaped"]) == 1
    assert s.streams["last"].sum() == s.streams["last"][-1] == 1
  # The clause that was cut off earns nothing.
  assert [*map(chr, cut.token_ids[cut.streams["ends"] > 0])] == ["."]


def test_a_round_without_a_clause_is_learnt_from_its_length():
  batch = annotated(method(length_cost=1.0), [group((" ", ""))])
  assert not np.asarray(batch.streams["ends"]).any()
  assert np.isfinite(np.asarray(batch.streams["advantages"])).all()
  out = rows.say(MODELS["policy"], batch)
  for value in rows.means(method().metrics, out, batch).values():
    assert np.isfinite(value)


def test_a_reward_model_that_is_not_finite_is_refused():
  broken = {**MODELS["rewards"], "relation": TABLES["relation"] * np.nan}
  with pytest.raises(
    SophiaError, match="of the reward models rewards are"
  ) as e:
    annotated(method(), models={**MODELS, "rewards": broken})
  assert "\n" not in str(e.value)


def test_three_reward_models_are_read_for_a_kind_each():
  names = ("a", "b", "c")
  models = MODELS | {
    n: {"logits": MODELS["rewards"]["logits"], k: TABLES[k]}
    for n, k in zip(names, KINDS)
  }
  three = method(rewards=names)
  assert three.rewarders == {n: (k,) for n, k in zip(names, KINDS)}
  assert three.critic_start == "a"
  rows.close(
    annotated(three, models=models).streams["rewards"],
    annotated(method()).streams["rewards"],
  )


# ----------------------------------------------------------------------- labels
def test_labels_are_read_after_the_last_token_of_a_clause():
  algorithm = build("clause_rewards", {"labels": "reference"})
  problem = Problem(id="p", question="?", answer="-")
  told = rollout(
    problem,
    0,
    "A b. C d! E?",
    object=(RIGHT, WRONG, ABSENT),
    attribute=(UNKNOWN, RIGHT, UNKNOWN),
    relation=(ABSENT, ABSENT, ABSENT),
  )
  (s,) = learnt(algorithm, [Group(problem=problem, rollouts=(told,))])
  known = s.streams["object_known"] > 0
  assert "".join(map(chr, s.token_ids[np.roll(known, -1)])) == ".!?"
  assert [*s.streams["object"][known]] == [1, 2, 0]
  assert [*s.streams["object_wrong"][known]] == [0, 1, 0]
  assert s.streams["attribute_known"].sum() == 1
  assert [*s.streams["relation"]] == [0] * len(s)
  assert s.streams["relation_known"].sum() == 3
  # Unknown to all kinds: left out.
  nothing = dataclasses.replace(
    told, rewards={k: (UNKNOWN,) * 3 for k in KINDS} | {"accuracy": 0.0}
  )
  kept = learnt(algorithm, [Group(problem=problem, rollouts=(nothing,))])
  assert kept == []


def test_the_loss_of_classes_is_the_cross_entropy_where_labels_are_known():
  algorithm = build("clause_rewards", {"kinds": ("object",)})
  label = np.random.default_rng(1)
  problem = Problem(id="p", question="?", answer="-")
  told = [
    rollout(
      problem,
      i,
      text,
      object=tuple(float(label.integers(-1, 2)) for _ in clauses.split(text)),
    )
    for i, text in enumerate(SAID)
  ]
  sequences = learnt(algorithm, [Group(problem=problem, rollouts=tuple(told))])
  batch = rows.laid_out(sequences, algorithm.streams, length=60, rows=4)
  out = rows.say(MODELS["rewards"], batch)
  want = []
  for r in told:
    marks = [
      r.completion.text[c.end - 1] for c in clauses.split(r.completion.text)
    ]
    for mark, given_label in zip(marks, r.rewards["object"]):
      x = TABLES["object"][ord(mark)]
      want.append(np.log(np.exp(x).sum()) - x[int(given_label) + 1])
  (loss,) = rows.means(algorithm.terms, out, batch).values()
  assert float(loss) == pytest.approx(np.mean(want), rel=1e-5)


# ------------------------------------------------------------------------ config
@pytest.mark.parametrize(
  ("name", "given_settings", "want"),
  [
    ("fgaif", {"place": "token"}, r"fgaif\.place: 'token'"),
    ("fgaif", {"critic": "none"}, r"fgaif\.critic: 'none'"),
    ("fgaif", {"rewards": ("a", "b")}, r"fgaif\.rewards: 2 stages"),
    ("fgaif", dict.fromkeys(KINDS, 0.0), "nothing is rewarded"),
    ("fgaif", {"longest": 0}, "longest=0"),
    ("fgaif", {"trials": "x.jsonl"}, "set known=true"),
    ("clause_rewards", {"labels": "truth"}, r"labels: 'truth'"),
    ("clause_rewards", {"noise": 0.5}, r"noise: 0\.5"),
    ("clause_rewards", {"kinds": ("size",)}, r"kinds: \('size',\)"),
  ],
)
def test_settings_that_cannot_be_are_refused(name, given_settings, want):
  with pytest.raises(SophiaError, match=want) as error:
    build(name, given_settings)
  assert "\n" not in str(error.value)
