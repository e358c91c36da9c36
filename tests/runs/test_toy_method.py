"""A new method is one function and one row of a table."""

import asyncio
import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from sophia_jax.algorithms import credit, losses, ratios, reductions, registry
from sophia_jax.algorithms import sampling as recipes
from sophia_jax.algorithms.contract import Algorithm, Term
from sophia_jax.runs import rounds as driver
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import SophiaError
from tests.launch import rounds, rounds_config

WAIT_S = 600.0
"""Time that a problem of the round ahead takes if nothing ends it, seconds."""


@dataclasses.dataclass(frozen=True)
class Config:
  n: int = 4
  """Rollouts of a problem."""


def longer(c: Config, seen: list[int]) -> Algorithm:
  """Prefers longer answers, by plain policy gradient.

  Args:
    seen: takes the round of every reward.
  """

  def reward(rollout, moment):
    seen.append(moment.round)
    return float(rollout.length)

  return Algorithm(
    sample=recipes.attempts(c.n),
    reward=reward,
    credit=credit.by_group(lambda r: r - r.mean(), reductions.sequence),
    streams=credit.STREAMS,
    terms=(Term("policy", losses.weighted(ratios.one)),),
  )


def learn(method, workdir, monkeypatch):
  """Learns two rounds by `method`, the second sampled ahead."""
  monkeypatch.setitem(registry.ALGORITHMS, "longer", (Config, method))
  rounds.ready(workdir)
  config = rounds_config.get_config()
  config.stages.longer = stages.stage(
    "longer", rounds=2, groups=3, ahead=1, train=rounds_config.TRAIN
  )
  config.order = ("longer",)
  run = Run(config, str(workdir))
  run.begin()
  driver.learn(run, stages.read(config, "longer"))


def test_a_toy_method_trains_two_rounds(tmp_path, monkeypatch):
  seen = []
  workdir = tmp_path / "W"
  learn(lambda c: longer(c, seen), workdir, monkeypatch)
  rows = metrics.read(workdir / "metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2]
  # A schedule sees the round that is rewarded, though it is sampled early.
  assert seen == [0] * 12 + [1] * 12
  assert rows[0]["rewards/reward/mean"] > 0
  start = load_file(workdir / "models/policy/model.safetensors")
  end = load_file(workdir / "export/model.safetensors")
  assert any(np.abs(end[name] - x).max() > 1e-4 for name, x in start.items())


def test_the_round_ahead_ends_with_a_run_that_fails(tmp_path, monkeypatch):
  seen = []
  ended = []

  def method(c):
    plain = longer(c, seen)

    async def sample(world, problem):
      if seen:  # round 0 is sampled
        await asyncio.sleep(WAIT_S)
        ended.append(problem.id)
      return await plain.sample(world, problem)

    def fail(moment):
      raise SophiaError("no coefficient")

    terms = (plain.terms[0]._replace(coefficient=fail),)
    return dataclasses.replace(plain, sample=sample, terms=terms)

  with pytest.raises(SophiaError, match="no coefficient"):
    learn(method, tmp_path / "W", monkeypatch)
  assert not ended
