"""Worlds of environments: what their configs make before anything is learnt."""

import importlib

import pytest

from launch import run as command
from sophia_jax.data.images import ImageConfig
from sophia_jax.envs import registry
from sophia_jax.runs import digits, evaluation, policies, preflight
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError

CONFIGS = ("starpo", "starpo_bandit", "starpo_sokoban")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_policy_that_reads_starts_token_by_token(name, tmp_path):
  config = importlib.import_module(f"configs.digits.{name}").get_config()
  config.prepare.world.update(problems=20, heldout=10, examples=40)
  config.prepare.decoder.update(width=16, depth=1, mlp=32)
  run = Run(config, str(tmp_path / "W"))
  run.begin()
  digits.prepare(run)
  made = run.seconds()
  assert made.keys() == {"world", "play_start"}
  digits.prepare(run)
  assert run.seconds() == made
  cfg, words = policies.load_words(
    run.path(config.policy.path),
    run.section(ImageConfig, "images"),
    config.prompts.system,
  )
  assert cfg.vision is None
  starts = run.problems(config.data.problems)
  assert {type(registry.of(p)) for p in starts} == {
    registry.ENVIRONMENTS[config.prepare.world.env]
  }
  # A cell is a token, and an arm is one: starts are equally long.
  assert len({len(words.prompt(p.question)) for p in starts}) == 1
  for last in ("starpo", "starpo_s"):
    stage = stages.read(config, last)
    assert stage.method.crossed <= stage.config.groups
    assert len(run.problems(stage.method.trials)) in (10, 20)


def test_without_held_out_problems_nothing_is_asked(tmp_path):
  config = importlib.import_module("configs.digits.starpo").get_config()
  run = Run(config, str(tmp_path / "W"))
  run.begin()
  evaluation.evaluate_once(run, "before", tmp_path / "no checkpoint")
  assert run.done("before") and not run.evals("before").exists()


def test_without_them_no_round_is_evaluated(tmp_path):
  config = importlib.import_module("configs.digits.starpo").get_config()
  config.order = ("play", "starpo")
  config.stages.starpo.evaluate_every = 2
  with pytest.raises(SophiaError, match="evaluate_every=2: there is nothing"):
    preflight.check(Run(config, str(tmp_path / "W")))


def test_a_run_prints_what_was_measured():
  rate = {"value": 0.5, "low": 0.4, "high": 0.6}
  lines = command._lines(
    {
      "pass_at_1": {"before": None, "after": None},
      "measures": {
        "success": {"before": rate, "after": rate | {"value": 1.0}, "n": 9},
        "return": {"before": 0.1, "after": 0.2, "n": 9},
      },
      "counts": {
        **{"problems": 1, "captions": 0},
        **{"trajectories": 2, "selected": 2},
      },
      "seconds": {"play": 1.0},
    }
  )
  assert lines == [
    "success before   50.0%  [40.0%, 60.0%]  n = 9",
    "success after   100.0%  [40.0%, 60.0%]  n = 9",
    "1 problems, 0 captions, 2 trajectories, 2 selected; 1 s",
  ]


def test_what_a_config_makes_is_checked_before_it_is_made(tmp_path):
  config = importlib.import_module("configs.digits.starpo").get_config()
  config.prepare.world.examples = -1
  with pytest.raises(SophiaError, match="examples=-1: is negative"):
    preflight.check(Run(config, str(tmp_path / "W")))
  assert not (tmp_path / "W").exists()
