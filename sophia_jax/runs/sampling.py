"""The sampling stage: captions, reasoning, rewards -> W/trajectories.

Any number of processes may share it: each takes a shard of the problems and has
a segment of the store to itself. The one that finds the store complete at its
end marks the stage as done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

from sophia_jax import files
from sophia_jax.algorithms.sampling import described
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.problems import ProblemFile, read_problems
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.progress import Progress
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import RolloutConfig, Sample, collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import Seat, World
from sophia_jax.runs import engines, policies
from sophia_jax.runs.run import Run
from sophia_jax.train.loop import Preempted
from sophia_jax.types import (
  Caption,
  CaptionTree,
  Group,
  Problem,
  Rollout,
  Sampling,
  SophiaError,
  Status,
  Trajectory,
)

_log = logging.getLogger("sophia_jax")


@dataclasses.dataclass(frozen=True)
class Shard:
  """One of `count` shares of the problems; their ids alone decide.

  Example: Shard.of("0/4")
  """

  index: int = 0
  count: int = 1

  @classmethod
  def of(cls, text: str) -> Shard:
    """Reads "i/n".

    Raises:
      SophiaError: the text has another form.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
      raise SophiaError(f"--shard={text}: write i/n, for example 0/4")
    if int(index) >= int(count):
      raise SophiaError(f"--shard={text}: shards are 0/n to n-1/n")
    return cls(int(index), int(count))

  @property
  def name(self) -> str:
    """Name of its segment of the store."""
    return "0" if self.count == 1 else f"{self.index}-of-{self.count}"

  @property
  def terms(self) -> str:
    """Terms that processes which sample at the same time must share."""
    return f"{self.count} shard{'s' if self.count > 1 else ''}"

  def __contains__(self, problem: Problem) -> bool:
    digest = hashlib.blake2b(problem.id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % self.count == self.index


@dataclasses.dataclass(frozen=True)
class Share:
  """The problems of a shard, read again by every iteration."""

  problems: ProblemFile
  shard: Shard

  def __iter__(self) -> Iterator[Problem]:
    return (p for p in self.problems if p in self.shard)


# ------------------------------------------------------------ what others use too
def policy_directory(run: Run) -> Path:
  """Returns the policy that captions are sampled from: warmed up, if the config
  has a warm-up."""
  if run.config.get("warmup"):
    return run.workdir / "models" / "warm"
  return run.path(run.config.policy.path)


def problems(run: Run) -> ProblemFile:
  """Returns the problems to sample for, none of an evaluation set.

  Raises:
    SophiaError: the first mistake in the file.
  """
  path = run.path(run.config.data.problems)
  refuse_evaluation(read_problems(path), str(path))
  return ProblemFile(path)


def open_store(
  run: Run, read_only: bool = False, shard: Shard = Shard()
) -> Store:
  """Opens W/trajectories; its meta is all that generation depends on."""
  config = run.config.to_dict()
  names = ("seed", "captioning", "reasoning", "prompts")
  meta = {name: config[name] for name in names}
  # Not the sources that are mixed in later: one store serves many mixtures.
  meta["data"] = {n: config["data"].get(n) for n in ("problems", "warmup")}
  rollout = run.section(RolloutConfig, "rollout")
  meta["captions"] = rollout.captions
  meta["trajectories"] = rollout.trajectories
  return Store(
    run.workdir / "trajectories",
    json.loads(json.dumps(meta)),
    shard=shard.name,
    read_only=read_only,
  )


def recipe(run: Run) -> Sample:
  """Returns how a problem becomes a group."""
  rollout = run.section(RolloutConfig, "rollout")
  return described(rollout.captions, rollout.trajectories)


def groups(run: Run, store: Store) -> Generator[Group]:
  """Yields the groups that the store holds whole, in the order of the problems.

  One is in memory at a time.
  """
  prompts = run.section(Prompts, "prompts")
  _, words = policies.load_words(
    policy_directory(run), run.section(ImageConfig, "images"), prompts.system
  )
  world = World(store, roles.seats(words, prompts), words)
  whole = (problem for problem in problems(run) if world.complete(problem))
  yield from collect(whole, recipe(run), world, ahead=1)


# ---------------------------------------------------------------------- the stage
def sample(run: Run, shard: Shard = Shard()) -> None:
  """Samples what is missing of a shard; resumes where it stopped.

  Raises:
    Preempted: SIGTERM arrived; what was finished is stored.
  """
  if run.done("sample"):
    return
  start = time.monotonic()
  directory = run.workdir / "trajectories"
  share = Share(problems(run), shard)
  preempted = Preempted(f"SIGTERM; what was finished is in {directory}")

  def stop() -> None:
    raise preempted

  with (
    files.shared(directory / "sampling.lock", shard.terms),
    _on_sigterm(stop),
    open_store(run, shard=shard) as store,
  ):
    _log.info("--- sample%s", f" {shard.name}" if shard.count > 1 else "")
    if not all(map(store.complete, share)):
      _sample(run, share, store, preempted)
    _finish(run, share, store, time.monotonic() - start)


def _sample(run: Run, share: Share, store: Store, preempted: Preempted) -> None:
  start, rollout = time.monotonic(), run.section(RolloutConfig, "rollout")
  with verifier(run) as judge, _seats(run) as (words, seats):
    world = World(store, seats, words, judge, seed=run.seed)
    world.check(share)
    missing = (problem for problem in share if not store.complete(problem))
    found = collect(missing, recipe(run), world, rollout.ahead)
    with (
      # An exception out of nowhere could be lost in a coroutine.
      _on_sigterm(lambda: world.stop(preempted)),
      contextlib.closing(found),
      _progress(share, store) as progress,
    ):
      for _ in found:
        progress.advance(1, reward=_mean_reward(store))
    _log.info("%s", _summary(world, time.monotonic() - start))
    for line in judge.report().lines():
      _log.info("%s", line)


def _finish(run: Run, share: Share, store: Store, seconds: float) -> None:
  """Marks the stage as done, if this was the last shard of it.

  Raises:
    SophiaError: a problem of the own shard is not complete.
  """
  with files.exclusive(
    run.workdir / "trajectories" / "finish.lock", "finishing"
  ):
    store.refresh()
    others = 0
    for problem in share.problems:
      if store.complete(problem):
        continue
      if problem in share.shard:
        raise SophiaError(
          f"{store.path}: {problem.id} is not complete, perhaps not the only "
          "one; run the same command again"
        )
      others += 1
    if others:
      _log.info("%d problems are left, of other shards", others)
    elif not run.done("sample"):
      run.mark("sample", seconds)


@contextlib.contextmanager
def _on_sigterm(react: Callable[[], None]) -> Iterator[None]:
  """Calls `react` when SIGTERM arrives in the block."""
  before = signal.signal(signal.SIGTERM, lambda *_: react())
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _seats(run: Run) -> Iterator[tuple[Renderer, Mapping[str, Seat]]]:
  """Opens the policy and the reasoners: the policy's words, and who is asked."""
  sampling = {
    "caption": run.section(Sampling, "captioning"),
    "reasoner": run.section(Sampling, "reasoning"),
  }
  with contextlib.ExitStack() as stack:
    policy = stack.enter_context(
      engines.policy(
        run, policy_directory(run), sampling["caption"].max_new_tokens
      )
    )
    reasoners = {
      name: stack.enter_context(engines.reasoner(run, name))
      for name in run.config.reasoners
    }
    yield (
      policy.renderer,
      roles.seats(
        policy.renderer,
        run.section(Prompts, "prompts"),
        sampling,
        {"caption": {"": policy}, "reasoner": reasoners},
      ),
    )


def verifier(run: Run) -> Verifier:
  """Returns the verifier, once it has told right answers from wrong ones."""
  pool = Verifier(**run.config.reward.to_dict())
  pool.self_check()
  return pool


# --------------------------------------------------------------- figures of a run
def _progress(share: Share, store: Store) -> Progress:
  done = [store.complete(problem) for problem in share]
  return Progress("sample", len(done), "problem", sum(done))


def _mean_reward(store: Store) -> float:
  """Returns the share of right answers in the store."""
  statuses = store.index.statuses
  return statuses[Status.RIGHT] / max(1, statuses.total())


def _summary(world: World, seconds: float) -> str:
  """Returns what this process has sampled, and how fast."""
  counts = ", ".join(
    f"{world.sampled[role]} {name} of {world.tokens[role]} tokens"
    for role, name in (("caption", "captions"), ("reasoner", "trajectories"))
  )
  rate = world.tokens.total() / seconds
  return f"sampled {counts}; {rate:.0f} tokens/s for {seconds:.0f} s"


def tree(group: Group) -> CaptionTree:
  """Returns a group of `described` as captions and trajectories."""
  return CaptionTree(
    problem=group.problem,
    captions=tuple(
      Caption(problem_id=r.problem_id, k=r.path[0], completion=r.completion)
      for r in group.depth(1)
    ),
    trajectories=tuple(
      tuple(map(_trajectory, group.children(r.path))) for r in group.depth(1)
    ),
  )


def _trajectory(rollout: Rollout) -> Trajectory:
  assert rollout.verdict is not None
  return Trajectory(
    problem_id=rollout.problem_id,
    k=rollout.path[0],
    n=rollout.path[1],
    completion=rollout.completion,
    verdict=rollout.verdict,
    length=rollout.length,
  )
