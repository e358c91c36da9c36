"""Our side of benchmarks.round: the parts of a round, each timed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax

from benchmarks.rollout_embedded import Both
from benchmarks.round_task import PARTS, SYSTEM, Task
from sophia_jax.algorithms import credit, registry, routing
from sophia_jax.algorithms.contract import Algorithm, Moment
from sophia_jax.algorithms.on_policy import on_policy
from sophia_jax.checkpoints import load_params
from sophia_jax.data.images import TileCache
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.models import InternVL, logical_axes
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.teachers import Traces
from sophia_jax.rollout.world import World
from sophia_jax.runs.sources import PolicyWords
from sophia_jax.train import sharding
from sophia_jax.train.annotate import Scorer
from sophia_jax.train.session import Session, TrainConfig
from sophia_jax.types import (
  Completion,
  Example,
  Grade,
  Group,
  Problem,
  Sampling,
  SophiaError,
  Status,
  TokenSequence,
  Verdict,
)


def even(ids: Sequence[int]) -> float:
  """Rewards an even first id: half of the answers, in no time."""
  return float(ids[0] % 2 == 0)


class Graded(World):
  """A world that rewards an even first id, without a verifier."""

  async def grade(
    self, problem: Problem, path: tuple[int, ...], completion: Completion
  ) -> Grade:
    del problem, path
    # A teacher's answer has no ids: it is right.
    reward = even(completion.token_ids or (0,))
    status = Status.RIGHT if reward else Status.WRONG
    return Grade(verdict=Verdict(status=status), rewards={"accuracy": reward})


class PeakMemory:
  """Peak of this process's resident memory since it was made; Linux only."""

  def __init__(self) -> None:
    Path("/proc/self/clear_refs").write_text("5")

  def mib(self) -> float:
    """Returns the peak, MiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


class Ours:
  """The parts of runs.rounds: store, engine, annotation, session."""

  def __init__(self, both: Both, task: Task, algorithm: Algorithm, name: str):
    # As runs.stage does for one update a round.
    algorithm = on_policy(algorithm)
    self._task, self._algorithm, self._both = task, algorithm, both
    self._words = _words(both, task)
    self._number = 0
    self._folder = Path(task.output) / name
    self._mesh = sharding.make_mesh(sharding.MeshConfig())
    self._problems = [
      Problem(id=str(i), question=task.question, answer="", images=(path,))
      for i, path in enumerate(task.pictures)
    ]
    model = InternVL(both.cfg)
    self._references = {
      key: Scorer(model, self._params())
      for key in algorithm.models
      if key != "policy"
    }
    self._session = Session(
      model,
      self._params(),
      algorithm,
      self._training(),
      self._folder,
      {},
      self._mesh,
      updates=task.rounds,
    )

  def __enter__(self) -> Self:
    self._session.__enter__()
    self._engine = EmbeddedEngine(
      InternVL(self._both.cfg),
      self._session.params(),
      self._words,
      EngineConfig(
        slots=self._task.slots,
        length=len(self._both.prompts[0]) + self._task.new,
        prefill_rows=self._both.prefill_rows,
      ),
      TileCache(self._both.image),
    )
    return self

  def __exit__(self, *error: Any) -> None:
    self._session.__exit__(*error)

  def __call__(self) -> dict[str, float]:
    """Makes a round; returns seconds by part."""
    moment, cpu = Moment(round=self._number), time.process_time()
    peak = PeakMemory()
    times = [time.perf_counter()]
    groups = self._sampled()
    times.append(time.perf_counter())
    sequences = self._scored(groups, moment)
    times.append(time.perf_counter())
    self._updated(sequences, moment)
    times.append(time.perf_counter())
    self._number += 1
    parts = [b - a for a, b in itertools.pairwise(times)]
    return {
      **dict(zip(PARTS, [*parts, times[-1] - times[0]])),
      "cpu": time.process_time() - cpu,
      "mib": peak.mib(),
    }

  def _sampled(self) -> list[Group]:
    """Samples with the weights of now."""
    self._engine.load(self._session.params(), self._number + 1)
    how = Sampling(temperature=1.0, max_new_tokens=self._task.new)
    taught = roles.teachers(self._algorithm.roles)
    stored = self._stored() if taught else None
    seats = roles.seats(
      self._words,
      Prompts(slow_thinking=SYSTEM),
      {"policy": how},
      {"policy": {"": self._engine}, **{role: {"": stored} for role in taught}},
      taught,
    )
    with Store(self._folder / f"rounds/{self._number}", {}) as store:
      world = Graded(store, seats, self._words, round=self._number)
      assert self._algorithm.sample is not None
      return list(collect(self._problems, self._algorithm.sample, world))

  def _stored(self) -> Traces:
    """Returns a teacher's answers, as long as the policy's."""
    text = self._task.question * self._task.new
    # The end of the turn is a token, too.
    while self._both.renderer.count(text) >= self._task.new:
      text = text[: len(text) * 9 // 10]
    return Traces(
      (Example(id=p.id, question="?", response=text) for p in self._problems),
      "the benchmark's answers",
      strict=True,
    )

  def _scored(self, groups: list[Group], moment: Moment) -> list[TokenSequence]:
    """Credits and annotates everything that was sampled."""
    words = PolicyWords(self._both.renderer, SYSTEM)
    _, sequences = credit.learn(self._algorithm, groups, words, moment)
    return self._session.annotate(
      sequences, self._shape(), self._reading(), self._references
    )

  def _updated(self, sequences: list[TokenSequence], moment: Moment) -> None:
    """Makes one update, and waits for it."""
    loader = Loader(
      sequences,
      self._shape(),
      LoaderConfig(updates=1, round=moment.round),
      self._reading(),
    )
    for batch in loader:
      self._session.update(batch, moment)
    self._session.latest()
    jax.block_until_ready(self._session.model_params)

  def _params(self) -> Any:
    cfg = self._both.cfg
    params = load_params(self._both.directory, cfg)
    return sharding.place(params, logical_axes(cfg), self._mesh)

  def _training(self) -> TrainConfig:
    task = self._task
    length = task.together * (len(self._both.prompts[0]) + task.new)
    return TrainConfig(
      rows=task.batch // task.together,
      length=-(-length // task.multiple) * task.multiple,
      # The answers to an image lie together and share its tile.
      tiles=-(-task.batch // task.n),
      block=task.block,
      learning_rate=task.learning_rate,
      weight_decay=task.weight_decay,
      clip_norm=task.clip_norm,
      schedule="constant",
    )

  def _shape(self) -> PackConfig:
    train = self._training()
    return PackConfig(
      rows=train.rows, length=train.length, tile_budget=train.tiles
    )

  def _reading(self) -> Reading:
    return Reading(
      streams=self._algorithm.all_streams,
      tokens_per_tile=self._both.cfg.tokens_per_tile,
      image=self._both.image,
    )


def _words(both: Both, task: Task) -> Any:
  """Returns a renderer under which every answer has its full length."""
  words = copy.copy(both.renderer)
  words.end_id, words.banned_ids = -1, task.banned
  words.vocab_size = both.cfg.decoder.vocab
  return words


def method(name: str, task: Task) -> Algorithm:
  """Builds a method with the task's answers and, where it has one, its KL.

  Raises:
    SophiaError: an unknown method, or one that asks others than the policy.
  """
  wanted = {"n": task.n, "kl": task.kl, "low": task.clip, "high": task.clip}
  own = {f.name for f in dataclasses.fields(registry.config_of(name))}
  wanted = wanted if name == "grpo" else {"n": task.n, "keep": task.n}
  made = registry.build(name, {k: v for k, v in wanted.items() if k in own})
  # A scorer is asked about open answers alone, which the task has not.
  others = {*roles.teachers(made.roles), routing.SCORER}
  if made.sample is None or {*made.roles} - others != {"policy"}:
    raise SophiaError(
      f"--algorithm={name}: it does not learn from the policy's answers alone"
    )
  return made
