"""Samples, slopes and worlds of a sweep."""

import math

import numpy as np
import pytest

from sophia_jax.planning import sweep
from sophia_jax.types import SophiaError


def test_samples_are_the_episodes_before_a_policy_stays_good():
  values = np.array(
    [
      [0.9, 0.9, 0.9, 0.9],  # from the first
      [0.1, 0.2, 0.9, 0.9],
      [0.9, 0.1, 0.9, 0.9],  # good once by luck
      [0.9, 0.9, 0.9, 0.1],  # never stays
    ]
  )
  assert sweep.samples_to(values, 0.5).tolist() == [0, 2, 2, 4]


def test_a_slope_is_that_of_the_logarithms():
  rows = [
    {
      "rho": 0.1 * kl,
      "kl": kl,
      "samples": [kl**2 * each - 1 for each in (1, 3)],
    }
    for kl in (1.0, 2.0, 4.0)
  ]
  rows.append({"rho": None, "kl": 9.0, "samples": [0, 0]})
  fit = sweep.slope(rows)
  assert fit["value"] == pytest.approx(2)
  assert fit["low"] == pytest.approx(2) and fit["high"] == pytest.approx(2)
  rows[0]["samples"] = [0, 0]  # one seed steeper than the other
  fit = sweep.slope(rows)
  assert fit["low"] < fit["value"] < fit["high"]


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"world": "moon"}, "'frozen_lake' or 'blocksworld'"),
    ({"seeds": 0}, "seeds=0"),
    ({"rhos": (0.0, 0.5)}, "shares above 0"),
    ({"rhos": (0.5, 0.5)}, "two or more"),
  ],
)
def test_a_sweep_of_nothing_is_refused(changes, said):
  values = {"world": "frozen_lake", "horizon": 4, "episodes": 4, **changes}
  with pytest.raises(ValueError, match=said):
    sweep.SweepConfig(**values)


def test_a_plan_must_fit_the_horizon():
  config = sweep.SweepConfig("blocksworld", horizon=3, episodes=1, steps=4)
  with pytest.raises(SophiaError, match="steps=4"):
    sweep.world_of(config, 0)


def test_a_models_scores_are_of_legal_actions_before_the_end():
  config = sweep.SweepConfig("blocksworld", 4, 1, blocks=3, steps=4)
  world = sweep.world_of(config, 0)
  asked = []

  def logps(text, names):
    asked.append(text)
    return [-float(len(name)) for name in names]

  found = sweep.scores(world, logps)
  legal, ended = (
    np.asarray(world.tables.legal),
    np.asarray(world.tables.terminal),
  )
  assert len(asked) == (~ended).sum()
  assert np.isneginf(found[~legal]).all() and np.isneginf(found[ended]).all()
  assert np.isfinite(found[legal & ~ended[:, None]]).all()
  assert math.isfinite(found.max())
