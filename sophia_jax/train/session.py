"""A training session: state, step, checkpoints, metrics, profile, SIGTERM.

Drivers decide which batches come when: `train.loop.fit` walks a loader,
`runs.rounds` samples in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import flax.linen as nn
import jax
from jax.experimental import multihost_utils

from sophia_jax import stopping
from sophia_jax.algorithms.contract import Algorithm, Annotator, Moment, Term
from sophia_jax.config import free
from sophia_jax.data.loader import Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.models import InternVL, lora
from sophia_jax.train import annotate, outputs, sharding
from sophia_jax.train.annotate import Scorer
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.metrics import MetricsFile, utilisation
from sophia_jax.train.optimizer import (
  OptimizerConfig,
  learning_rate,
  make_optimizer,
)
from sophia_jax.train.state import Params, TrainState, copied, create, layout
from sophia_jax.train.step import Step, Tokens, scalars
from sophia_jax.train.trackers import LogConfig, trackers
from sophia_jax.types import Batch, TokenSequence

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainConfig(OptimizerConfig):
  """One training stage: what is trained, on which batches, for how long."""

  trained: tuple[str, ...] = ("language",)
  """Trained parts of the model; the paper's: the language backbone (Table 4)."""
  lora_rank: int = 0
  """Rank of the adapters that are trained beside the frozen parts `trained`; 0:
  the parts themselves are trained."""
  lora_alpha: float = 32.0
  """Scale of what the adapters add, times their rank."""
  lora_targets: tuple[str, ...] = ("attn", "mlp")
  """Linear maps with adapters: names ("q", "k", "v", "o", "gate", "up", "down")
  or the blocks that hold them."""
  lora_start: str = free("")
  """Directory of adapters in PEFT's format to start from; "": fresh ones."""
  epochs: int = 1
  """Passes over the data."""
  updates: int = 0
  """Updates of a stage that learns once, of as many passes as they take: stages
  of different data are compared at equal cost; 0: `epochs` passes."""
  order: int = 0
  """Seed of the order of the sequences, beside the run's own seed: two updates
  from the same samples that differ in nothing else show the noise. Rounds sample
  alike until their first update."""
  rows: int = 8
  """Rows of a microbatch, over all devices."""
  length: int = 4096
  """Tokens of a row."""
  tiles: int = 16
  """Tiles of a microbatch."""
  microbatches: int = 1
  """Microbatches of a full update."""
  block: int = free(1024)
  """Tokens of a row whose logits exist at the same time."""
  checkpoint_every: int = free(500)
  """Updates between checkpoints of a stage that learns once; a stage of rounds
  writes one after each round."""
  keep: int = free(2)
  """Checkpoints kept."""
  log_every: int = free(20)
  """Updates between writes of the metrics."""

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in (
      *("epochs", "rows", "length", "microbatches", "block"),
      *("checkpoint_every", "keep", "log_every"),
    ):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 1 or more")
    if not self.trained:
      raise ValueError("trained is empty; name a part, such as language")
    if self.lora_rank < 0 or self.lora_alpha <= 0:
      raise ValueError(
        f"lora_rank is {self.lora_rank} and lora_alpha {self.lora_alpha}; use 0 "
        "or more, and more than 0"
      )

  @property
  def lora(self) -> lora.Lora | None:
    """Returns the adapters that are trained; None where parts are."""
    if not self.lora_rank:
      return None
    return lora.Lora(
      rank=self.lora_rank,
      alpha=self.lora_alpha,
      parts=self.trained,
      targets=self.lora_targets,
    )

  @property
  def changed(self) -> tuple[str, ...]:
    """Returns the parts of the parameters that updates change."""
    return (lora.PART,) if self.lora_rank else self.trained


NO_LOG = LogConfig(tensorboard=False)


class Session:
  """One model in training; a context manager.

  Continues from the newest checkpoint in `directory`/checkpoints if there is
  one, and writes a line per update to `directory`/metrics.jsonl.
  """

  def __init__(
    self,
    model: InternVL,
    params: Params,
    algorithm: Algorithm,
    config: TrainConfig,
    directory: Path,
    identity: dict[str, Any],
    mesh: jax.sharding.Mesh,
    *,
    updates: int,
    log: LogConfig = NO_LOG,
    role: str = "actor",
    watched: Sequence[Term] = (),
  ):
    """Prepares a session; entering it makes the state.

    Args:
      params: parameters on the mesh, with the adapters that `config` asks for
        (`models.lora.attach`). Those that it trains belong to the session from
        now on: an update donates them (`state.copied`).
      algorithm: its terms, metrics, outputs and annotators.
      identity: what a resumed run may not change, kept in every checkpoint.
      updates: updates of the whole run, for the learning rate's schedule and
        the progress bar; a run of rounds may estimate it.
      role: "actor" or "critic", in the names of metrics.
      watched: terms whose values at every target are in `tokens`.

    Raises:
      SophiaError: a batch does not divide among the devices.
    """
    tiles = config.tiles if model.cfg.vision else 0
    sharding.check_shape(config.rows, config.length, tiles, mesh)
    self.directory, self.updates, self.config = directory, updates, config
    self.step = 0
    """Updates made."""
    self.cursor: dict[str, Any] = {}
    """Cursor of the driver in the newest checkpoint; {} without one."""
    self.tokens: list[Tokens] = []
    """Watched values of the last update, by microbatch, on the devices."""
    self._model, self._algorithm, self._mesh = model, algorithm, mesh
    self._identity, self._log_config, self._role = identity, log, role
    self._watched = watched
    self.limit: int | None = None
    """Largest number of updates that is restored; None: any. A critic must not
    be ahead of its policy."""
    self._params = params
    self._extra: dict[str, float] = {}
    self._values: Mapping[str, Any] = {}
    self._compiled = False

  def __enter__(self) -> Self:
    with contextlib.ExitStack() as stack:
      self._open(stack)
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error: Any) -> None:
    with self._stack:
      if error[0] is None:
        self._metrics.flush()

  def _open(self, stack: contextlib.ExitStack) -> None:
    """Restores or makes the state, and opens what is closed at the end."""
    config, directory = self.config, self.directory
    self._checkpoints = Checkpoints(
      directory / "checkpoints", config.keep, self._identity, self.limit
    )
    stack.enter_context(contextlib.closing(self._checkpoints))
    stack.enter_context(jax.set_mesh(self._mesh))
    stack.enter_context(nn.logical_axis_rules(sharding.RULES))
    tx = make_optimizer(config, self.updates)
    params = outputs.with_heads(
      self._params,
      self._model.cfg.decoder.width,
      self._algorithm.outputs,
      self._mesh,
    )
    del self._params
    heads = (outputs.PART,) if outputs.PART in params else ()
    self._state = create(params, tx, (*config.changed, *heads))
    if restored := self._checkpoints.restore(self._state):
      self._state, saved = restored
      self.cursor, self._values = saved["cursor"], saved["metrics"]
      self.step = int(self._state.step)
      _log.info("resumed at update %d", self.step)
    self._update = Step(
      self._model,
      self._algorithm,
      tx,
      layout(self._state),
      config.block,
      learning_rate(config, self.updates),
      self._watched,
    )
    self._metrics = stack.enter_context(contextlib.closing(self._reporting()))
    self._profile = stack.enter_context(_profiling(directory, self._log_config))
    self._stopping = stack.enter_context(_sigterm())

  def _reporting(self) -> MetricsFile:
    config, done, path = self.config, self.step, self.directory
    leads = jax.process_index() == 0
    return MetricsFile(
      path / "metrics.jsonl",
      done,
      self.updates,
      trackers(path, self._log_config, done) if leads else (),
      utilisation(
        self._model.cfg, config.trained, adapted=bool(config.lora_rank)
      ),
      self._role,
    )

  # ------------------------------------------------------------------ parameters
  @property
  def model_params(self) -> Params:
    """All parameters, valid until the next update."""
    return self._state.model_params

  def params(self) -> Params:
    """Returns all current parameters, valid for as long as they are held.

    Trained parts are copied on the devices, since the next update donates them.
    """
    return {**copied(self._state.params), **self._state.frozen}

  def scorer(self) -> Scorer:
    """Returns the model with its current parameters, for an annotator."""
    return Scorer(self._model, self.model_params)

  @property
  def module(self) -> InternVL:
    return self._model

  @property
  def trained(self) -> Params:
    """The parameters that updates change, valid until the next one."""
    return self._state.params

  def unadapted(self) -> Scorer:
    """Returns the model without its adapters, which never changes."""
    return Scorer(self._model, lora.base(self._state.frozen))

  # --------------------------------------------------------------------- training
  def annotate(
    self,
    sequences: Sequence[TokenSequence],
    packing: PackConfig,
    reading: Reading,
    models: Mapping[str, Scorer] | None = None,
    annotators: Sequence[Annotator] | None = None,
  ) -> list[TokenSequence]:
    """Adds the streams that only models can make; call before the first update.

    Args:
      sequences: all sequences of a round, with the streams that credit gave.
      packing: shape of the rows that are scored.
      models: further models that annotators name: "reference", "critic",
        "average". "policy" is this session's own.
      annotators: what makes them; None: the method's own.
    """
    if annotators is None:
      annotators = self._algorithm.annotate
    with self.waiting("timing_s/annotate"):
      return annotate.annotate(
        annotators,
        {"policy": self.scorer(), **(models or {})},
        sequences,
        packing,
        reading,
        self._mesh,
        self.config.block,
      )

  def update(self, batch: Batch, moment: Moment | None = None) -> None:
    """Makes one update, on the devices; does not wait for it.

    Args:
      batch: this process's slice, numpy arrays [A, B, T] of A microbatches.
      moment: where the run stands, for the algorithm's schedules; by default
        `self.moment()`.

    Raises:
      NotFinite: the loss or a gradient of an earlier update is not finite.
    """
    numbers = scalars(self._algorithm, moment or self.moment())
    micro = sharding.microbatches(batch, self._mesh)
    self._state, self._values, self.tokens = self._update(
      self._state, micro, numbers
    )
    scheduled = {
      f"{name}_coefficient": value
      for name, value in numbers.coefficients.items()
      if value != 1
    }
    self._metrics.add({**self._values, **scheduled, **self._extra})
    self._extra = {}
    self.step += 1
    self._profile(self.step, self._state)
    # The first update of a process compiles: its seconds are its own.
    if self.step % self.config.log_every == 0 or not self._compiled:
      self._compiled = True
      self._metrics.flush()

  def metrics(self, values: Mapping[str, float]) -> None:
    """Adds values to the row of the next update."""
    self._extra |= values

  def latest(self) -> dict[str, float]:
    """Returns the metrics of the last update; waits for it."""
    return dict(_Fetched(self._values))

  def moment(self, round: int = 0) -> Moment:
    """Returns where the run stands, with the metrics of the last update.

    A schedule that reads one of them waits for that update; others do not.
    """
    return Moment(round=round, step=self.step, metrics=_Fetched(self._values))

  def waiting(self, name: str) -> contextlib.AbstractContextManager[None]:
    """Counts the seconds of its block in the next row of the metrics."""
    return self._metrics.waiting(name)

  def flush(self) -> None:
    """Writes the metrics of every update made; waits for them."""
    self._metrics.flush()

  def save(self, cursor: dict[str, Any]) -> None:
    """Saves a checkpoint in the background.

    Args:
      cursor: where the driver stands, a JSON value; `self.cursor` of a resumed
        session.
    """
    # First the metrics: a checkpoint must neither outlive the rows of its
    # updates nor hold what followed a loss that is not finite.
    self._metrics.flush()
    with self._metrics.waiting("checkpoint_wait"):
      saved = {"cursor": cursor, "metrics": self.latest()}
      self._checkpoints.save(self._state, saved)
    self.cursor = cursor

  def wait_saved(self) -> None:
    """Waits until every checkpoint is on disk."""
    self._checkpoints.wait()

  def stopping(self) -> bool:
    """Returns whether SIGTERM arrived; call after an update, or after a round.

    Several processes, which must call it equally often, agree on the call that
    returns true: the notice of one stops all.
    """
    return self._stopping()


class _Fetched(Mapping[str, float]):
  """Values on the devices, fetched when the first of them is read."""

  def __init__(self, values: Mapping[str, Any]):
    self._values = values

  @functools.cached_property
  def _there(self) -> dict[str, float]:
    fetched = jax.device_get(self._values)
    return {name: float(value) for name, value in fetched.items()}

  def __getitem__(self, name: str) -> float:
    return self._there[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)


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
def _sigterm() -> Iterator[Callable[[], bool]]:
  """Yields a function that returns whether SIGTERM arrived."""
  if jax.process_count() > 1:  # jax.distributed has set a handler
    # Processes agree on the number of a call, and no number may be left out.
    calls = itertools.count(1)
    yield lambda: multihost_utils.reached_preemption_sync_point(next(calls))
    return
  with stopping.watched():
    yield stopping.requested
