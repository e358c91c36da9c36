"""A new method is one function and one row of a table."""

import dataclasses

import numpy as np
from safetensors.numpy import load_file

from sophia_jax.algorithms import credit, losses, ratios, reductions, registry
from sophia_jax.algorithms import sampling as recipes
from sophia_jax.algorithms.contract import Algorithm, Term
from sophia_jax.runs import rounds as driver
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from tests.launch import rounds, rounds_config


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


def test_a_toy_method_trains_two_rounds(tmp_path, monkeypatch):
  seen = []
  monkeypatch.setitem(
    registry.ALGORITHMS, "longer", (Config, lambda c: longer(c, seen))
  )
  workdir = rounds.ready(tmp_path / "W")
  config = rounds_config.get_config()
  config.stages.longer = stages.stage(
    "longer", rounds=2, groups=3, ahead=1, train=rounds_config.TRAIN
  )
  config.order = ("longer",)
  run = Run(config, str(workdir))
  run.begin()
  driver.learn(run, stages.read(config, "longer"))
  rows = metrics.read(workdir / "metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2]
  # A schedule sees the round that is rewarded, though it is sampled early.
  assert seen == [0] * 12 + [1] * 12
  assert rows[0]["rewards/reward/mean"] > 0
  start = load_file(workdir / "models/policy/model.safetensors")
  end = load_file(workdir / "export/model.safetensors")
  assert any(np.abs(end[name] - x).max() > 1e-4 for name, x in start.items())
