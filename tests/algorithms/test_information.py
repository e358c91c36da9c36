"""How much answers depend on prompts: closed forms, bounds, and what is scored."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sophia_jax.algorithms import information
from sophia_jax.algorithms.contract import Crossed
from sophia_jax.types import Chat, Group, Problem, Role, Rollout, Turn
from tests.algorithms import rows

N = 4


@pytest.mark.parametrize("answers", [1, 3])
def test_answers_that_ignore_the_prompt_say_nothing_of_it(answers):
  own = np.repeat(np.arange(N), answers)
  entropy = np.arange(1.0, len(own) + 1)
  logps = np.tile(-entropy[:, None], (1, N))
  found = information.measured(logps, own)
  assert found.mutual == pytest.approx(0, abs=1e-12)
  assert found.retrieved == pytest.approx(1 / N)
  assert found.conditional == pytest.approx(entropy.mean())


def test_an_answer_of_its_own_to_each_prompt_says_all():
  logps = np.where(np.eye(N), 0.0, -np.inf)
  found = information.measured(logps, np.arange(N))
  assert found == pytest.approx((math.log(N), 0.0, 1.0))


def test_a_channel_with_noise_has_the_mutual_information_of_the_textbook():
  """A binary channel that errs with probability e: log 2 - H(e)."""
  e, answers = 0.1, 10
  own = np.repeat([0, 1], answers)
  said = np.concatenate([np.arange(answers) < 1, np.arange(answers) >= 1])
  logps = np.log(np.where(said[:, None] == [False, True], 1 - e, e))
  # Prompt 0 is answered 0 nine times of ten, prompt 1 is answered 1.
  found = information.measured(logps, own)
  entropy = -e * math.log(e) - (1 - e) * math.log(1 - e)
  assert found.conditional == pytest.approx(entropy)
  assert found.mutual == pytest.approx(math.log(2) - entropy)
  assert found.retrieved == pytest.approx(1 - e)


tables = arrays.arrays(
  float,
  st.tuples(st.integers(1, 9), st.integers(2, 6)),
  elements=st.floats(-80, 0),
)


@given(tables, st.data())
def test_bounds_and_what_changes_nothing(logps, data):
  answers, prompts = logps.shape
  numbers = st.lists(
    st.integers(0, prompts - 1), min_size=answers, max_size=answers
  )
  own = np.array(data.draw(numbers))
  found = information.measured(logps, own)
  assert found.mutual <= math.log(prompts) + 1e-9
  assert 0 <= found.retrieved <= 1
  order = np.array(data.draw(st.permutations(range(prompts))))
  place = np.argsort(order)
  renamed = information.measured(logps[:, order], place[own])
  assert renamed == pytest.approx(found)
  # What an answer is worth under every prompt is no hint of its own.
  shift = data.draw(st.floats(-9, 9))
  shifted = information.measured(logps + shift, own)
  assert shifted.mutual == pytest.approx(found.mutual, abs=1e-9)


# ------------------------------------------------------------------ what is scored
def group(number, asked, *answers):
  rollouts = [
    Rollout(
      problem_id=f"p{number}",
      path=(i,),
      turns=(
        Turn(
          prompt=asked if isinstance(asked, Chat) else rows.prompt(asked),
          completion=rows.completion(answer, [-1.0] * len(answer)),
        ),
      ),
    )
    for i, answer in enumerate(answers)
  ]
  problem = Problem(id=f"p{number}", question="?", answer="")
  return Group(problem=problem, rollouts=tuple(rollouts))


def test_answers_are_scored_under_every_prompt_by_their_exact_ids():
  groups = [
    group(0, [1, 2], [7], [8, 9], [6]),
    group(1, [1, 2], [5]),  # the same prompt
    group(2, [3, 3, 4], [7, 7, 7, 7, 7], [5]),
    group(3, Chat(text="in words"), [7]),
    group(4, [4], [9]),
  ]
  found = information.pairs(groups, Crossed(prompts=2, answers=2), length=6)
  ids = [s.token_ids.tolist() for s in found.sequences]
  assert ids == [
    [1, 2, 7],
    [3, 3, 4, 7],
    [1, 2, 8, 9],
    [3, 3, 4, 8, 9],
    [1, 2, 5],
    [3, 3, 4, 5],
  ]
  assert found.own.tolist() == [0, 0, 1]
  assert len({s.id for s in found.sequences}) == len(ids)
  for s in found.sequences:
    assert np.array_equal(s.streams["mask"] > 0, s.roles == Role.RESPONSE)


def test_the_metrics_of_a_round():
  found = information.pairs(
    [group(0, [1, 2], [7]), group(1, [3], [8])], Crossed(8, 4), length=9
  )
  # Sums over an answer: -1 under its own prompt, -3 under the other.
  scored = [
    dataclasses.replace(
      s, streams={**s.streams, information.STREAM: x * s.streams["mask"]}
    )
    for s, x in zip(found.sequences, (-1, -3, -3, -1))
  ]
  metrics = information.of_round(scored, found.own)
  share = 1 / (1 + math.exp(-2))
  assert metrics == pytest.approx(
    {
      "collapse/mutual_information": math.log(2 * share),
      "collapse/conditional_entropy": 1.0,
      "collapse/retrieval_accuracy": 1.0,
      "collapse/prompts": 2.0,
    }
  )
  assert information.of_round(found.sequences, found.own) == {}
  alone = information.pairs([group(0, [1], [7])], Crossed(8, 4), length=9)
  assert information.of_round(alone.sequences, alone.own) == {}
  assert information.of_round([], np.array([], int)) == {}
