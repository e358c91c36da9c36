"""Rounds on a policy of one table: every method raises its own reward."""

import asyncio
import functools

import jax
import numpy as np
import pytest

from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Grade, Moment
from sophia_jax.algorithms.registry import build
from sophia_jax.types import Problem, Status, Verdict
from tests.algorithms import rows

TOKENS, PROBLEMS, ROUNDS = 4, 12, 12
WANTED = 3
"""Token that an answer must hold to be right."""
SPEED = {"rloo": 2.0, "ppo": 5.0, "dr_grpo": 12.0}
"""Learning rate, where it is not 6."""
SETTINGS = {
  "dapo": {"buffer": 0},
  "dr_grpo": {"longest": TOKENS},
  "gspo": {"low": 0.2, "high": 0.2},
  "ppo": {"kl": 0.0},
  "dpo": {"pairs": 4, "beta": 1.0},
  "mpo": {"pairs": 4, "beta": 1.0},
}
ALL = ("grpo", "dapo", "dr_grpo", "rloo", "gspo", "cispo", "ppo", "dpo", "mpo")


class Table:
  """A world whose policy is a table of logits and answers with four tokens."""

  def __init__(self, params, seed):
    p = np.exp(np.asarray(params["logits"], np.float64))
    self._p = p / p.sum(axis=1, keepdims=True)
    self._rng = np.random.default_rng(seed)

  async def ask(self, role, problem, path, prompt, turn=0):
    ids, logps, last = [], [], int(prompt.token_ids[-1])
    for _ in range(TOKENS):
      token = int(self._rng.choice(rows.VOCAB, p=self._p[last]))
      logps.append(np.log(self._p[last, token]))
      ids.append(token)
      last = token
    return rows.completion(ids, logps)

  async def grade(self, problem, path, completion):
    right = WANTED in completion.token_ids
    return Grade(
      verdict=Verdict(status=Status.RIGHT if right else Status.WRONG),
      rewards={"accuracy": float(right)},
    )

  def prompt(self, template, problem):
    return rows.prompt([int(problem.id) % rows.VOCAB])


def sampled(algorithm, params, round):
  world = Table(params, round)
  problems = [
    Problem(id=str(i), question="?", answer="") for i in range(PROBLEMS)
  ]

  async def every():
    return [await algorithm.sample(world, p) for p in problems]

  return asyncio.run(every())


def rate(params):
  """The exact probability of a right answer, mean over first tokens."""
  p = np.array(jax.nn.softmax(params["logits"]), np.float64)
  p[:, WANTED] = 0.0  # what is left: no wanted token so far
  missed = np.linalg.matrix_power(p, TOKENS).sum(axis=1)
  return 1 - np.mean([missed[i % rows.VOCAB] for i in range(PROBLEMS)])


@pytest.mark.parametrize("name", ALL)
def test_rounds_of_a_method_raise_its_reward(name):
  algorithm = build(name, {"n": 4, **SETTINGS.get(name, {})})
  params, reference = rows.params(4, 0.3), rows.params(4, 0.3)
  update = jax.jit(functools.partial(rows.gradient, algorithm))
  rates = [rate(params)]
  for round in range(ROUNDS):
    groups = sampled(algorithm, params, round)
    _, sequences = credit.learn(algorithm, groups, None, Moment(round=round))
    batch = rows.laid_out(sequences, algorithm.streams, length=64, rows=16)
    models = {"policy": params, "reference": reference}
    (batch,) = rows.annotated(algorithm, [batch], models)
    for _ in range(2):  # the second is off policy
      grads = update(params, batch)
      params = jax.tree.map(
        lambda p, g: p - SPEED.get(name, 6.0) * g, params, grads
      )
    rates.append(rate(params))
  assert rates[-1] > rates[0] + 0.2, rates
