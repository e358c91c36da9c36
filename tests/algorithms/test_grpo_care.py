"""SEED-Bench-R1 (arXiv 2503.24376) and GRPO-CARE (arXiv 2506.16141)."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import credit, grpo_care
from sophia_jax.algorithms.contract import Average
from sophia_jax.algorithms.registry import build
from sophia_jax.rewards.extract import answer_span
from sophia_jax.types import Group, Problem, SophiaError
from tests.algorithms import rows, words

C = grpo_care.Config()
POLICY = rows.MODELS["policy"]


TEXTS = [
  "<think>a</think>\\boxed{A}",
  "<think>bb</think>\\boxed{B}",
  "<think>c</think><answer>AB</answer>",
  "nothing",
]


class Pairs(words.Letters):
  """Spells responses by their ids, two letters a token."""

  def __init__(self, texts):
    self._texts = texts

  def decode(self, ids):
    ids = tuple(ids)
    whole = next(t for k, t in self._texts.items() if k[: len(ids)] == ids)
    return whole[: 2 * len(ids)]


@pytest.mark.parametrize(
  ("text", "answer"), zip(TEXTS, ("A", "B", "AB", None), strict=True)
)
def test_the_tokens_of_an_answer(text, answer):
  ids = tuple(range((len(text) + 1) // 2))
  found = grpo_care.answer_tokens(ids, Pairs({ids: text}))
  held = "".join(text[2 * i : 2 * i + 2] for i in ids[found])
  if answer is None:
    assert held == ""
  else:
    assert answer in held and len(held) <= len(answer) + 2


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    (r"<think>\boxed{A}</think> so \boxed{B}.", "B"),
    (r"\boxed{A} or rather \boxed{ {1}/{2} }", " {1}/{2} "),
    ("<think>x</think>\n<answer> B. red </answer>", "B. red"),
    (r"<think>x</think><answer>\boxed{C}</answer>", "C"),
    ("<answer>A</answer> no, <answer>B</answer> yes", "B"),
    ("<think>not ended \\boxed{A}", None),
    ("<think>x</think> The answer is B", None),
    ("<think>x</think><answer> </answer>", None),
    ("", None),
  ],
)
def test_where_an_answer_stands(text, answer):
  span = answer_span(text)
  assert (text[slice(*span)] if span else None) == answer


def test_an_answer_that_is_not_marked_is_found_by_its_words():
  text = "B<think>B?</think> The answer is B, not C."
  assert answer_span(text, "B") == (text.rindex("B"), text.rindex("B") + 1)
  assert answer_span(text, "D") is None
  assert answer_span(r"\boxed{A} B", "B") == (7, 8)


@given(st.text(alphabet="<>/thinkaswer \\boxed{}AB", max_size=80))
def test_a_span_lies_in_any_text(text):
  span = answer_span(text)
  assert span is None or 0 <= span[0] <= span[1] <= len(text)


# -------------------------------------------------------------------- the bonus
def test_bonuses_by_hand():
  accuracy = np.array([1.0, 1.0, 1.0, 0.0])
  likelihood = np.array([0.9, 0.5, 0.7, 0.95])
  found = grpo_care.bonuses(accuracy, likelihood, C)
  np.testing.assert_allclose(found, [0.5, 0, 0.5, 0])  # the bar is 0.7
  wide = dataclasses.replace(C, margin=0.25)
  found = grpo_care.bonuses(accuracy, likelihood, wide)
  np.testing.assert_allclose(found, [0.5, 0.5, 0.5, 0])


def test_an_accuracy_between_0_and_1_scales_the_bonus():
  accuracy = np.array([0.8, 0.4, 0.05, 0.6])
  found = grpo_care.bonuses(accuracy, np.full(4, 0.5), C)
  np.testing.assert_allclose(found, [0.4, 0, 0, 0.3])  # the mean is 0.4625


@pytest.mark.parametrize("accuracy", [0.0, 0.1])
def test_where_nobody_is_right_nobody_is_paid(accuracy):
  found = grpo_care.bonuses(np.full(4, accuracy), np.full(4, 0.9), C)
  np.testing.assert_array_equal(found, np.zeros(4))


def test_an_answer_that_was_not_located_is_not_compared():
  accuracy, likelihood = np.ones(3), np.array([0.0, 0.4, 0.5])
  found = grpo_care.bonuses(accuracy, likelihood, C)
  np.testing.assert_allclose(found, [0, 0, 0.5])  # the bar is 0.45
  found = grpo_care.bonuses(accuracy, np.zeros(3), C)
  np.testing.assert_array_equal(found, np.zeros(3))


@given(
  st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0.01, 0.95)),
    min_size=2,
    max_size=12,
  )
)
def test_only_right_rollouts_are_paid_and_the_likeliest_always_is(group):
  accuracy, likelihood = map(np.array, zip(*group))
  found = grpo_care.bonuses(accuracy, likelihood, C)
  assert np.isfinite(found).all()
  assert (found[accuracy == 0] == 0).all()
  assert set(found.tolist()) <= {0.0, 0.5}
  right = accuracy == 1
  if right.any():
    best = likelihood[right].argmax()
    assert found[right][best] == 0.5
  if right.any() and np.ptp(likelihood[right]) == 0:
    assert (found[right] == 0.5).all()


# ------------------------------------------------------------------- the method
def groups():
  """Groups of four: right, right, wrong, no answer; nobody is right."""
  made = []
  for number, right in enumerate(((1, 1, 0, 0), (0, 0, 0, 0))):
    problem = Problem(id=f"p{number}", question="?", answer="A")
    rollouts = []
    for i, (text, reward) in enumerate(zip(TEXTS, right)):
      plain = rows.rollout(problem, i, (len(text) + 1) // 2, reward, number)
      turn = plain.turns[0]
      answer = dataclasses.replace(turn.completion, text=text)
      turn = dataclasses.replace(turn, completion=answer)
      rollouts.append(dataclasses.replace(plain, turns=(turn,)))
    made.append(Group(problem=problem, rollouts=tuple(rollouts)))
  return made


def pairs(made):
  return Pairs(
    {
      tuple(r.completion.token_ids): r.completion.text
      for g in made
      for r in g.rollouts
    }
  )


MODELS = {**rows.MODELS, "average": rows.params(3)}


def ready(algorithm, made, parts=1, **layout):
  _, sequences = credit.learn(algorithm, made, pairs(made), rows.START)
  batches = [
    rows.laid_out(sequences[i::parts], algorithm.streams, 48, **layout)
    for i in range(parts)
  ]
  return rows.annotated(algorithm, batches, MODELS)


def of_rollouts(batches, name):
  """{ids of the response: value of a stream that is one number}."""
  found = {}
  for b in batches:
    stream, tokens = np.asarray(b.streams[name]), np.asarray(b.targets)
    for r, m in rows.segments_of(b):
      (value,) = set(stream[r][m].tolist())
      found[tuple(tokens[r][m])] = value
  return found


@pytest.mark.parametrize("parts", [1, 3])
def test_the_advantages_are_those_of_the_rewards_with_the_bonus(parts):
  made = groups()
  algorithm = build("grpo_care", {"n": 4})
  batches = ready(algorithm, made, parts)
  likelihood, bonus, advantage = (
    of_rollouts(batches, name) for name in ("likelihood", "bonus", "advantages")
  )
  for group in made:
    keys = [tuple(r.completion.token_ids) for r in group.rollouts]
    accuracy = np.array([r.rewards["accuracy"] for r in group.rollouts])
    p = np.array([likelihood[k] for k in keys])
    assert (p[:3] > 0).all() and p[3] == 0  # the last one has no answer
    paid = grpo_care.bonuses(accuracy, p, C)
    np.testing.assert_allclose([bonus[k] for k in keys], paid)
    # Three of the four have thoughts in tags and an answer.
    total = accuracy + paid + [1, 1, 1, 0]
    want = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    np.testing.assert_allclose([advantage[k] for k in keys], want, rtol=1e-5)
  assert sum(value > 0 for value in bonus.values()) in (1, 2)


def test_the_likelihood_is_that_of_the_answer_under_the_average():
  made = groups()[:1]
  algorithm = build("grpo_care", {"n": 4, "highest": 1.0})
  (batch,) = ready(algorithm, made)
  logps = np.asarray(rows.say(MODELS["average"], batch).logps)
  answer = np.asarray(batch.streams["answer"])
  likelihood = np.asarray(batch.streams["likelihood"])
  counts = []
  for r, m in rows.segments_of(batch):
    own = m & (answer[r] > 0)
    counts.append(own.sum())
    if own.any():
      want = np.exp(logps[r][own].mean())
      np.testing.assert_allclose(likelihood[r][m], want, rtol=1e-4)
  assert sorted(counts)[0] == 0 and max(counts) <= 2


def test_without_a_bonus_it_is_grpo_with_ratio_1():
  made = groups()
  off = build("grpo_care", {"n": 4, "bonus": 0.0, "format": 0.0})
  plain = build("seed_bench_r1", {"n": 4, "kl": 0.0})
  assert off.average is None and off.annotate == ()
  a, b = (ready(algorithm, made)[0] for algorithm in (off, plain))
  jax.tree.map(np.testing.assert_array_equal, dict(a.streams), dict(b.streams))
  jax.tree.map(
    np.testing.assert_array_equal,
    rows.gradient(off, POLICY, a),
    rows.gradient(plain, POLICY, b),
  )


def test_where_nobody_is_right_the_bonus_changes_nothing():
  made = groups()[1:]
  on, off = (
    ready(build("grpo_care", {"n": 4, "bonus": bonus}), made)[0]
    for bonus in (0.5, 0.0)
  )
  a, b = (np.asarray(x.streams["advantages"]) for x in (on, off))
  assert np.isfinite(a).all()
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_its_gradient_is_reinforce_with_the_means_of_sequences():
  """Ratio 1: -A log pi, a mean over sequences of means over tokens."""
  algorithm = build("seed_bench_r1", {"n": 4, "kl": 0.0})
  batch = rows.ready(algorithm)
  out = rows.say(POLICY, batch)
  found = rows.by_logps(algorithm.terms, out.logps, batch, entropy=out.entropy)
  a = np.asarray(batch.streams["advantages"])
  count = sum(1 for _ in rows.segments_of(batch))
  for r, m in rows.segments_of(batch):
    np.testing.assert_allclose(
      found[r][m], -a[r][m] / m.sum() / count, rtol=1e-4
    )


def test_the_kl_is_clamped_as_in_the_code():
  algorithm = build("seed_bench_r1", {"n": 4, "kl": 0.1})
  term = next(t for t in algorithm.terms if t.name == "actor/kl_loss")
  batch = rows.ready(algorithm)
  far = rows.with_streams(
    batch, {"ref_logps": batch.streams["ref_logps"] + 15.0}
  )
  out = dataclasses.replace(
    rows.say(POLICY, batch), logps=batch.streams["ref_logps"]
  )
  value = np.asarray(term.loss(out, far))[np.asarray(batch.streams["mask"]) > 0]
  np.testing.assert_allclose(value, np.exp(11.0) - 12.0, rtol=1e-5)
  assert term.coefficient(rows.START) == 0.1


def test_settings():
  assert build("grpo_care").average == Average(0.995, 10)
  assert build("grpo_care").models == ("average",)
  assert build("seed_bench_r1").models == ("reference",)
  assert build("seed_bench_r1").average is None


@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("grpo_care", {"n": 1}, "grpo_care.n: a group of 1 has no baseline"),
    ("seed_bench_r1", {"n": 1}, "seed_bench_r1.n: a group of 1"),
    ("seed_bench_r1", {"reduction": "tok"}, "seed_bench_r1.reduction: 'tok'"),
    ("grpo_care", {"decay": 1.1}, "grpo_care.decay: 1.1 does not fit; use 0"),
    ("grpo_care", {"every": 0}, "grpo_care.every: 0 does not fit; use 1"),
    ("grpo_care", {"bonus": -0.5}, "grpo_care.bonus: -0.5 does not fit; use 0"),
  ],
)
def test_settings_that_cannot_work(name, settings, message):
  with pytest.raises(SophiaError) as e:
    build(name, settings)
  assert message in str(e.value) and "\n" not in str(e.value)
