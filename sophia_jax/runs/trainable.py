"""Whether a stage's update can be made here, found out before it is paid for.

Sampling comes before the update and costs the most: a part that the model does
not have, a mesh of other devices or rows too short for any prompt would be found
when the samples are there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from sophia_jax.checkpoints.config import read_config
from sophia_jax.data.chat import Renderer
from sophia_jax.models import InternVLConfig, lora
from sophia_jax.runs import stage as stages
from sophia_jax.runs import training
from sophia_jax.runs.run import Run, for_topology
from sophia_jax.runs.stage import Stage
from sophia_jax.train import sharding
from sophia_jax.types import Problem, SophiaError


def check(run: Run, stage: Stage) -> None:
  """Refuses an update that the model or the devices do not provide for.

  Raises:
    SophiaError: names the setting.
  """
  if not stage.learns or run.done(stage.name):
    return
  cfg = _config(run, stage)
  if cfg:
    _check_parts(cfg, stage)
  # A server that is started on this machine needs devices which this process
  # would take as soon as it counted them.
  if not _serves(run):
    _check_devices(run, stage, cfg)


def check_rows(
  run: Run, stage: Stage, problems: Sequence[Problem], words: Renderer
) -> None:
  """Refuses batches that have room for no prompt.

  Raises:
    SophiaError: names what the first prompt needs.
  """
  system = run.config.prompts.slow_thinking
  config = _laid_out(run)
  train = stages.read(config, stage.name).train
  shards = config.packing.get("shards", 1)
  first = None
  for problem in problems:
    prompt = words.prompt(problem.text, problem.images, system)
    tiles = sum(prompt.tiles)
    if len(prompt) < train.length and tiles <= train.tiles // shards:
      return
    first = first or (problem.id, len(prompt), tiles)
  if first:
    name, tokens, tiles = first
    raise SophiaError(
      f"config.stages.{stage.name}.train: length={train.length} and "
      f"tiles={train.tiles} (packing.shards={shards}) have room for no prompt: "
      f"{name} needs {tokens} tokens, its answer more, and {tiles} tiles of a "
      "shard"
    )


def _laid_out(run: Run) -> ConfigDict:
  """Returns the config on the topology that it names, without looking for one."""
  name = run.config.get("topology")
  return for_topology(run.config, name, run.overrides) if name else run.config


def _config(run: Run, stage: Stage) -> InternVLConfig | None:
  """Returns the config of the model that learns; None where it is not there
  yet."""
  found = [run.start(stage)]
  if stage.config.model == "policy":  # a stage changes no architecture
    found.append(run.path(run.config.policy.path))
  return next((read_config(path) for path in found if path.is_dir()), None)


def _check_parts(cfg: InternVLConfig, stage: Stage) -> None:
  """Refuses trained parts and adapters that the model has no place for."""
  train, key = stage.train, f"config.stages.{stage.name}.train"
  parts = ("vision", "projector", "language") if cfg.vision else ("language",)
  for part in train.trained:
    if part not in parts:
      raise SophiaError(
        f"{key}.trained: no part {part!r}; this model has {', '.join(parts)}"
      )
  if train.lora:
    try:
      lora.kernels(cfg, train.lora)
    except ValueError as e:
      raise SophiaError(f"{key}.trained, {key}.lora_targets: {e}") from e


def _check_devices(run: Run, stage: Stage, cfg: InternVLConfig | None) -> None:
  """Refuses a mesh of other devices, and batches that do not divide among them."""
  run = run.laid_out()
  train = stages.read(run.config, stage.name).train
  mesh = sharding.make_mesh(run.section(sharding.MeshConfig, "mesh"))
  tiles = train.tiles if cfg and cfg.vision else 0
  sharding.check_shape(train.rows, train.length, tiles, mesh)
  if cfg:
    training.shape_of(run, train, cfg, mesh)


def _serves(run: Run) -> bool:
  """Returns whether the run may start a server on this machine."""
  models = [run.config.policy, *run.config.reasoners.values()]
  return any(
    model.get("engine", "embedded") != "embedded" and not model.get("urls")
    for model in models
  )
