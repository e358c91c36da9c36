"""The loop: batches in, parameters out; killed at any moment, it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from sophia_jax.algorithms.losses import Term
from sophia_jax.data.loader import Loader
from sophia_jax.train import sharding
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.metrics import MetricsFile
from sophia_jax.train.optimizer import OptimizerConfig, make_optimizer
from sophia_jax.train.state import Params, create, layout
from sophia_jax.train.step import jit_train_step, make_train_step
from sophia_jax.types import Batch

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


class Preempted(Exception):
  """SIGTERM arrived; the state is saved."""


def fit(
  model: nn.Module,
  params: Params,
  loader: Loader,
  terms: Sequence[Term],
  config: TrainConfig,
  directory: Path,
  identity: dict[str, Any],
  mesh: jax.sharding.Mesh,
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
    state = create(params, tx, config.trained)
    batches = iter(loader)
    if restored := checkpoints.restore(state):
      state, loader_state = restored
      batches.set_state(loader_state)
      _log.info("resumed at update %d", int(state.step))
    done = int(state.step)
    metrics = MetricsFile(directory / "metrics.jsonl", done, loader.steps)
    where = layout(state)
    step = jit_train_step(
      make_train_step(model, terms, tx, where, config.block), where
    )
    with _sigterm() as arrived:
      for batch, waited in _timed(batches):
        state, values = step(state, sharding.to_mesh(batch, mesh))
        metrics.add(values, waited)
        done += 1
        stop = arrived.is_set()
        save = stop or done == loader.steps
        save = save or done % config.checkpoint_every == 0
        # Before the checkpoint: it must neither outlive the rows of its updates
        # nor hold what came of a loss that is not finite.
        if save or done % config.log_every == 0:
          metrics.flush()
        if save:
          checkpoints.save(state, batches.get_state())
        if stop:
          raise Preempted(f"saved update {done} in {directory}")
  metrics.close()
  return state.model_params


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
  """Each batch with the seconds that were waited for it."""
  start = time.perf_counter()
  for batch in batches:
    yield batch, time.perf_counter() - start
    start = time.perf_counter()


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
  """An event that SIGTERM sets, instead of ending the process at once."""
  arrived = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield arrived  # only the main thread may set handlers
    return
  before = signal.signal(signal.SIGTERM, lambda *_: arrived.set())
  try:
    yield arrived
  finally:
    signal.signal(signal.SIGTERM, before)
