"""Rounds as a user types them: the same bits twice, killed, in several processes."""

import collections
import json
import random
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from sophia_jax.rollout import taken, tokens
from sophia_jax.rollout.store import Store, round_directory
from sophia_jax.train import metrics
from tests.devices import host_devices
from tests.launch import rounds
from tests.launch.commands import assert_refused, until
from tests.launch.test_several_hosts import ended, together

CONFIG = "--config=tests/launch/rounds_config.py"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  return rounds.ready(tmp_path_factory.mktemp("fresh") / "W")


@pytest.fixture
def workdir(fresh, tmp_path):
  return shutil.copytree(fresh, tmp_path / "W")


@pytest.fixture(scope="module")
def undisturbed(fresh, command, tmp_path_factory):
  """A run that nothing disturbs."""
  workdir = shutil.copytree(fresh, tmp_path_factory.mktemp("whole") / "W")
  done = command("launch.run", CONFIG, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return workdir


def weights(workdir):
  return (workdir / "export" / "model.safetensors").read_bytes()


def answers(workdir, rounds=3):
  """How often each answer of each round was written.

  Without log-probabilities: a row is rounded in another way beside other rows,
  and a run that was killed asks for fewer together.
  """
  found = collections.Counter()
  for number in range(rounds):
    store = Store(round_directory(workdir, number), read_only=True)
    for segment in store.path.glob("*.jsonl"):
      for line in segment.read_bytes().splitlines():
        record = json.loads(line)["record"]
        if "token_ids" in record:
          del record["logps"]
          found[number, json.dumps(record, sort_keys=True)] += 1
  return found


def test_rounds_learn_and_say_what_happened(undisturbed):
  rows = metrics.read(undisturbed / "metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert [row["round"] for row in rows if "round" in row] == [0, 1, 2]
  first = rows[0]
  assert 0 < first["critic/score/mean"] < 1
  assert first["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
  assert first["training/rollout_probs_diff_max"] < 1e-4
  assert rows[-1]["actor/kl_loss"] > 0
  assert "val/pass_at_1" in rows[4]
  start = load_file(undisturbed / "models/policy/model.safetensors")
  end = load_file(undisturbed / "export/model.safetensors")
  assert any(np.abs(end[name] - x).max() > 1e-3 for name, x in start.items())
  report = json.loads((undisturbed / "report.json").read_text())
  [stage] = report["stages"]
  assert (stage["name"], stage["rounds"], stage["updates"]) == ("grpo", 3, 6)
  assert report["counts"]["captions"] == 0
  assert report["pass_at_k"]["after"].keys() == {"1", "2"}
  page = (undisturbed / "report.html").read_text()
  assert "grpo: reward" in page and "grpo: entropy" in page


def test_a_round_says_which_groups_it_takes(undisturbed):
  """Two draws of four problems, of which those that differ are learnt."""
  for number in range(3):
    directory = round_directory(undisturbed, number)
    ids = taken.read(directory)
    lines = (directory / "0.jsonl").read_text().splitlines()
    sampled = {json.loads(line)["record"]["id"] for line in lines}
    assert 0 < len(ids) == len({*ids}) <= 4 and {*ids} <= sampled


def test_another_order_learns_the_same_samples_otherwise(
  undisturbed, command, workdir
):
  flags = [
    "--config.stages.grpo.rounds=2",
    "--config.stages.grpo.train.order=1",
  ]
  done = command("launch.run", CONFIG, f"--workdir={workdir}", *flags)
  assert done.returncode == 0, done.stderr
  assert answers(workdir, rounds=1) == answers(undisturbed, rounds=1)
  ours, theirs = (
    metrics.read(place / "metrics.jsonl")[0] for place in (workdir, undisturbed)
  )
  assert ours["critic/score/mean"] == theirs["critic/score/mean"]
  assert ours["loss"] != theirs["loss"]


def test_tokens_of_a_few_rollouts_are_kept_as_the_update_saw_them(undisturbed):
  assert len(kept(undisturbed)) == 3
  for number in range(3):
    directory = round_directory(undisturbed, number)
    said = {}
    for line in (directory / "0.jsonl").read_text().splitlines():
      record = json.loads(line)["record"]
      if "token_ids" in record:
        said["/".join([record["id"], *map(str, record["path"])])] = record
    names = tokens.names(directory)
    assert len(set(names)) == 8
    for name in names:
      learnt = tokens.read(directory, name)
      values = learnt.values
      assert list(learnt.token_ids) == said[name]["token_ids"]
      np.testing.assert_allclose(
        values["trainer"], said[name]["logps"], atol=1e-3
      )
      np.testing.assert_allclose(
        values["ratio"], np.exp(values["logp"] - values["trainer"]), rtol=1e-4
      )
      assert (values["entropy"] > 0).all() and (values["weight"] > 0).all()
      assert set(values["clipped"]) <= {0.0, 1.0}


def kept(workdir):
  """Content of the files of kept tokens, by round."""
  found = sorted(workdir.glob(f"rounds/*/{tokens.FILE}"))
  return {path.parent.name: path.read_bytes() for path in found}


def test_a_run_that_is_killed_ends_with_the_same_bits(
  undisturbed, workdir, start
):
  kill(workdir, start, kills=3, seed=1)
  assert weights(workdir) == weights(undisturbed)
  assert answers(workdir) == answers(undisturbed)
  assert set(answers(workdir).values()) == {1}
  assert kept(workdir) == kept(undisturbed)


def test_a_second_command_is_refused_while_the_first_runs(
  workdir, start, command
):
  first = start("launch.run", CONFIG, f"--workdir={workdir}")
  until(first, (workdir / "config.json").exists)  # written under the lock
  first.send_signal(signal.SIGSTOP)
  second = command("launch.run", CONFIG, f"--workdir={workdir}")
  first.kill()
  first.communicate()
  assert_refused(second, f"{workdir}/.lock", "is writing this workdir")


@pytest.mark.slow
def test_thirty_kills(workdir, command, start, tmp_path):
  """Ten rounds; each kill comes a moment after something new was written."""
  ten = "--config.stages.grpo.rounds=10"
  whole = shutil.copytree(workdir, tmp_path / "whole")
  done = command("launch.run", CONFIG, f"--workdir={whole}", ten)
  assert done.returncode == 0, done.stderr
  rng, kills = random.Random(2), 0
  while kills < 30 and not (workdir / "report.json").exists():
    process = start("launch.run", CONFIG, f"--workdir={workdir}", ten)
    before = written(workdir)
    while process.poll() is None and written(workdir) == before:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 1))
    kills += process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
  print(f"{kills} kills")
  last = command("launch.run", CONFIG, f"--workdir={workdir}", ten)
  assert last.returncode == 0, last.stderr
  assert weights(workdir) == weights(whole)
  assert answers(workdir, 10) == answers(whole, 10)


def written(workdir):
  """Sizes of what a run has sampled, learnt and saved."""
  found = [*workdir.glob("rounds/*/*"), *workdir.glob("checkpoints/*")]
  found.append(workdir / "metrics.jsonl")
  return {path: path.stat().st_size for path in found if path.exists()}


def distance(one, other):
  """Returns the norm of the difference of two sets of weights."""
  assert one.keys() == other.keys()
  parts = [np.linalg.norm(one[name] - other[name]) for name in one]
  return np.linalg.norm(parts)


def kill(workdir, start, kills, seed):
  """Kills a run so many times, each after a random time, and lets it end."""
  rng = random.Random(seed)
  begun = lambda: sorted((workdir / "rounds").glob("*/0.jsonl"))
  for _ in range(kills):
    process = start("launch.run", CONFIG, f"--workdir={workdir}")
    before = len(begun())
    while process.poll() is None and len(begun()) == before:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (workdir / "report.json").exists():
      break
  process = start("launch.run", CONFIG, f"--workdir={workdir}")
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_learn_what_one_does(
  count, undisturbed, workdir, start
):
  done = ended(
    [
      start(
        "launch.train",
        CONFIG,
        f"--workdir={workdir}",
        f"--config.mesh.fsdp={count}",
        f"--config.packing.shards={count}",
        "--peer_timeout_s=60",
        *flags,
        XLA_FLAGS=host_devices(1),
      )
      for flags in together(count)
    ]
  )
  assert [c for c, *_ in done] == [0] * count, [err for *_, err in done]
  assert answers(workdir) == answers(undisturbed)
  np.testing.assert_allclose(losses(workdir), losses(undisturbed), atol=1e-5)
  before = load_file(workdir / "models/policy/model.safetensors")
  found = load_file(workdir / "export/model.safetensors")
  alone = load_file(undisturbed / "export/model.safetensors")
  # Sums over devices round differently, and Adam divides gradients near 0 by
  # themselves: 1e-3 of the update. Another answer of one problem in ten changes
  # it by 0.4 of itself.
  assert distance(found, alone) < 5e-3 * distance(before, alone)


def losses(workdir):
  return [row["loss"] for row in metrics.read(workdir / "metrics.jsonl")]


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["stages.grpo.algorithm=grpoo"], ["'grpoo'", "'grpo'"]),
    (["stages.grpo.n=1"], ["grpo.n", "2 rollouts"]),
    (["answering.top_p=0.9"], ["top_p", "importance ratios"]),
    (["stages.grpo.kl_estimator=k1"], ["k1"]),
    (["stages.grpo.start=sophia"], ["stages.grpo.start=sophia"]),
    (["stages.grpo.groups=11"], ["groups=11", "10 problems"]),
    (["stages.grpo.rounds=0"], ["rounds is 0"]),
    (["data.problems="], ["--config.data.problems=FILE"]),
    (["data.heldout="], ["--config.data.heldout=FILE"]),
    (["policy.path="], ["--config.policy.path=DIRECTORY"]),
  ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything(
  workdir, command, flags, said
):
  given = [f"--config.{flag}" for flag in flags]
  done = command("launch.run", CONFIG, f"--workdir={workdir}", *given)
  assert_refused(done, *said)
  assert not (workdir / "config.json").exists()
  assert not (workdir / "rounds").exists()


def test_other_settings_on_a_begun_workdir_are_refused(undisturbed, command):
  done = command(
    "launch.run",
    CONFIG,
    f"--workdir={undisturbed}",
    "--config.stages.grpo.kl=0.5",
  )
  assert_refused(done, "config.stages.grpo.kl = 0.01", "0.5")
