"""The stages of a run, in the order of config.order; each resumes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sophia_jax.hosts import meeting
from sophia_jax.runs import (
  digits,
  evaluation,
  locks,
  made,
  planning,
  preflight,
  ratios,
  rounds,
  sampling,
  training,
  trials,
)
from sophia_jax.runs import stage as stages
from sophia_jax.runs.report import report
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.types import SophiaError


def run_all(run: Run, only: str = "") -> dict[str, Any]:
  """Runs every stage that is not done, evaluates, and writes the report.

  Args:
    only: name of the one stage to run; "": all of them.

  Returns:
    The report; {} where `only` is given.

  Raises:
    SophiaError: a mistake in config or data, or another command writes the
      workdir; nothing is written then.
    Preempted: SIGTERM arrived; the same command resumes.
  """
  if run.config.get("planning"):
    return _planned(run, only)
  run.check_order(only)
  locks.check(run, share=_is_sampled(run, only), update=True)
  preflight.check(run, only)
  with locks.updating(run, share=_is_sampled(run, only)):
    begin(run)
    last = run.last()
    for stage in run.stages():
      if only not in ("", stage.name):
        continue
      if stage.name == last.name:
        evaluation.evaluate_once(run, "before", run.start(stage))
        trials.measure(run, stage, "before", run.start(stage))
      learn(run, stage)
      answers = stage.learns and stage.algorithm.answers
      if stage.config.model == training.POLICY and answers:
        _evaluate_after(run, stage, last)
    if last.samples and last.learns and only in ("", last.name):
      ratios.measure(run, last)
    return {} if only else report(run)


def _is_sampled(run: Run, only: str) -> bool:
  """Returns whether everything before the last stage's update is done."""
  last = run.last()
  steps = [s.name for s in run.stages() if s.name != last.name]
  if last.samples and last.config.rounds == 1:
    steps.append(sampling.step_name(last))
  return only in ("", last.name) and all(map(run.done, [*steps, "before"]))


def _planned(run: Run, only: str) -> dict[str, Any]:
  """Runs a config that plans, once the stages that make its model are done."""
  locks.check(run)
  planning.check(run)
  if run.config.order:
    preflight.check(run, only)
  with locks.writing(run):
    if run.config.order:
      begin(run)
      for stage in run.stages():
        if only in ("", stage.name):
          learn(run, stage)
    return {} if only else planning.run_all(run)


def start(run: Run, only: str = "", sampled: str = "") -> None:
  """Checks everything, then makes the workdir and what the config makes.

  Args: as for `preflight.check`.

  Raises:
    SophiaError: a mistake in config or data; nothing is written then.
  """
  preflight.check(run, only, sampled)
  begin(run, sampled)


def begin(run: Run, sampled: str = "") -> None:
  """Makes the workdir, and what the config makes.

  Args:
    sampled: a stage that is going to be sampled for and not learnt: a workdir
      whose update has begun keeps that update's config.
  """
  run.begin(keep=bool(sampled) and made.begun(run, run.last()) is not None)
  if run.config.get("prepare"):
    digits.prepare(run)


# ------------------------------------------------------------------- single stages
def learn(run: Run, stage: Stage) -> None:
  """Runs a stage: samples where its method does, updates, exports."""
  if run.done(stage.name):
    return
  if stage.samples and stage.config.rounds == 1:
    sampling.sample(run, stage)
  update(run, stage)


def update(run: Run, stage: Stage) -> None:
  """Makes the updates of a stage, whose samples are there, and exports."""
  if run.done(stage.name):
    return
  run = run.laid_out()
  stage = stages.read(run.config, stage.name)
  with run.step(stage.name):
    if not stage.learns:
      made.write(run, stage)
    elif stage.config.rounds > 1:
      rounds.learn(run, stage)
    else:
      training.learn(run, stage)


def first_sampled(run: Run, name: str = "") -> Stage:
  """Returns the stage that `launch.sample` is for.

  Args:
    name: its name; "": the first that samples once.

  Raises:
    SophiaError: no stage samples, or the named one samples in rounds.
  """
  run.check_order(name)
  found = [
    s
    for s in run.stages()
    if s.samples and s.config.rounds == 1 and name in ("", s.name)
  ]
  if not found:
    order = ", ".join(run.config.order)
    raise SophiaError(
      (
        f"--stage={name}: does not sample once; config.order is {order}; "
        if name
        else f"config.order: no stage of {order} samples once; "
      )
      + "stages of several rounds sample in launch.train"
    )
  return found[0]


def run_until(run: Run, stage: Stage) -> None:
  """Prepares the run and does all stages before `stage`."""
  start(run, sampled=stage.name)
  for other in run.stages():
    if other.name == stage.name:
      return
    learn(run, other)


def trainable(run: Run, name: str = "") -> Stage:
  """Returns the stage that `launch.train` is for.

  Args:
    name: its name; "": the last one.

  Raises:
    SophiaError: what it starts from or learns from is not there yet.
  """
  run.check_order(name)
  stage = stages.read(run.config, name or run.config.order[-1])
  once = stage.samples and stage.config.rounds == 1
  if once and not run.done(sampling.step_name(stage)):
    raise SophiaError(
      f"{run.workdir}: nothing is sampled for the stage {stage.name!r} yet; "
      "run launch.sample first"
    )
  if not run.start(stage).is_dir():
    raise SophiaError(
      f"{run.start(stage)}: the stage {stage.name!r} starts from it and it is "
      "not there; run the stages before it (launch.run, launch.train --stage)"
    )
  return stage


def page(run: Run) -> Path:
  """Writes the report, once for all processes, and returns its page."""
  if meeting.is_leader():
    report(run)
  meeting.barrier(f"report of {run.place}")
  return run.place / "report.html"


def _evaluate_after(run: Run, stage: Stage, last: Stage) -> None:
  """Evaluates a stage's result, unless the last stage starts from it."""
  export: Path = training.export_directory(run, stage)
  if stage.name == last.name:
    evaluation.evaluate_once(run, "after", export)
    trials.measure(run, stage, "after", export)
  elif run.start(last) != export:
    step = f"{stage.name}/eval"
    evaluation.evaluate_once(run, stage.name, export, step)
