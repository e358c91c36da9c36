"""Streams that models make: before the first update, in any layout."""

import dataclasses
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from sophia_jax.algorithms import annotate as annotators
from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.models import InternVL
from sophia_jax.train.outputs import response_logps
from sophia_jax.types import Role, SophiaError
from tests.devices import host_devices
from tests.train import rounds, toy


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
  """A round on one device."""
  directory = tmp_path_factory.mktemp("round")
  toy.fresh_params()  # outside of a mesh: shapes have no place
  return directory, *rounds.learn(directory, toy.one_device())


def test_old_logps_are_those_of_each_sequence_alone(learnt):
  _, made, *_ = learnt
  run = jax.jit(response_logps, static_argnums=(0, 3))
  loader = rounds.loader(made, toy.one_device(), updates=12, epochs=1)
  seen = set()
  for step in range(loader.steps):
    (index,) = [i for row in loader.rows(step) for i in row]
    one = jax.tree.map(lambda x: x[0], loader[step])
    logps = run(InternVL(toy.CFG), toy.fresh_params(), one, 32)
    s = made[index]
    where = np.flatnonzero(s.roles == Role.RESPONSE)
    np.testing.assert_allclose(
      s.streams["old_logps"][where], np.asarray(logps)[0, where - 1], atol=1e-5
    )
    assert not s.streams["old_logps"][s.roles != Role.RESPONSE].any()
    seen.add(index)
  assert seen == set(range(12))


def test_streams_come_in_the_order_of_the_annotators(learnt):
  """Values before the advantages made of them, and whitening last of all."""
  _, made, *_ = learnt
  mask = np.concatenate([s.streams["mask"] for s in made]) > 0
  advantages = np.concatenate([s.streams["advantages"] for s in made])
  assert set(made[0].streams) == {*rounds.PPO.all_streams}
  assert abs(advantages[mask].mean()) < 1e-6
  assert advantages[mask].std(ddof=1) == pytest.approx(1, abs=1e-5)
  assert not advantages[~mask].any()
  # The value head is new: returns are the rewards to come.
  last = made[2]
  assert last.streams["returns"][-1] == pytest.approx(1.5, abs=1e-5)


def test_the_first_update_is_on_policy_and_later_ones_are_not(learnt):
  *_, rows, _ = learnt
  assert rows[0]["actor/ratio_mean"] == pytest.approx(1, abs=1e-5)
  assert rows[0]["actor/ppo_kl"] == pytest.approx(0, abs=1e-6)
  assert abs(rows[-1]["actor/ratio_mean"] - 1) > 1e-4
  assert rows[0]["actor/ratio_max"] == pytest.approx(1, abs=1e-5)
  assert rows[0]["learning_rate"] == pytest.approx(1e-3)


def test_the_value_head_is_trained(learnt):
  *_, heads = learnt
  assert np.abs(heads["value"]["kernel"]).max() > 1e-4


def test_another_packing_gives_the_same_streams(learnt):
  directory, made, *_ = learnt
  shape = dataclasses.replace(rounds.SHAPE, rows=8, length=32, open_rows=1)
  order = [7, 2, 11, 0, 5, 9, 1, 3, 10, 4, 8, 6]
  sequences = rounds.samples(directory)
  mesh = toy.one_device()
  with rounds.session(directory / "other", mesh=mesh) as opened:
    other = opened.annotate(
      [sequences[i] for i in order],
      shape,
      rounds.reading(mesh, rounds.PPO.streams),
      {"reference": opened.scorer()},
    )
  for i, found in zip(order, other):
    assert found.id == made[i].id
    for name, stream in made[i].streams.items():
      np.testing.assert_allclose(found.streams[name], stream, atol=1e-5)


def test_two_processes_on_a_mesh_of_eight_change_nothing(learnt, tmp_path):
  _, made, rows, heads = learnt
  rounds.samples(tmp_path)  # writes the images
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": host_devices(4),
    "TF_CPP_MIN_LOG_LEVEL": "2",
  }
  line = [sys.executable, "-m", "tests.train.rounds", str(tmp_path), address]
  processes = [
    subprocess.Popen([*line, str(process)], env=environment)
    for process in range(2)
  ]
  assert [process.wait(600) for process in processes] == [0, 0]
  for process in range(2):
    found = dict(np.load(tmp_path / f"round-{process}.npz"))
    for s in made:
      for name, stream in s.streams.items():
        np.testing.assert_allclose(found[f"{s.id}/{name}"], stream, atol=2e-5)
    np.testing.assert_allclose(
      found["head"], heads["value"]["kernel"], atol=1e-4
    )
    for i, row in enumerate(rows):
      for name in row.keys() - set(toy.LAYOUTS_OWN):
        np.testing.assert_allclose(
          found[f"row/{i}/{name}"], row[name], atol=1e-4, err_msg=name
        )


def test_sequences_that_fit_no_row_come_back_as_they_are(tmp_path):
  sequences = rounds.samples(tmp_path)
  shape = dataclasses.replace(rounds.SHAPE, length=10, drop_oversize=True)
  long = {s.id for s in sequences if len(s) > 10}
  assert 0 < len(long) < 12
  algorithm = Algorithm(
    terms=toy.ALGORITHM.terms, annotate=(annotators.old_logps(),)
  )
  mesh = toy.one_device()
  config = dataclasses.replace(rounds.CONFIG, length=10)
  with rounds.session(tmp_path / "run", algorithm, mesh, config) as opened:
    made = opened.annotate(
      sequences, shape, rounds.reading(mesh, rounds.PPO.streams)
    )
  assert [s.id for s in made] == [s.id for s in sequences]
  assert {s.id for s in made if "old_logps" not in s.streams} == long


def test_a_model_that_is_not_there_is_one_line(tmp_path):
  sequences = rounds.samples(tmp_path)
  mesh = toy.one_device()
  with (
    rounds.session(tmp_path / "run", mesh=mesh) as opened,
    pytest.raises(SophiaError) as error,
  ):
    opened.annotate(
      sequences, rounds.SHAPE, rounds.reading(mesh, rounds.PPO.streams)
    )
  assert str(error.value) == (
    "algorithm: ref_logps need the model 'reference', which the stage does not "
    "have; it has policy"
  )
