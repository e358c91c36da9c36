"""The stages of a run, in the order of config.order; each resumes by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.config import decisive
from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.files import write_json
from sophia_jax.hosts import meeting
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import digits, evaluation, rounds, sampling, training
from sophia_jax.runs.report import report
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.types import SophiaError

FACTS = "stage.json"


def run_all(run: Run, only: str = "") -> dict[str, Any]:
  """Runs every stage that is not done, evaluates, and writes the report.

  Args:
    only: name of the one stage to run; "": all of them.

  Returns:
    The report; {} where `only` is given.

  Raises:
    SophiaError: a mistake in config or data; nothing is written then.
  """
  check(run)
  run.begin()
  prepare(run)
  chosen = [s for s in run.stages() if only in ("", s.name)]
  last = run.last()
  for stage in chosen:
    if stage.name == last.name:
      evaluation.evaluate_once(run, "before", run.start(stage))
    learn(run, stage)
    if stage.config.model == "policy":
      _evaluate_after(run, stage, last)
  return {} if only else report(run)


def check(run: Run, only: str = "") -> None:
  """Finds every mistake that can be found before anything is paid for.

  Raises:
    SophiaError: the first mistake; names the key or the line, and the remedy.
  """
  run.last()
  for stage in run.stages():
    if only in ("", stage.name):
      run.start(stage)
      sampling.check(run, stage)
      check_facts(run, stage)
  if not run.config.get("prepare"):
    for path in {_data(run, stage) for stage in run.stages() if stage.samples}:
      refuse_evaluation(load_problems(path), str(path))
    if run.config.data.heldout:
      load_problems(run.path(run.config.data.heldout))


def _data(run: Run, stage: Stage) -> Path:
  return run.path(stage.config.data or run.config.data.problems)


def prepare(run: Run) -> None:
  """Makes what the config makes from nothing; others bring checkpoints."""
  if run.config.get("prepare"):
    digits.prepare(run)


def learn(run: Run, stage: Stage) -> None:
  """Runs a stage: samples where its method does, updates, exports."""
  if run.done(stage.name):
    return
  run = run.laid_out()
  write_facts(run, stage)
  if stage.samples and stage.config.rounds == 1:
    sampling.sample(run, stage)
  with run.step(stage.name):
    drive = rounds.learn if stage.config.rounds > 1 else training.learn
    drive(run, stage)


def _evaluate_after(run: Run, stage: Stage, last: Stage) -> None:
  """Evaluates a stage's result, unless it is what the last one starts from."""
  if stage.name == last.name:
    evaluation.evaluate_once(run, "after", run.directory(stage.name) / "export")
  elif run.start(last) != run.directory(stage.name) / "export":
    evaluation.evaluate_once(
      run, stage.name, run.directory(stage.name) / "export"
    )


# ------------------------------------------------------------------------- facts
def facts(run: Run, stage: Stage) -> dict[str, Any]:
  """Returns what the result of a stage depends on; content, never paths."""
  prompts = run.section(Prompts, "prompts")
  start = run.start(stage)
  return {
    "seed": run.seed,
    "stage": decisive(stage.config),
    "method": decisive(stage.method),
    "train": decisive(stage.train),
    "prompts": dataclasses.asdict(prompts),
    "start": fingerprint(start) if start.is_dir() else None,
  }


def check_facts(run: Run, stage: Stage) -> None:
  """Refuses to resume a stage with other settings than it was begun with.

  Raises:
    SophiaError: names the first that differs.
  """
