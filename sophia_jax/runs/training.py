"""The update of a stage over data that are there: examples, or a whole store."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from sophia_jax.algorithms.contract import Algorithm, Term
from sophia_jax.checkpoints import adapters
from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.config import decisive, section
from sophia_jax.data.images import TileCache
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.mixture import MixtureConfig, Sequences
from sophia_jax.data.packing import PackConfig
from sophia_jax.files import write_json
from sophia_jax.hosts import meeting
from sophia_jax.models import InternVLConfig, Params, QwenVisionConfig, lora
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import policies, rewarders, sources, teachers
from sophia_jax.runs.policies import Model, RuntimeConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train import outputs, sharding
from sophia_jax.train.annotate import Scorer
from sophia_jax.train.average import Follower
from sophia_jax.train.loop import fit
from sophia_jax.train.session import Session, TrainConfig
from sophia_jax.train.state import copied
from sophia_jax.train.trackers import LogConfig
from sophia_jax.types import SophiaError

_log = logging.getLogger("sophia_jax")
POLICY, REFERENCE, CRITIC = "policy", "reference", "critic"
AVERAGE = "average"
ADAPTER = "adapter"
"""Directory of a stage's adapters in PEFT's format."""


def learn(run: Run, stage: Stage) -> None:
  """Trains a stage on its data and exports the result.

  Writes `directory`/checkpoints, metrics.jsonl and export; what the batches are
  made of is in input.json, and what the filters dropped in filters.json.

  Raises:
    SophiaError: there is nothing to learn; says why.
    Preempted: SIGTERM arrived; a restart resumes.
  """
  meeting.check_alone()
  model = opened(run, stage)
  mesh = sharding.make_mesh(run.section(sharding.MeshConfig, "mesh"))
  sequences = sources.of_stage(run, stage, model)
  how = reading(stage, model, mesh)
  loader = _loader(run, stage, model, mesh, sequences, how)
  directory = run.directory(stage.name)
  meeting.assert_same(
    f"data of {directory}",
    loader.identity,
    "every host must see the same files under the same names",
  )
  if meeting.is_leader():
    summary = loader.summary()
    write_json(directory / "input.json", summary)
    say_tiles(stage, summary["suggested_tile_budget"])
  names = POLICY, REFERENCE
  starts = references(stage, model, mesh, names)
  starts |= rewarders.opened(run, stage, mesh)
  with session(run, stage, model, mesh, loader.steps) as trainer:
    starts |= unadapted(stage, trainer, names)
    if stage.algorithm.annotate:
      sequences = {
        name: trainer.annotate(
          list(own),  # type: ignore[call-overload]
          packing(run, stage, model, mesh),
          how,
          starts,
        )
        for name, own in sequences.items()
      }
      loader = _loader(run, stage, model, mesh, sequences, how)
    params = fit(trainer, loader)
  export(run, stage, model, params)


def say_tiles(stage: Stage, suggested: int) -> None:
  """Logs the tile budget that the data suggest, where it is a smaller one.

  Args:
    suggested: tiles of a microbatch; 0: the data have no images.
  """
  if stage.train.tiles > suggested > 0:
    _log.info(
      "the data need %d tiles a microbatch, not %d: a smaller "
      "config.stages.%s.train.tiles saves time and memory",
      *(suggested, stage.train.tiles, stage.name),
    )


# ----------------------------------------------------------------- model, session
def opened(run: Run, stage: Stage) -> Model:
  """Opens the checkpoint that a stage starts from."""
  start = run.start(stage)
  if stage.config.model == POLICY:
    return policies.load_policy(run, start)
  return policies.load_reasoner(run, start)


def export_directory(run: Run, stage: Stage) -> Path:
  """Returns where a stage's result is written as a checkpoint."""
  if stage.config.model == POLICY:
    return run.directory(stage.name) / "export"
  return run.workdir / run.config.reasoners[stage.config.model].path


def export(run: Run, stage: Stage, model: Model, params: Params) -> None:
  """Writes a stage's result; a critic's head stays in checkpoints.

  The system prompt that a policy was trained under is its template's default:
  that of slow thinking where it learns from samples. Heads of a reward model are
  written beside it; adapters are merged, and beside it in PEFT's format.
  """
  system = None
  if stage.config.model == POLICY:
    thinking = run.config.prompts.slow_thinking
    system = thinking if stage.samples else model.renderer.default_system
  policies.export(model, served(params), export_directory(run, stage), system)
  rewarders.save(run, stage, params)
  if how := stage.train.lora:
    adapters.save(
      params[lora.PART],
      how,
      model.module.cfg,
      run.directory(stage.name) / ADAPTER,
      str(run.start(stage)),
    )


def for_engine(trainer: Session) -> Params:
  """Returns the model's current parameters, valid for as long as they are held.

  In the dtype of the computation, to which a model rounds a weight wherever it
  uses one: an engine reads all of them for every token.
  """
  dtype = trainer.module.cfg.dtype
  return {
    part: copied(tree, dtype) if part in trainer.trained else tree
    for part, tree in served(trainer.model_params).items()
  }


def served(params: Params) -> Params:
  """Returns the parameters of the model itself: adapters merged, no critic's
  head."""
  merged = lora.merge(params)
  return {part: tree for part, tree in merged.items() if part != outputs.PART}


def session(
  run: Run,
  stage: Stage,
  model: Model,
  mesh: Mesh,
  updates: int,
  watched: Sequence[Term] = (),
) -> Session:
  """Makes the session of a stage's model, not entered yet.

  Args:
    watched: terms whose values it has of every target of an update.
  """
  return _session(
    run, stage, model, mesh, updates, stage.algorithm, watched=watched
  )


def _session(
  run: Run,
  stage: Stage,
  model: Model,
  mesh: Mesh,
  updates: int,
  algorithm: Algorithm,
  inside: str = "",
  role: str = "actor",
  watched: Sequence[Term] = (),
) -> Session:
  """Makes a session that starts from the stage's weights.

  Args:
    inside: folder of the stage's directory that it writes to.
  """
  return Session(
    model.module,
    _weights(run, stage, model, mesh),
    algorithm,
    stage.train,
    run.directory(stage.name) / inside,
    {"model": _architecture(model), **identity(run, stage)},
    mesh,
    updates=updates,
    log=run.section(LogConfig, "log"),
    role=role,
    watched=watched,
  )


def _weights(run: Run, stage: Stage, model: Model, mesh: Mesh) -> Params:
  """Returns the parameters a stage starts from, with its adapters if it trains
  some."""
  params = policies.weights(model, mesh, stage.train.changed)
  how = stage.train.lora
  if how is None:
    return params
  start = _adapter_start(run, stage)
  return params | policies.adapters(model, mesh, how, run.seed, start)


def _adapter_start(run: Run, stage: Stage) -> Path | None:
  start = stage.train.lora_start
  return run.path(start) if start else None


def critic_sessions(
  run: Run, stage: Stage, model: Model, mesh: Mesh, updates: int
) -> list[Session]:
  """Makes the session of a critic with separate weights, if the method has one.

  It starts from the weights that the policy starts from, or from a reward model's,
  and is not entered yet. A critic that is ahead of its policy after a kill goes
  back to it: give it the policy's `step` as its `limit` before it is entered.
  """
  critic = stage.algorithm.critic
  if critic is None:
    return []
  start = rewarders.critic_start(run, stage, model)
  return [_session(run, stage, start, mesh, updates, critic, CRITIC, CRITIC)]


def averages(run: Run, stage: Stage, trainer: Session) -> list[Follower]:
  """Makes the copy that follows a stage's policy, if the method has one.

  Args:
    trainer: the policy's session, entered.
  """
  if stage.algorithm.average is None:
    return []
  return [Follower(trainer, stage.algorithm.average, identity(run, stage))]


def references(
  stage: Stage, model: Model, mesh: Mesh, names: tuple[str, ...]
) -> dict[str, Scorer]:
  """Returns those of the named models that the method scores with.

  They have the weights that the stage starts from; to be called before its
  session is entered. Where it trains adapters there are none (`unadapted`).
  """
  wanted = [name for name in names if name in stage.algorithm.models]
  if not wanted or stage.train.lora:
    return {}
  start = Scorer(model.module, policies.weights(model, mesh))
  return dict.fromkeys(wanted, start)


def unadapted(
  stage: Stage, trainer: Session, names: tuple[str, ...]
) -> dict[str, Scorer]:
  """Returns those of the named models that are the session's without adapters.

  They take no memory; {} where the stage trains none.
  """
  if stage.train.lora is None:
    return {}
  wanted = [name for name in names if name in stage.algorithm.models]
  return dict.fromkeys(wanted, trainer.unadapted())


def _architecture(model: Model) -> dict[str, Any]:
  """Returns the model's config without what does not change its results."""
  cfg = model.module.cfg
  return dataclasses.asdict(
    dataclasses.replace(cfg, remat="none", attention="auto")
  )


def identity(run: Run, stage: Stage) -> dict[str, Any]:
  """Returns what the result of a stage depends on, content and never paths.

  It is kept in every checkpoint; a resumed or repeated run must agree with it.
  How the update is laid out on devices is no part of it.
  """
  adapter = _adapter_start(run, stage)
  train = {
    **decisive(stage.train),
    **_one_microbatch(dataclasses.asdict(stage.train)),
  }
  return {
    "seed": run.seed,
    "stage": decisive(stage.config),
    "method": decisive(stage.method),
    "train": train,
    "policy": decisive(run.section(RuntimeConfig, "policy")),
    "prompts": dataclasses.asdict(run.section(Prompts, "prompts")),
    "start": fingerprint(run.start(stage)),
    **teachers.identity(run, stage),
    **rewarders.identity(run, stage),
    "adapter": adapter and fingerprint(adapter),
  }


# --------------------------------------------------------------------------- data
def packing(run: Run, stage: Stage, model: Model, mesh: Mesh) -> PackConfig:
  """Returns the shape of a stage's batches; see `shape_of`."""
  return shape_of(run, stage.train, model.module.cfg, mesh)


def shape_of(
  run: Run, train: TrainConfig, cfg: InternVLConfig, mesh: Mesh
) -> PackConfig:
  """Returns a stage's own shape, filled as the run says.

  Raises:
    SophiaError: it does not divide among the shards, or an image could be spread
      over devices, which Qwen2.5-VL's encoder does not do.
  """
  values = {
    **run.config.packing.to_dict(),
    "rows": train.rows,
    "length": train.length,
    "tile_budget": train.tiles if cfg.vision else 0,
    "microbatches": train.microbatches,
  }
  shape = section(PackConfig, values, "packing")
  devices = mesh.shape["data"] * mesh.shape["fsdp"]
  if isinstance(cfg.vision, QwenVisionConfig) and shape.shards % devices:
    raise SophiaError(
      f"config.packing.shards={shape.shards} with Qwen2.5-VL: make it a multiple "
      f"of {devices}, the devices that share the rows (data x fsdp)"
    )
  return shape


def reading(stage: Stage, model: Model, mesh: Mesh) -> Reading:
  """Returns how rows become arrays, and this process's slice of them.

  Loaders with the same reading decode an image once.
  """
  index, count = sharding.own_slice(mesh)
  return Reading(
    streams=stage.algorithm.all_streams,
    tokens_per_tile=model.module.cfg.tokens_per_tile,
    image=model.image,
    slice_index=index,
    slices=count,
    tiles=TileCache(model.image),
  )


def prefetched(stage: Stage, model: Model) -> int:
  """Returns the batches kept ready: 2 to 16, in about 1 GiB.

  Steps are dispatched without waiting for the device, so the loop asks for
  several batches at once whenever it has stood still to write its metrics.
  """
  train, side = stage.train, model.image.tile_size
  pixels = train.tiles * side * side * 3
  batch = train.microbatches * (pixels + train.rows * train.length * 32)
  return max(2, min(16, (1 << 30) // batch))


def order_seed(run: Run, stage: Stage) -> int:
  """Returns the seed of the order in which a stage learns its sequences."""
  return run.seed + (stage.train.order << 32)


def _loader(
  run: Run,
  stage: Stage,
  model: Model,
  mesh: Mesh,
  sequences: Mapping[str, Sequences],
  how: Reading,
) -> Loader:
  mixture = run.section(MixtureConfig, "mixture")
  mixed = "visual" in sequences
  return Loader(
    sequences,
    packing(run, stage, model, mesh),
    LoaderConfig(
      epochs=stage.train.epochs,
      batches=stage.train.updates,
      seed=order_seed(run, stage),
      prefetch=prefetched(stage, model),
    ),
    how,
    amounts=mixture.amounts if mixed else None,
    by=mixture.by if mixed else "epochs",
  )


def _one_microbatch(stage: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a stage says of its shape, for all of a batch at once."""
  count = stage["microbatches"]
  each = {name: stage[name] * count for name in ("rows", "tiles")}
  return {**each, "microbatches": 1}
