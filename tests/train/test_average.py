"""The copy that follows the policy slowly; tests/runs/test_care_in_rounds.py
resumes one."""

import dataclasses

import jax
import numpy as np
import pytest

from sophia_jax.algorithms.contract import Average
from sophia_jax.train import average
from sophia_jax.train.average import Follower
from tests.train import rounds, toy


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
  directory = tmp_path_factory.mktemp("batches")
  toy.fresh_params()  # outside of a mesh: shapes have no place
  sequences = [
    dataclasses.replace(s, streams=toy.streams(s.roles, 1.0))
    for s in rounds.samples(directory)
  ]
  return list(
    rounds.loader(sequences, toy.one_device(), algorithm=toy.ALGORITHM)
  )


def of(params):
  return jax.device_get(params["language"])


def same(a, b, **how):
  check = np.testing.assert_allclose if how else np.testing.assert_array_equal
  jax.tree.map(lambda x, y: check(x, y, **how), a, b)


def moved(session, follower, batches):
  """Parameters of the policy and of the copy after each update."""
  found = []
  for batch in batches:
    session.update(batch)
    follower.follow()
    found.append((of(session.params()), of(follower.scorer().params)))
  return found


def test_it_moves_by_its_share_when_it_is_its_turn(tmp_path, batches):
  with (
    rounds.session(tmp_path / "run", toy.ALGORITHM) as session,
    Follower(session, Average(0.75, 2), {}) as follower,
  ):
    start = of(session.params())
    same(of(follower.scorer().params), start)
    found = moved(session, follower, batches[:4])
    frozen = follower.scorer().params["vision"]
    assert frozen is session.model_params["vision"]
  slow = start
  for i, (policy, copy) in enumerate(found):
    if i % 2:
      slow = jax.tree.map(lambda m, p: 0.75 * m + 0.25 * p, slow, policy)
    same(copy, slow, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_the_limits_are_the_policy_and_its_start(decay):
  rng = np.random.default_rng(0)
  slow, policy = ({"w": rng.normal(size=9).astype("f")} for _ in range(2))
  wanted = (slow if decay else policy)["w"].copy()
  found = average.moved(jax.device_put(slow), jax.device_put(policy), decay)
  np.testing.assert_array_equal(found["w"], wanted)
