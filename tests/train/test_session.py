"""The session: parameters, cursor, metrics, SIGTERM, a critic beside it."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest

from sophia_jax.algorithms import ppo
from sophia_jax.algorithms.contract import Moment, Term
from sophia_jax.train import metrics
from tests.train import rounds, toy

CRITIC = ppo.ppo(ppo.Config(critic="model", kl=0.0))


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
  """Batches of two epochs of two updates, for SOPHIA's term."""
  directory = tmp_path_factory.mktemp("batches")
  toy.fresh_params()  # outside of a mesh: shapes have no place
  sequences = [
    dataclasses.replace(s, streams=toy.streams(s.roles, 1.0))
    for s in rounds.samples(directory)
  ]
  return list(
    rounds.loader(sequences, toy.one_device(), algorithm=toy.ALGORITHM)
  )


@pytest.fixture
def session(tmp_path):
  def open(**how):
    return rounds.session(tmp_path / "run", toy.ALGORITHM, **how)

  return open


def test_parameters_that_were_taken_outlive_the_next_update(session, batches):
  """The step donates its state: an engine must not hold deleted arrays."""
  with session() as opened:
    before = opened.params()
    kept = jax.device_get(before)
    opened.update(batches[0])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(before), kept)
    after = jax.device_get(opened.params())
  moved = np.abs(after["language"]["embedding"] - kept["language"]["embedding"])
  assert moved.max() > 1e-4
  for part in ("vision", "projector"):
    jax.tree.map(np.testing.assert_array_equal, after[part], kept[part])


def follows(out, batch):
  return -out.logps * batch.streams["follows"]


FOLLOWING = dataclasses.replace(
  toy.ALGORITHM,
  terms=(Term("follows", follows),),
  numbers={"follows": lambda moment: 1 - moment.metrics.get("logp", 0.0)},
)


@pytest.mark.parametrize("algorithm", [toy.ALGORITHM, FOLLOWING])
def test_a_resumed_session_ends_the_same_to_the_last_bit(
  algorithm, batches, tmp_path
):
  """Also where an update depends on the metrics of the one before."""
  session = lambda: rounds.session(tmp_path / "run", algorithm)
  with rounds.session(tmp_path / "whole", algorithm) as opened:
    for batch in batches:
      opened.update(batch)
    wanted = jax.device_get(opened.params())
  with session() as opened:
    assert opened.cursor == {} and opened.step == 0
    opened.update(batches[0])
    opened.update(batches[1])
    opened.save({"round": 3, "batch": 2})
    opened.update(batches[3])  # lost, as if killed
  with session() as opened:
    assert opened.cursor == {"round": 3, "batch": 2} and opened.step == 2
    for batch in batches[opened.cursor["batch"] :]:
      opened.update(batch)
    found = jax.device_get(opened.params())
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_values_of_a_driver_are_in_the_row_of_the_next_update(
  session, batches, tmp_path
):
  with session() as opened:
    opened.update(batches[0])
    opened.metrics({"critic/score/mean": 0.25})
    with opened.waiting("timing_s/gen"):
      pass
    opened.update(batches[1], Moment(round=1, step=1))
    latest = opened.latest()
  first, second = metrics.read(tmp_path / "run" / "metrics.jsonl")
  assert "critic/score/mean" not in first
  assert second["critic/score/mean"] == 0.25
  assert second["timing_s/gen"] >= 0 and "timing_s/gen" not in first
  assert second["loss"] == pytest.approx(latest["loss"])
  assert second["learning_rate"] == pytest.approx(1e-3)


def test_the_field_s_names_stand_beside_ours(session, batches, tmp_path):
  with session() as opened:
    opened.update(batches[0])
    opened.flush()
  (row,) = metrics.read(tmp_path / "run" / "metrics.jsonl")
  assert row["actor/grad_norm"] == row["grad_norm"] > 0
  assert row["actor/lr"] == row["learning_rate"]
  assert row["perf/total_num_tokens"] == (batches[0].segment_ids > 0).sum()


def test_sigterm_is_seen_by_every_session(session, tmp_path):
  """The critic's, which is opened last, and the policy's."""
  with (
    session() as policy,
    rounds.session(tmp_path / "critic", toy.ALGORITHM) as critic,
  ):
    assert not policy.stopping() and not critic.stopping()
    os.kill(os.getpid(), signal.SIGTERM)
    assert policy.stopping() and critic.stopping()
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_critic_with_weights_of_its_own(tmp_path):
  """It learns the returns that the policy's session annotated."""
  sequences = rounds.samples(tmp_path)
  mesh = toy.one_device()
  config = dataclasses.replace(rounds.CONFIG, learning_rate=1e-2)
  with (
    rounds.session(tmp_path / "policy", CRITIC) as policy,
    rounds.session(tmp_path / "critic", CRITIC.critic, config=config) as critic,
  ):
    made = policy.annotate(
      sequences,
      rounds.SHAPE,
      rounds.reading(mesh, CRITIC.streams),
      {"critic": critic.scorer()},
    )
    losses = []
    for batch in rounds.loader(made, mesh, 1, 6, algorithm=CRITIC):
      policy.update(batch)
      critic.update(batch)
      losses.append(critic.latest()["critic/vf_loss"])
    assert "heads" in critic.params() and "heads" not in policy.params()
  assert losses[-1] < 0.8 * losses[0]
