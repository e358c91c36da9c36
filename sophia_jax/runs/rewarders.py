"""Reward models of a stage: earlier stages' models, with their heads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from sophia_jax.checkpoints import heads
from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.data.images import ImageConfig
from sophia_jax.models import Params
from sophia_jax.runs import policies
from sophia_jax.runs import stage as stages
from sophia_jax.runs.policies import Model
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train import outputs, sharding
from sophia_jax.train.annotate import Scorer
from sophia_jax.types import SophiaError


def check(run: Run, stage: Stage) -> None:
  """Finds mistakes in the stages that a method takes its reward models from.

  A model that is there already is compared with the policy.

  Raises:
    SophiaError: a name is no earlier stage with the heads that are read, or its
      model has another tokenizer.
  """
  order = list(run.config.order)
  before = order[: order.index(stage.name)]
  for name, wanted in stage.algorithm.rewarders.items():
    key = f"config.stages.{stage.name}.rewards"
    if name not in before:
      raise SophiaError(
        f"{key}: {name!r} is no stage before {stage.name!r} in config.order; "
        "name one that trains a reward model"
      )
    made = stages.read(run.config, name).algorithm.outputs
    if lacking := [head for head in wanted if head not in made]:
      raise SophiaError(
        f"{key}: the stage {name!r} trains no head {lacking[0]!r}; train it "
        f"(config.stages.{name}.kinds), or set its weight to 0"
      )
    if directory(run, name).is_dir() and run.start(stage).is_dir():
      _check_words(run, stage, name)


def _check_words(run: Run, stage: Stage, name: str) -> None:
  """Raises SophiaError if a reward model reads other ids than the policy."""
  image = run.section(ImageConfig, "images")
  (cfg, own), (other, theirs) = (
    policies.load_words(path, image)
    for path in (run.start(stage), directory(run, name))
  )
  same = own.vocabulary.table == theirs.vocabulary.table
  if not same or cfg.tokens_per_tile != other.tokens_per_tile:
    raise SophiaError(
      f"{directory(run, name)}: the reward model's tokenizer is not that of the "
      f"policy in {run.start(stage)}; train the stage {name!r} from a model of "
      "the policy's family"
    )


def save(run: Run, stage: Stage, params: Params) -> None:
  """Writes the heads of a reward model beside its export; nothing without any."""
  names = [n for n in outputs.CLASSES if n in stage.algorithm.outputs]
  if names:
    made = {name: params[outputs.PART][name] for name in names}
    heads.save(made, run.directory(stage.name))


def directory(run: Run, name: str) -> Path:
  """Returns the checkpoint of a reward model; its heads are beside it."""
  return run.directory(name) / "export"


def identity(run: Run, stage: Stage) -> dict[str, Any]:
  """Returns what the rewards of a stage depend on; {} without reward models."""
  found = {
    name: [
      fingerprint(directory(run, name)),
      fingerprint(directory(run, name).parent),
    ]
    for name in stage.algorithm.rewarders
  }
  return {"rewarders": found} if found else {}


def opened(run: Run, stage: Stage, mesh: Mesh) -> dict[str, Scorer]:
  """Reads the reward models of a stage onto the mesh, by their names.

  To be called before its session is entered.

  Raises:
    SophiaError: one is not there, is damaged, or reads other ids than the policy.
  """
  made: dict[str, Scorer] = {}
  for name, wanted in stage.algorithm.rewarders.items():
    _check_words(run, stage, name)
    model = policies.load_policy(run, directory(run, name))
    own = heads.load(
      directory(run, name).parent,
      model.module.cfg.decoder.width,
      {head: outputs.HEADS[head] for head in wanted},
    )
    axes = dict.fromkeys(own, outputs.AXES)
    params = {
      **policies.weights(model, mesh),
      outputs.PART: sharding.place(own, axes, mesh),
    }
    made[name] = Scorer(model.module, params)
  return made


def critic_start(run: Run, stage: Stage, policy: Model) -> Model:
  """Returns the model whose weights a stage's critic starts from."""
  name = stage.algorithm.critic_start
  if not name:
    return policy
  found = policies.load_policy(run, directory(run, name))
  return dataclasses.replace(found, renderer=policy.renderer)
