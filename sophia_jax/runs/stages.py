"""The stages of a run, in the order the data flows; each resumes by itself."""

from __future__ import annotations

import dataclasses
import json

from sophia_jax.algorithms import reductions
from sophia_jax.algorithms.legacy import sft, sophia
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.files import write_text
from sophia_jax.hosts import meeting
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import digits, policies, sampling
from sophia_jax.runs.run import Run
from sophia_jax.runs.training import train as train_model
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.sequences import prepare as prepare_sequences
from sophia_jax.train.sequences import render
from sophia_jax.types import (
  Example,
  SophiaError,
)


def prepare(run: Run) -> None:
  """Makes what the config makes from nothing; others bring checkpoints."""
  if run.config.get("prepare"):
    digits.prepare(run)


def check_data(run: Run) -> None:
  """Finds every mistake in the problems before anything is paid for."""
  sampling.problems(run)
  load_problems(run.path(run.config.data.heldout))


def warm_up(run: Run) -> None:
  """SFT on captions and general questions, before the policy is sampled."""
  if run.done("warmup") or not run.config.get("warmup"):
    return
  run = run.laid_out()
  with run.stage("warmup"):
    model = policies.load_policy(run, run.path(run.config.policy.path))
    examples = instruction(run, "warmup")
    params = train_model(
      run,
      model,
      render(examples, model.renderer, reductions.token),
      sft,
      run.section(TrainConfig, "warmup"),
      run.workdir / "warmup",
    )
    policies.export(model, params, sampling.policy_directory(run))


def instruction(run: Run, name: str) -> list[Example]:
  """The examples of config.data.`name`, none of an evaluation set."""
  path = run.path(run.config.data[name])
  loaded = load_examples(path)
  refuse_evaluation(loaded, str(path))
  return loaded


# --------------------------------------------------------------------- training
def train(run: Run) -> None:
  """Selection and update -> W/checkpoints, W/export."""
  if run.done("train"):
    return
  run = run.laid_out()
  with run.stage("train"):
    model = policies.load_policy(run, sampling.policy_directory(run))
    config = run.section(TrainConfig, "train")
    mixture = run.section(MixtureConfig, "mixture")
    filters = run.section(FilterConfig, "filters")
    reduction = reductions.named(
      run.section(sophia.SophiaConfig, "sophia").reduction, "sophia"
    )
    streams, counts = {}, {}
    for name, examples in _learnt(run, mixture).items():
      streams[name], counts[name] = prepare_sequences(
        examples, model.renderer, reduction, filters, config.length
      )
    if meeting.is_leader():
      write_text(run.workdir / "filters.json", json.dumps(counts, indent=1))
    with sampling.open_store(run, read_only=True) as store:
      position = store.position
    params = train_model(
      run,
      model,
      streams,
      sophia,
      config,
      run.workdir,
      mixture,
      store_position=position,
    )
    policies.export(model, params, run.workdir / "export")


def _learnt(run: Run, mixture: MixtureConfig) -> dict[str, list[Example]]:
  """The examples of each stream that has data and takes part in the mixture."""
  prompts = run.section(Prompts, "prompts")
  streams: dict[str, list[Example]] = {}
  if mixture.visual:
    streams["visual"] = _selected(run, prompts)
  for name in ("text", "general"):
    if run.config.data.get(name) and mixture.amounts[name]:
      streams[name] = [
        dataclasses.replace(
          e, system=sophia.system_prompt(e.response, prompts.slow_thinking)
        )
        if e.system is None
        else e
        for e in instruction(run, name)
      ]
  return streams


def _selected(run: Run, prompts: Prompts) -> list[Example]:
  """What the policy learns of the store."""
  config = run.section(sophia.SophiaConfig, "sophia")
  with sampling.open_store(run, read_only=True) as store:
    examples = [
      example
      for group in sampling.groups(run, store)
      for example in sophia.credit(
        sampling.tree(group), config, prompts.slow_thinking, prompts.caption
      )
    ]
  if not examples:
    raise SophiaError(
      f"{run.workdir / 'trajectories'}: no trajectory is selected; sample "
      "more, lower config.sophia.alpha, or warm the policy up for longer"
    )
  return examples
