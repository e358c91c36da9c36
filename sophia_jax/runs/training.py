"""An update from a run's config: the loader of its sequences, the mesh, `fit`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sophia_jax.algorithms.contract import Algorithm, Term
from sophia_jax.config import section
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.mixture import MixtureConfig, Sequences
from sophia_jax.data.packing import PackConfig
from sophia_jax.files import write_text
from sophia_jax.hosts import meeting
from sophia_jax.models import InternVLConfig, Params
from sophia_jax.runs.policies import Model, weights
from sophia_jax.runs.run import Run, one_microbatch
from sophia_jax.train import sharding
from sophia_jax.train.loop import fit
from sophia_jax.train.session import Session, TrainConfig
from sophia_jax.train.trackers import LogConfig


def train(
  run: Run,
  model: Model,
  sequences: Sequences | Mapping[str, Sequences],
  algorithm: Any,
  config: TrainConfig,
  directory: Path,
  mixture: MixtureConfig | None = None,
  **identity: Any,
) -> Params:
  """Trains `model` on `sequences`; resumes from `directory`/checkpoints.

  What the batches are made of is written to `directory`/input.json.

  Args:
    sequences: what to learn; several sources by their names.
    mixture: amounts of the named sources; None: all of each, once an epoch.
    identity: what else a restart may not change, kept in every checkpoint.
  """
  meeting.check_alone()
  mesh = sharding.make_mesh(run.section(sharding.MeshConfig, "mesh"))
  index, count = sharding.own_slice(mesh)
  loader = Loader(
    sequences,
    _packing(run, config, config.tiles if model.module.cfg.vision else 0),
    _order(run, config, model.image.tile_size),
    Reading(
      streams=tuple(algorithm.STREAMS),
      tokens_per_tile=model.module.cfg.tokens_per_tile,
      image=model.image,
      slice_index=index,
      slices=count,
    ),
    amounts=mixture.amounts if mixture else None,
    by=mixture.by if mixture else "epochs",
  )
  meeting.assert_same(
    f"data of {directory}",
    loader.identity,
    "every host must see the same files under the same names",
  )
  if meeting.is_leader():
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "input.json", json.dumps(loader.summary(), indent=1))
  with Session(
    model.module,
    weights(model, mesh, config.trained),
    Algorithm(terms=tuple(map(_term, algorithm.TERMS))),
    config,
    directory,
    {**_identity(model.module.cfg, config), "seed": run.seed, **identity},
    mesh,
    updates=loader.steps,
    log=run.section(LogConfig, "log"),
  ) as session:
    return fit(session, loader)


def _term(old: Any) -> Term:
  """Returns a term of algorithms.legacy as one of the contract."""
  return Term(
    old.name,
    lambda out, batch: old.loss(out.logps, batch.streams),
    weights=old.weights,
    normaliser=old.normaliser,
  )


def _identity(cfg: InternVLConfig, config: TrainConfig) -> dict[str, Any]:
  """What of model and stage a restart may not change: not how they are laid out."""
  stage = dataclasses.asdict(config)
  return {
    "model": dataclasses.asdict(
      dataclasses.replace(cfg, remat="none", attention="auto")
    ),
    "optimizer": {**stage, **one_microbatch(stage)},
  }


def _packing(run: Run, config: TrainConfig, tiles: int) -> PackConfig:
  """The shape is the stage's own, how it is filled is the run's."""
  packing = run.config.get("packing")
  values = {
    **(packing.to_dict() if packing else {}),
    "rows": config.rows,
    "length": config.length,
    "tile_budget": tiles,
    "microbatches": config.microbatches,
  }
  return section(PackConfig, values, "packing")


def _order(run: Run, config: TrainConfig, side: int) -> LoaderConfig:
  """Batches kept ready: 2 to 16, in about 1 GiB.

  Steps are dispatched without waiting for the device, so the loop asks for
  several batches at once whenever it has stood still to write its metrics.
  """
  pixels = config.tiles * side * side * 3
  batch = config.microbatches * (pixels + config.rows * config.length * 32)
  prefetch = max(2, min(16, (1 << 30) // batch))
  return LoaderConfig(epochs=config.epochs, seed=run.seed, prefetch=prefetch)
