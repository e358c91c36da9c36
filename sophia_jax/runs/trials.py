"""Episodes or descriptions that measure a model: problems that were not learnt
from, each once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sophia_jax.algorithms.selection import part
from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.config import decisive
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.evals.stats import wilson
from sophia_jax.files import read_json, write_json
from sophia_jax.progress import Progress
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.runs import engines
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.types import Problem, Rollout, Sampling


def measure(run: Run, stage: Stage, name: str, directory: Path) -> None:
  """Samples for the problems of a method's trial, unless that is done.

  Writes W/evals/NAME.measures.json; the answers are in W/evals/NAME.episodes,
  and a run that was killed continues there.

  Args:
    directory: the checkpoint that answers.

  Raises:
    SophiaError: the method cannot sample for a problem, or the engine fails.
  """
  path, problems = _path(run, name), starts(run, stage)
  if not problems or path.exists():
    return
  rollouts = _played(run, stage, directory, problems, path)
  assert stage.algorithm.trial is not None
  parts = stage.algorithm.trial.parts
  found = described(rollouts, parts) if parts else summary(rollouts)
  write_json(path, found)


def starts(run: Run, stage: Stage) -> Sequence[Problem]:
  """Returns the starts of a method's trial, as many as an evaluation takes; none
  without a trial.

  Raises:
    SophiaError: the file is missing or broken, or one is no environment.
  """
  trial, check = stage.algorithm.trial, stage.algorithm.check
  if trial is None:
    return ()
  config = run.section(EvalConfig, "eval")
  problems = run.problems(trial.data)[: config.limit or None]
  if check is not None:
    for problem in problems:
      check(problem)
  return problems


def read(run: Run, name: str) -> dict[str, Any]:
  """Returns what `measure` wrote; {} where it wrote nothing."""
  path = _path(run, name)
  return read_json(path, "remove it to measure again") if path.exists() else {}


def summary(rollouts: Sequence[Rollout]) -> dict[str, Any]:
  """Returns the measures of episodes: success, means of return, turns, parts."""
  returns = [part(r, "env") + part(r, "format") for r in rollouts]
  return {
    **_success(rollouts),
    "return": _mean(returns),
    "turns": _mean([len(r.turns) for r in rollouts]),
    **_means(rollouts, ("env", "format", "invalid", "actions")),
  }


def described(
  rollouts: Sequence[Rollout], parts: Sequence[str]
) -> dict[str, Any]:
  """Returns the measures of descriptions: success, means of tokens and parts."""
  return {
    **_success(rollouts),
    "tokens": _mean([r.length for r in rollouts]),
    **_means(rollouts, parts),
  }


def _success(rollouts: Sequence[Rollout]) -> dict[str, Any]:
  """Returns the number of rollouts, and success with a 95 % interval."""
  solved = [part(r, "accuracy") > 0 for r in rollouts]
  low, high = wilson(sum(solved), len(solved))
  success = {"value": _mean(solved), "low": low, "high": high}
  return {"n": len(rollouts), "success": success}


def _means(
  rollouts: Sequence[Rollout], parts: Sequence[str]
) -> dict[str, float]:
  return {key: _mean([part(r, key) for r in rollouts]) for key in parts}


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values)) if len(values) else 0.0


def _path(run: Run, name: str) -> Path:
  return run.evals(name) / f"{name}.measures.json"


def _played(
  run: Run,
  stage: Stage,
  directory: Path,
  problems: Sequence[Problem],
  path: Path,
) -> list[Rollout]:
  """Plays one episode of each start, with the sampling of an evaluation."""
  assert stage.algorithm.trial is not None
  config = run.section(EvalConfig, "eval")
  how = Sampling(
    temperature=config.temperature,
    top_p=config.top_p,
    top_k=config.top_k,
    max_new_tokens=config.max_new_tokens,
  )
  meta = {
    "model": fingerprint(directory),
    "method": decisive(stage.method),
    "sampling": decisive(how),
    "system": run.config.prompts.slow_thinking,
    "seed": run.seed,
  }
  with (
    engines.policy(run, directory, how.max_new_tokens, config.resize) as policy,
    Store(path.with_name(f"{path.name.split('.')[0]}.episodes"), meta) as store,
  ):
    seats = roles.seats(
      policy.renderer,
      run.section(Prompts, "prompts"),
      {"policy": how},
      {"policy": {"": policy}},
    )
    world = World(store, seats, policy.renderer, seed=run.seed)
    found = collect(problems, stage.algorithm.trial.sample, world)
    rollouts: list[Rollout] = []
    with (
      contextlib.closing(found),
      Progress(store.path.name, len(problems), "episode") as progress,
    ):
      for group in found:
        rollouts += group.rollouts
        progress.advance()
  return rollouts
