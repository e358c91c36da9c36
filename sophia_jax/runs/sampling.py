"""The sampling stage: captions, reasoning, rewards -> W/trajectories.

Any number of processes may share it: each takes a shard of the problems and has
a segment of the store to itself. The one that finds everything there at the end
marks the stage as done.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from sophia_jax import files
from sophia_jax.data.problems import ProblemFile, read_problems
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.progress import Progress
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.collect import RolloutConfig, collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.requests import Asking
from sophia_jax.rollout.store import Store
from sophia_jax.runs import engines
from sophia_jax.runs.run import Run
from sophia_jax.train.loop import Preempted
from sophia_jax.types import (
  Caption,
  Engine,
  Problem,
  Sampling,
  SophiaError,
  Status,
  Trajectory,
)

_log = logging.getLogger("sophia_jax")


@dataclasses.dataclass(frozen=True)
class Shard:
  """One of `count` shares of the problems, told by their ids alone.

  Example: Shard.of("0/4")
  """

  index: int = 0
  count: int = 1

  @classmethod
  def of(cls, text: str) -> Shard:
    """Reads "i/n".

    Raises:
      SophiaError: it is no such thing.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
      raise SophiaError(f"--shard={text}: write i/n, for example 0/4")
    if int(index) >= int(count):
      raise SophiaError(f"--shard={text}: shards are 0/n to n-1/n")
    return cls(int(index), int(count))

  @property
  def name(self) -> str:
    """Of its segment of the store."""
    return "0" if self.count == 1 else f"{self.index}-of-{self.count}"

  @property
  def terms(self) -> str:
    """What processes that sample at the same time must agree on."""
    return f"{self.count} shard{'s' if self.count > 1 else ''}"

  def __contains__(self, problem: Problem) -> bool:
    digest = hashlib.blake2b(problem.id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % self.count == self.index


@dataclasses.dataclass(frozen=True)
class Share:
  """The problems of a shard, read anew by every iteration."""

  problems: ProblemFile
  shard: Shard

  def __iter__(self) -> Iterator[Problem]:
    return (p for p in self.problems if p in self.shard)


# ------------------------------------------------------------ what others use too
def policy_directory(run: Run) -> Path:
  """The policy that captions are sampled from: warmed up, if the config says."""
  if run.config.get("warmup"):
    return run.workdir / "models" / "warm"
  return run.path(run.config.policy.path)


def problems(run: Run) -> ProblemFile:
  """What SOPHIA samples for: no evaluation set may be among it.

  Raises:
    SophiaError: the first mistake in the file.
  """
  path = run.path(run.config.data.problems)
  refuse_evaluation(read_problems(path), str(path))
  return ProblemFile(path)


def open_store(
  run: Run, read_only: bool = False, shard: Shard = Shard()
) -> Store:
  """The trajectories; their meta is all that generation depends on."""
  config = run.config.to_dict()
  names = ("seed", "captioning", "reasoning", "prompts")
  meta = json.loads(json.dumps({name: config[name] for name in names}))
  # Not the streams that are mixed in later: one store serves many mixtures.
  meta["data"] = {n: config["data"].get(n) for n in ("problems", "warmup")}
  rollout = run.section(RolloutConfig, "rollout")
  meta |= {"K": rollout.captions, "N": rollout.trajectories}
  return Store(
    run.workdir / "trajectories", meta, shard=shard.name, read_only=read_only
  )


# ---------------------------------------------------------------------- the stage
def sample(run: Run, shard: Shard = Shard()) -> None:
  """Samples what is missing of a shard; goes on where it stopped.

  Raises:
    Preempted: SIGTERM arrived; what was finished is stored.
  """
  if run.done("sample"):
    return
  start = time.monotonic()
  directory = run.workdir / "trajectories"
  share = Share(problems(run), shard)
  with (
    files.shared(directory / "sampling.lock", shard.terms),
    _preemptible(f"SIGTERM; what was finished is in {directory}"),
    open_store(run, shard=shard) as store,
  ):
    _log.info("--- sample%s", f" {shard.name}" if shard.count > 1 else "")
    if not all(store.index.complete(problem.id) for problem in share):
      _sample(run, share, store)
    _finish(run, share, store, time.monotonic() - start)


def _sample(run: Run, share: Share, store: Store) -> None:
  tally = _Tally()
  with verifier(run) as judge, _engines(run) as (policy, reasoners, asking):
    records = collect(share, policy, reasoners, asking, judge, store)
    with contextlib.closing(records), _progress(share, store) as progress:
      for record in records:
        tally.add(record)
        if isinstance(record, Trajectory):
          progress.advance(1, reward=_mean_reward(store))
    for line in (*tally.lines(), *judge.report().lines()):
      _log.info("%s", line)


def _finish(run: Run, share: Share, store: Store, seconds: float) -> None:
  """Marks the stage as done, if this was the last shard of it.

  Raises:
    SophiaError: of the own shard something is missing.
  """
  with files.exclusive(
    run.workdir / "trajectories" / "finish.lock", "finishing"
  ):
    store.refresh()
    others = 0
    for problem in share.problems:
      if store.index.complete(problem.id):
        continue
      if problem in share.shard:
        raise SophiaError(
          f"{store.path}: {problem.id} is not complete, perhaps not the only "
          "one; give the same command again"
        )
      others += 1
    if others:
      _log.info("%d problems are left, of other shards", others)
    elif not run.done("sample"):
      run.mark("sample", seconds)


@contextlib.contextmanager
def _preemptible(message: str) -> Iterator[None]:
  """SIGTERM ends the block by Preempted."""

  def stop(*_: object) -> None:
    raise Preempted(message)

  before = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _engines(run: Run) -> Iterator[tuple[Engine, dict[str, Engine], Asking]]:
  """The policy, the reasoners by difficulty, and how both are asked."""
  captioning = run.section(Sampling, "captioning")
  prompts = run.section(Prompts, "prompts")
  with contextlib.ExitStack() as stack:
    policy = stack.enter_context(
      engines.policy(run, policy_directory(run), captioning.max_new_tokens)
    )
    reasoners = {
      name: stack.enter_context(engines.reasoner(run, name))
      for name in run.config.reasoners
    }
    asking = Asking(
      policy=policy.renderer,
      caption=prompts.caption,
      reason=prompts.reason,
      captioning=captioning,
      reasoning=run.section(Sampling, "reasoning"),
      seed=run.seed,
    )
    yield policy, reasoners, asking


def verifier(run: Run) -> Verifier:
  """The verifier, which has shown that it can tell right from wrong."""
  pool = Verifier(**run.config.reward.to_dict())
  pool.self_check()
  return pool


# --------------------------------------------------------------- figures of a run
def _progress(share: Share, store: Store) -> Progress:
  total = done = 0
  each = store.index.k * store.index.n
  for problem in share:
    total += each
    done += store.index.count(problem.id)
  return Progress("sample", total, "trajectory", done)


def _mean_reward(store: Store) -> float:
  """Over all that is in the store."""
  return store.index.statuses[Status.RIGHT] / len(store.trajectories)


class _Tally:
  """What this process has generated."""

  def __init__(self) -> None:
    self._start = time.monotonic()
    self._records = collections.Counter({"captions": 0, "trajectories": 0})
    self._tokens = self._records.copy()

  def add(self, record: Caption | Trajectory) -> None:
    kind = "captions" if isinstance(record, Caption) else "trajectories"
    self._records[kind] += 1
    known = len(record.completion.token_ids)
    # Of a model that is asked in words we know no tokens but our own.
    ours = record.length if isinstance(record, Trajectory) else 0
    self._tokens[kind] += known or ours

  def lines(self) -> list[str]:
    seconds = time.monotonic() - self._start
    counts = ", ".join(
      f"{n} {kind} of {self._tokens[kind]} tokens"
      for kind, n in self._records.items()
    )
    rate = self._tokens.total() / seconds
    return [f"sampled {counts}; {rate:.0f} tokens/s for {seconds:.0f} s"]
