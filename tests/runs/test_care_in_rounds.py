"""GRPO-CARE in rounds: two of them, shuffled options, a kill between two saves."""

import json
import shutil

import pytest

from sophia_jax.rollout.store import Store, round_directory
from sophia_jax.runs import preflight, sampler
from sophia_jax.runs import rounds as driver
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import SophiaError
from tests.launch import rounds, rounds_config


def prepared(workdir):
  config = rounds_config.get_config()
  config.stages.grpo_care = stages.stage(
    "grpo_care",
    n=6,
    format=0.0,
    decay=0.5,
    every=1,
    rounds=2,
    groups=5,
    train={**rounds_config.TRAIN, "learning_rate": 1e-2},
  )
  config.order = ("grpo_care",)
  return Run(config, str(workdir))


def learnt(run):
  preflight.check(run)
  run.begin()
  driver.learn(run, stages.read(run.config, "grpo_care"))
  return metrics.read(run.workdir / "metrics.jsonl")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A run that nothing disturbs, and its rows."""
  workdir = rounds.ready(tmp_path_factory.mktemp("care") / "W")
  return workdir, learnt(prepared(workdir))


def test_two_rounds_pay_a_bonus_to_right_answers(done):
  workdir, rows = done
  assert [row["round"] for row in rows] == [0, 1]
  for row in rows:
    # Of its three words the policy says each about as often.
    assert 0.05 < row["rewards/likelihood/mean"] < 0.9
    assert 0 < row["rewards/bonus/mean"] < 0.5
    paid = row["rewards/bonus/mean"] / row["rewards/accuracy/mean"]
    assert paid <= 0.5 + 1e-5
  assert (workdir / "average" / "checkpoints" / "2").is_dir()
  assert (workdir / "export" / "model.safetensors").is_file()


def test_each_round_asks_with_options_in_an_order_of_its_own(done):
  workdir, _ = done
  run = prepared(workdir)
  stage = stages.read(run.config, "grpo_care")
  known = {p.id: p for p in run.problems("data/problems.jsonl")}
  orders = set()
  for groups in sampler.rounds(run, stage):
    for group in groups:
      plain = known[group.problem.id]
      assert sorted(group.problem.choices) == sorted(plain.choices)
      right = plain.choices[ord(plain.answer) - ord("A")]
      moved = group.problem.choices.index(right)
      assert group.problem.answer == chr(ord("A") + moved)
      orders.add(group.problem.choices)
      for rollout in group.rollouts:
        said = rollout.completion.text.strip()
        if said in ("A", "B"):
          wanted = float(said == group.problem.answer)
          assert rollout.rewards["accuracy"] == wanted
  assert orders == {("red", "ink"), ("ink", "red")}


def answers(workdir):
  return [
    Store(round_directory(workdir, number), read_only=True).position
    for number in range(2)
  ]


def test_a_kill_between_the_copy_s_save_and_the_policy_s(done, tmp_path):
  whole, _ = done
  workdir = shutil.copytree(whole, tmp_path / "W")
  shutil.rmtree(workdir / "checkpoints" / "2")
  shutil.rmtree(workdir / "export")
  learnt(prepared(workdir))
  export = "export/model.safetensors"
  assert (workdir / export).read_bytes() == (whole / export).read_bytes()
  assert answers(workdir) == answers(whole)
  kept = lambda path: [
    json.loads(line)["loss"]
    for line in (path / "metrics.jsonl").read_text().splitlines()
  ]
  assert kept(workdir) == kept(whole)
  # The bonus of the next round would be another one without the copy.
  shutil.rmtree(workdir / "average")
  with pytest.raises(SophiaError) as e:
    learnt(prepared(workdir))
  assert "no copy of the policy after update 2" in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("name", "values"),
  [("grpo_care", {}), ("ppo", {"critic": "model"}), ("fgaif", {})],
)
def test_one_round_cannot_move_a_second_model(name, values):
  config = rounds_config.get_config()
  config.stages.alone = stages.stage(name, rounds=1, groups=5, **values)
  with pytest.raises(SophiaError, match="use 2 or more") as e:
    stages.read(config, "alone")
  assert "config.stages.alone.rounds=1" in str(e.value)
  assert "\n" not in str(e.value)


def test_without_the_bonus_one_round_is_enough():
  config = rounds_config.get_config()
  config.stages.alone = stages.stage("grpo_care", bonus=0.0, rounds=1)
  assert stages.read(config, "alone").algorithm.average is None
