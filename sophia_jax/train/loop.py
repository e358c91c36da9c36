"""The loop: batches in, parameters out; killed at any moment, it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils

from sophia_jax.algorithms.legacy.losses import Term
from sophia_jax.data.loader import Loader, LoaderIterator
from sophia_jax.models import InternVL
from sophia_jax.train import sharding
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.metrics import MetricsFile, NotFinite, utilisation
from sophia_jax.train.optimizer import OptimizerConfig, make_optimizer
from sophia_jax.train.state import Params, TrainState, create, layout
from sophia_jax.train.step import jit_train_step, make_train_step
from sophia_jax.train.trackers import LogConfig, trackers
from sophia_jax.types import Batch, SophiaError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainConfig(OptimizerConfig):
  """One training stage: what is trained, on which batches, for how long."""

  trained: tuple[str, ...] = ("language",)
  """Parts of the model; the paper trains the language backbone (Table 4)."""
  epochs: int = 1
  rows: int = 8
  """Rows of a microbatch, over all devices."""
  length: int = 4096
  """Tokens of a row."""
  tiles: int = 16
  """Tiles of a microbatch."""
  microbatches: int = 1
  """Accumulated into one update."""
  block: int = 1024
  """Tokens whose logits exist at the same time."""
  checkpoint_every: int = 500
  keep: int = 2
  log_every: int = 20


NO_LOG = LogConfig(tensorboard=False)


class Preempted(Exception):
  """SIGTERM arrived; the state is saved."""


def fit(
  model: InternVL,
  params: Params,
  loader: Loader,
  terms: Sequence[Term],
  config: TrainConfig,
  directory: Path,
  identity: dict[str, Any],
  mesh: jax.sharding.Mesh,
  log: LogConfig = NO_LOG,
) -> Params:
  """Trains to the end of the loader, from the newest checkpoint if there is one.

  Writes `directory`/checkpoints and one line per update to
  `directory`/metrics.jsonl.

  Returns:
    All parameters of the model.

  Raises:
    SophiaError: the loss is not finite, the checkpoint is another run's, or a
      batch does not divide among the devices.
    Preempted: SIGTERM arrived; everything is saved, a restart goes on.
  """
  shape = loader.packing
  sharding.check_shape(shape.rows, shape.length, shape.tile_budget, mesh)
  tx = make_optimizer(config, loader.steps)
  checkpoints = Checkpoints(directory / "checkpoints", config.keep, identity)
  with (
    contextlib.closing(checkpoints),
    jax.set_mesh(mesh),
    nn.logical_axis_rules(sharding.RULES),
  ):
    state, batches = _resumed(
      create(params, tx, config.trained), iter(loader), checkpoints
    )
    done, where = int(state.step), layout(state)
    step = jit_train_step(
      make_train_step(model, terms, tx, where, config.block), where
    )
    with (
      _reporting(model, loader, config, directory, log, done) as metrics,
      _profiling(directory, log) as profile,
      _sigterm() as arrived,
    ):
      for batch in _waited_for(batches, metrics):
        state, values = step(state, sharding.to_mesh(batch, mesh))
        metrics.add(values)
        done += 1
        profile(done, state)
        stop, last = arrived(done), done == loader.steps
        save = stop or last or done % config.checkpoint_every == 0
        # Before the checkpoint: it must neither outlive the rows of its updates
        # nor hold what came of a loss that is not finite.
        if save or done % config.log_every == 0:
          metrics.flush()
        if save:
          with metrics.waiting("checkpoint_wait"):
            checkpoints.save(state, batches.get_state())
        if stop:
          raise Preempted(f"saved update {done} in {directory}")
  return state.model_params


def _resumed(
  state: TrainState, batches: LoaderIterator, checkpoints: Checkpoints
) -> tuple[TrainState, LoaderIterator]:
  """Where the newest checkpoint stands, if there is one."""
  if restored := checkpoints.restore(state):
    state, loader_state = restored
    batches.set_state(loader_state)
    _log.info("resumed at update %d", int(state.step))
  return state, batches


def _waited_for(
  batches: Iterator[Batch], metrics: MetricsFile
) -> Iterator[Batch]:
  while True:
    with metrics.waiting("input_wait"):
      batch = next(batches, None)
    if batch is None:
      return
    yield batch


@contextlib.contextmanager
def _reporting(
  model: InternVL,
  loader: Loader,
  config: TrainConfig,
  directory: Path,
  log: LogConfig,
  done: int,
) -> Iterator[MetricsFile]:
  """The metrics of a run; the rows after which a loss is not finite are saved."""
  shape = loader.packing
  places = shape.microbatches * shape.rows * shape.length
  metrics = MetricsFile(
    directory / "metrics.jsonl",
    done,
    loader.steps,
    trackers(directory, log, done) if jax.process_index() == 0 else (),
    utilisation(model.cfg, config.trained, places),
  )
  with contextlib.closing(metrics):
    try:
      yield metrics
    except NotFinite as e:
      batch = dataclasses.asdict(loader[e.update - 1])
      share = f"-{jax.process_index()}" if jax.process_count() > 1 else ""
      path = directory / f"update-{e.update}{share}.npz"
      np.savez_compressed(path, **batch.pop("streams"), **batch)
      raise SophiaError(f"{e}, which is in {path}") from e


@contextlib.contextmanager
def _profiling(
  directory: Path, log: LogConfig
) -> Iterator[Callable[[int, TrainState], None]]:
  """Takes a jax.profiler trace of the updates that `log` names."""
  first, last = log.profile_at, log.profile_at + log.profile_updates

  def after(update: int, state: TrainState) -> None:
    if not first or update not in (first, last):
      return
    jax.block_until_ready(state.step)
    if update == first:
      jax.profiler.start_trace(directory / "profile")
      stack.callback(jax.profiler.stop_trace)
    else:
      stack.close()
      _log.info("profile of updates %d to %d: %s", first + 1, last, directory)

  with contextlib.ExitStack() as stack:
    yield after


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
  """Whether to stop after an update, since SIGTERM arrived.

  Several processes agree on the update: the notice of one stops all.
  """
  if jax.process_count() > 1:  # jax.distributed has a handler of its own
    yield multihost_utils.reached_preemption_sync_point
    return
  arrived = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield lambda _: arrived.is_set()  # only the main thread may set handlers
    return
  before = signal.signal(signal.SIGTERM, lambda *_: arrived.set())
  try:
    yield lambda _: arrived.is_set()
  finally:
    signal.signal(signal.SIGTERM, before)
