"""Rounds of episodes: learnt, measured, refused."""

import json
import shutil

import numpy as np
import pytest

from sophia_jax.envs import registry
from sophia_jax.envs.bandit import Bandit
from sophia_jax.files import write_jsonl
from sophia_jax.rollout.store import round_directory
from sophia_jax.runs import preflight, report, trials
from sophia_jax.runs import rounds as driver
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import SophiaError
from tests.launch import rounds, rounds_config


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  """A policy that says A, B or nothing, and bandits with such arms."""
  workdir = rounds.ready(tmp_path_factory.mktemp("fresh") / "W")
  rows = [
    {
      "id": f"p{i}",
      "question": "What do you see" + " paper" * (i % 3),
      "answer": registry.written(Bandit(arms=("A", "B"), risky=i % 2)),
    }
    for i in range(8)
  ]
  write_jsonl(workdir / "data" / "starts.jsonl", rows)
  return workdir


@pytest.fixture
def workdir(fresh, tmp_path):
  return shutil.copytree(fresh, tmp_path / "W")


def prepared(workdir, algorithm="starpo_s", **settings):
  """A run of two rounds; answers of one or two tokens, at most three turns."""
  config = rounds_config.get_config()
  config.answering.max_new_tokens = config.eval.max_new_tokens = 2
  config.engine.update(length=192)
  row = {
    "data": "data/starts.jsonl",
    "trials": "data/starts.jsonl",
    "n": 4,
    "turns": 3,
    "form": "plain",
    "context": 180,
    "crossed": 3,
    "crossed_answers": 2,
    "filter": "mass",
    "kept": 0.9,
    "rounds": 2,
    "groups": 4,
    "minibatches": 2,
    "train": {**rounds_config.TRAIN, "length": 192, "tiles": 0},
  }
  config.stages.play = stages.stage(algorithm, **{**row, **settings})
  config.order = ("play",)
  return Run(config, str(workdir))


def learnt(run):
  preflight.check(run)
  run.begin()
  driver.learn(run, stages.read(run.config, "play"))
  return metrics.read(run.workdir / "metrics.jsonl")


def turns(workdir, number=0):
  """Answers of a round by (problem, path, turn): ids, request and text."""
  found = {}
  path = round_directory(workdir, number) / "0.jsonl"
  for line in path.read_bytes().splitlines():
    record = json.loads(line)["record"]
    if "token_ids" in record:
      key = record["id"], tuple(record["path"]), record["turn"]
      assert key not in found, "asked twice"
      found[key] = record["token_ids"], record["request"], record["text"]
  return found


def test_two_rounds_learn_from_all_turns(workdir, monkeypatch):
  run = prepared(workdir, filter="share", kept=0.75, draws=2)
  rounds, update = [], driver.Rounds._update

  def noted(self, sampled, moment):
    rounds.append(sampled)
    return update(self, sampled, moment)

  monkeypatch.setattr(driver.Rounds, "_update", noted)
  rows = learnt(run)
  assert {row["round"] for row in rows if "round" in row} == {0, 1}
  first = rows[0]
  assert first["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
  # The trainer sees the ids that were drawn, over all turns.
  assert first["training/rollout_probs_diff_max"] < 1e-4
  assert first["rewards/invalid/mean"] > 0 > first["rewards/format/mean"]
  assert first["rewards/ended_done/mean"] > 0
  assert first["collapse/prompts"] in (2, 3)
  assert first["collapse/mutual_information"] <= np.log(3) + 1e-6
  assert 0 <= first["collapse/retrieval_accuracy"] <= 1
  answers = turns(workdir)
  assert {turn for _, _, turn in answers} == {0, 1, 2}
  # The page counts what the rounds learn: the first `groups` of what two draws
  # have left.
  found = list(report._groups(run, [stages.read(run.config, "play")]))
  every = [g.problem.id for r in rounds for g in r.groups]
  assert [group.problem.id for group, _ in found] == every
  assert len(every) == 16
  kept = [{g.problem.id for g in r.kept} for r in rounds]
  chosen = [
    {g.problem.id for g, ids in found[i : i + 8] if ids} for i in (0, 8)
  ]
  assert chosen == kept and [len(names) for names in kept] == [4, 4]


@pytest.mark.slow
def test_a_critic_learns_from_turns(workdir):
  critic = {"advantage": "bilevel", "rewards": "turn", "filter": "none"}
  rows = learnt(prepared(workdir, "starpo", **critic))
  assert np.isfinite(rows[-1]["critic/vf_loss"])
  assert rows[0]["critic/returns/mean"] != 0


def test_starts_are_played_once_and_measured(workdir, monkeypatch):
  run = prepared(workdir)
  stage = stages.read(run.config, "play")
  policy = run.path(run.config.policy.path)
  trials.measure(run, stage, "before", policy)
  found = trials.read(run, "before")
  assert found["n"] == 8 and 0 <= found["success"]["low"] <= 1
  assert found["success"]["value"] * 8 == round(found["success"]["value"] * 8)
  assert 1 <= found["turns"] <= 3
  monkeypatch.setattr(trials, "_played", None)  # it is not played again
  trials.measure(run, stage, "before", policy)
  assert trials.read(run, "before") == found


@pytest.mark.parametrize(
  ("settings", "want"),
  [
    ({"context": 191}, r"stages\.play\.train\.length=192: .* 191 \+ 2 tokens"),
    ({"data": "data/problems.jsonl"}, "problem p0: its answer.*environment"),
    ({"trials": "data/none.jsonl"}, r"none\.jsonl"),
    ({"trials": "data/heldout.jsonl"}, "problem h0: its answer.*environment"),
    ({"turns": 0}, "turns: 0"),
    ({"rounds": 1}, r"play\.filter=mass: .*stages\.play\.rounds=1 .*raise rou"),
    ({"groups": 1}, r"play\.filter=mass: .*stages\.play\.groups=1 .*raise gro"),
  ],
)
def test_mistakes_are_found_before_anything_is_sampled(workdir, settings, want):
  with pytest.raises(SophiaError, match=want) as e:
    preflight.check(prepared(workdir, **settings))
  assert "\n" not in str(e.value)
  assert not (workdir / "rounds").exists()
