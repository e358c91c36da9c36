"""Every mistake that can be found before anything is written or paid for.

The cheap checks come first: the config, then the models' configs and tokenizers,
then the data, then the lengths of prompts and what the workdir holds already.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sophia_jax.checkpoints import hub
from sophia_jax.checkpoints.config import read_config
from sophia_jax.config import nearest, section
from sophia_jax.data.chat import Renderer
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.rewards.workers import LEAST_MB
from sophia_jax.rollout import roles, store
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import (
  digits,
  lengths,
  made,
  policies,
  rewarders,
  sampling,
  sources,
  trainable,
  training,
  trials,
)
from sophia_jax.runs.policies import ReasonerConfig, RuntimeConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train import trackers
from sophia_jax.types import Problem, SophiaError

_log = logging.getLogger("sophia_jax")


SECTIONS: tuple[tuple[type[Any], str], ...] = (
  (RuntimeConfig, "policy"),
  (ImageConfig, "images"),
  (Prompts, "prompts"),
  (EngineConfig, "engine"),
  (FilterConfig, "filters"),
  (MixtureConfig, "mixture"),
  (EvalConfig, "eval"),
)
"""Sections that are read whole, whichever step needs them."""


def check(run: Run, only: str = "", sampled: str = "") -> None:
  """Finds every mistake that can be found before anything is paid for.

  Args:
    only: the one stage that is going to run; "": all of them.
    sampled: a stage that is going to be sampled for and not learnt: settings of
      its update may differ from those that it was begun with.

  Raises:
    SophiaError: the first mistake; names the key or the line, and the remedy.
  """
  run.check_order(only)
  for cls, name in SECTIONS:
    run.section(cls, name)
  check_reward(run)
  trackers.check(run.section(trackers.LogConfig, "log"))
  last = run.last()
  if not (last.learns and last.algorithm.answers):
    why = "is a reward model" if last.learns else "learns nothing"
    raise SophiaError(
      f"config.order: the last stage, {last.name!r}, {why}; end with a stage "
      "that makes a policy"
    )
  chosen = [s for s in run.stages() if only in ("", s.name)]
  for stage in chosen:
    run.start(stage)
    run.sampler(stage)
    sampling.check(run, stage)
    rewarders.check(run, stage)
    _check_examined(run, stage)
  if run.config.get("prepare"):
    digits.check(run)
  else:
    _check_given(run, whole=not only)
    _fetch(run, chosen)
    words = _words(run, chosen)
    if any("reasoner" in stage.algorithm.roles for stage in chosen):
      _check_reasoners(run, chosen)
    _check_data(run, chosen, words, sampled)
  for stage in chosen:
    _check_samples(run, stage)
    if stage.name != sampled:
      _check_resumed(run, stage)
      trainable.check(run, stage)


def check_reward(run: Run) -> None:
  """Refuses a verifier that could compare nothing.

  Raises:
    SophiaError: names the setting.
  """
  reward = run.config.reward
  for name in ("workers", "timeout_s", "memory_mb"):
    value = reward.get(name, 1)
    if not value > 0:
      raise SophiaError(f"config.reward.{name}={value}: must be more than 0")
  if reward.get("memory_mb", LEAST_MB) < LEAST_MB:
    raise SophiaError(
      f"config.reward.memory_mb={reward.memory_mb}: a process that compares "
      f"formulas needs {LEAST_MB} or more; leave it at 1024"
    )


def _check_given(run: Run, *, whole: bool) -> None:
  """Refuses a config without a checkpoint or, for a whole run, an examination.

  Raises:
    SophiaError: names the setting that is missing.
  """
  config = run.config
  if not config.policy.path:
    raise SophiaError(
      "config.policy.path: no checkpoint; give --config.policy.path=DIRECTORY"
    )
  if whole and not config.data.heldout:
    raise SophiaError(
      "config.data.heldout: no file to measure pass@1 on; give "
      "--config.data.heldout=FILE"
    )


def _check_examined(run: Run, stage: Stage) -> None:
  """Refuses evaluations between rounds without an examination.

  Raises:
    SophiaError: names the two settings.
  """
  if stage.config.evaluate_every and not run.config.data.heldout:
    raise SophiaError(
      f"config.stages.{stage.name}.evaluate_every="
      f"{stage.config.evaluate_every}: there is nothing to evaluate on; give "
      "--config.data.heldout=FILE, or 0"
    )


# ----------------------------------------------------------------------- models
def _fetch(run: Run, chosen: Sequence[Stage]) -> None:
  """Fetches checkpoints that are given by their names on the Hub.

  Raises:
    SophiaError: one cannot be fetched.
  """
  names = [run.config.policy.path]
  if any("reasoner" in stage.algorithm.roles for stage in chosen):
    names += [
      values.path for values in run.config.reasoners.values() if not values.urls
    ]
  learners = {stage.config.model for stage in chosen} - {training.POLICY}
  taught = {run.config.reasoners[name].path for name in learners}
  for name in names:
    if name not in taught and not run.path(name).exists():
      hub.local(name)


def _words(run: Run, chosen: Sequence[Stage]) -> Renderer | None:
  """Returns the policy's renderer, once its config and tokenizer fit.

  None where the first stage of the policy starts from what is not there yet.

  Raises:
    SophiaError: no checkpoint, or one of other tiles than config.images says.
  """
  results = {training.export_directory(run, stage) for stage in chosen}
  starts = [
    run.start(stage) for stage in chosen if stage.config.model == "policy"
  ]
  given = run.path(run.config.policy.path)
  found = next((path for path in starts if path not in results), given)
  if not found.is_dir():
    if found != given:
      return None  # `pipeline.trainable` says which stage comes before
    raise SophiaError(
      f"config.policy.path: {given} is no directory; give the folder of a "
      "checkpoint, or its name on the Hub"
    )
  cfg, words = policies.load_words(
    found, run.section(ImageConfig, "images"), run.config.prompts.system
  )
  asked = {
    sampling.SAMPLING[role]
    for stage in chosen
    for role in stage.algorithm.roles
    if stage.samples and role in roles.OWN
  }
  for key in sorted(asked | ({"eval"} if run.config.data.heldout else set())):
    lengths.warn(run, cfg, found, key)
  return words


def _check_reasoners(run: Run, chosen: Sequence[Stage]) -> None:
  """Refuses a config without reasoners, or one that is not a text-only model.

  Raises:
    SophiaError: names the reasoner and the remedy.
  """
  if not run.config.reasoners:
    raise SophiaError(
      "config.reasoners: none, and the method asks one; give c.reasoners = "
      '{"easy": defaults(ReasonerConfig, path=DIRECTORY)}'
    )
  taught = {stage.config.model for stage in chosen}
  for name, values in run.config.reasoners.items():
    key = f"config.reasoners.{name}.path"
    choice = section(ReasonerConfig, values.to_dict(), f"reasoners.{name}")
    directory = run.path(choice.path)
    if name in taught or choice.urls:
      continue
    if not choice.path or not directory.is_dir():
      raise SophiaError(
        f"{key}: {choice.path or 'empty'}: no such directory; give the folder "
        "of a text-only checkpoint"
      )
    if choice.engine == "embedded" and read_config(directory).vision:
      raise SophiaError(
        f"{key}: {directory} is a vision-language model; a reasoner is asked "
        "in words, so give a text-only one, such as Qwen2.5-Instruct"
      )


# ------------------------------------------------------------------------- data
def _check_data(
  run: Run, chosen: Sequence[Stage], words: Renderer | None, unlearnt: str
) -> None:
  """Reads every file of problems, and compares it with the models.

  Args:
    unlearnt: a stage that is going to be sampled for and not learnt; "": none.

  Raises:
    SophiaError: the first mistake; names the problem.
  """
  for stage in chosen:
    trials.starts(run, stage)
  sampled = [stage for stage in chosen if _given(run, stage)]
  for name in {sampling.data_file(run, stage) for stage in sampled}:
    refuse_evaluation(run.problems(name), str(run.path(name)))
  for stage in sampled:
    problems = sampling.problems(run, stage)
    where = run.path(sampling.data_file(run, stage))
    if "reasoner" in stage.algorithm.roles:
      check_difficulties(where, problems, list(run.config.reasoners))
    if words:
      if roles.OWN & set(stage.algorithm.roles):
        check_images(where, problems, words)
        if stage.learns and stage.name != unlearnt:
          trainable.check_rows(run, stage, problems, words)
      lengths.fitting(run, stage, problems, words)
  for stage in chosen:
    if stage.learns and stage.name != unlearnt and not run.done(stage.name):
      sources.check(run, stage)
  held_out = run.config.data.heldout
  if held_out and not any(run.writes(s.name, held_out) for s in chosen):
    problems = run.problems(held_out)
    for stage in sampled:
      _warn_learnt(run, stage, problems)
    config = run.section(EvalConfig, "eval")
    if words:
      check_images(run.path(held_out), problems, words)
      lengths.check_evaluation(
        run,
        problems[: config.limit or None],
        words,
        config.max_new_tokens,
      )


def _warn_learnt(run: Run, stage: Stage, held_out: Sequence[Problem]) -> None:
  """Logs a warning of held-out problems that a stage learns from."""
  name = sampling.data_file(run, stage)
  learnt = {(p.id, p.question) for p in run.problems(name)}
  both = [p.id for p in held_out if (p.id, p.question) in learnt]
  if both:
    _log.warning(
      "config.data.heldout: %d of %d problems are in %s too (%s%s): pass@1 is "
      "measured on what is learned",
      *(len(both), len(held_out), run.path(name), ", ".join(both[:5])),
      ", ..." if len(both) > 5 else "",
    )


def _given(run: Run, stage: Stage) -> bool:
  """Returns whether a stage samples for problems that no other stage writes."""
  return stage.samples and not run.writes(stage.name, stage.config.data)


def check_difficulties(
  where: Path, problems: Sequence[Problem], names: Sequence[str]
) -> None:
  """Refuses problems whose difficulty names no reasoner; one alone takes all.

  Raises:
    SophiaError: names the first problem, and counts them.
  """
  if len(names) < 2:
    return
  lost = [p for p in problems if p.difficulty not in names]
  if lost:
    raise SophiaError(
      f"{where}: problem {lost[0].id}: difficulty {lost[0].difficulty!r} names "
      f"no reasoner of config.reasoners ({nearest(lost[0].difficulty, names)}); "
      f"{len(lost)} of {len(problems)} problems; change it, or add a reasoner "
      "of that name"
    )


def check_images(
  where: Path, problems: Sequence[Problem], words: Renderer
) -> None:
  """Refuses images for a policy that cannot see them.

  Raises:
    SophiaError: names the first problem with images.
  """
  if words.has_images and words.tokens_per_tile:
    return
  seen = [p for p in problems if p.images]
  if seen:
    raise SophiaError(
      f"{where}: problem {seen[0].id} has images ({len(seen)} of "
      f"{len(problems)} do), and the policy is a text-only model; give a "
      "vision-language checkpoint as config.policy.path, or put descriptions in "
      'the place of images first (a stage "describe")'
    )


# -------------------------------------------------------------- what is there
def _check_samples(run: Run, stage: Stage) -> None:
  """Refuses samples of other settings than the config's.

  Raises:
    SophiaError: names the setting that differs.
  """
  if stage.samples and stage.config.rounds == 1 and run.sampler(stage).is_dir():
    store.check_header(
      sampling.store_directory(run, stage), sampling.store_meta(run, stage)
    )


def _check_resumed(run: Run, stage: Stage) -> None:
  """Refuses to repeat a stage with other settings than it was begun with.

  Raises:
    SophiaError: names the first setting that differs.
  """
  begun = made.begun(run, stage)
  if begun is None or not run.start(stage).is_dir():
    return
  step, found = begun
  new = training.identity(run, stage)
  old = {key: found.get(key) for key in new}
  if difference := first_difference(old, new):
    key, before, now = difference
    raise SophiaError(
      f"{step}: stage {stage.name!r} was begun with {_flag(stage, key)} = "
      f"{before!r}, now it is {now!r}; use that value, another --name or another "
      "--workdir"
    )


def _flag(stage: Stage, key: str) -> str:
  """Returns how a command line names a key of `training.identity`."""
  part, _, name = key.partition(".")
  if part in ("stage", "method"):
    return f"config.stages.{stage.name}.{name}"
  if part == "train":
    return f"config.stages.{stage.name}.{key}"
  if part in ("start", "adapter"):
    return f"weights of {part}"
  return f"config.{key}"


def first_difference(
  old: Any, new: Any, key: str = ""
) -> tuple[str, Any, Any] | None:
  """Returns (key, old value, new value) of the first leaf that differs."""
  if not (isinstance(old, dict) and isinstance(new, dict)):
    return None if old == new else (key, old, new)
  for name in sorted(old.keys() | new.keys()):
    found = first_difference(
      old.get(name), new.get(name), f"{key}.{name}".lstrip(".")
    )
    if found:
      return found
  return None
