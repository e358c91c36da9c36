"""The sampling of a stage: who is asked, what is stored, which process does what.

Any number of processes may share it: each takes a shard of the problems and has
a segment of the store to itself. The one that finds everything there at the end
marks the step as done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax import files
from sophia_jax.algorithms import registry, routing
from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.config import decisive
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig
from sophia_jax.progress import Progress
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import Missing, Seat, World
from sophia_jax.runs import (
  engines,
  figures,
  lengths,
  policies,
  teachers,
  whole,
)
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.runs.shards import WHOLE, Shard, ShardProblems
from sophia_jax.runs.stage import Stage
from sophia_jax.stopping import explained
from sophia_jax.train.trackers import LogConfig
from sophia_jax.types import Group, Problem, Sampling, SophiaError

_log = logging.getLogger("sophia_jax")

Engines = Mapping[str, Mapping[str, Any]]
"""The engines by role, then as Seat.engines."""
SAMPLING = {
  "policy": "answering",
  "caption": "captioning",
  "reasoner": "reasoning",
}
"""Config section of each role's `Sampling`; see `teachers.section_of`."""
PROMPTS = {
  "policy": ("system", "slow_thinking"),
  "caption": ("system", "caption"),
  "reasoner": ("reasoning",),
  "captioner": ("caption",),
  "describer": ("first_view", "next_view"),
  "reader": ("reading",),
}
"""Prompts that each role's answers depend on; of another teacher's, slow
thinking."""
SCORER = routing.SCORER
LOCK = "sampling.lock"
"""Lock in a store that the processes which sample into it share."""


# ------------------------------------------------------------- what is sampled
def problems(run: Run, stage: Stage) -> tuple[Problem, ...]:
  """Returns the problems that a stage samples for.

  Raises:
    SophiaError: they are fewer than a round learns from, or the method cannot
      sample for one of them.
  """
  found = run.problems(data_file(run, stage))
  check_enough(stage, len(found))
  if stage.algorithm.check:
    for problem in found:
      stage.algorithm.check(problem)
  return found


def fitting(run: Run, stage: Stage) -> Sequence[Problem]:
  """Returns those problems of a stage that its engines have room for.

  Raises:
    SophiaError: as `problems`, or they do not fit and may not be left out.
  """
  words = words_of(run, stage)
  found = lengths.fitting(run, stage, problems(run, stage), words)
  check_enough(stage, len(found))
  return found


def words_of(run: Run, stage: Stage) -> Renderer:
  """Returns the renderer of the checkpoint that a stage samples with."""
  images = run.section(ImageConfig, "images")
  system = run.config.prompts.system
  _, words = policies.load_words(run.sampler(stage), images, system)
  return words


def check_enough(stage: Stage, count: int) -> None:
  """Raises SophiaError if `count` problems are fewer than a round learns from."""
  if count < stage.config.groups:
    raise SophiaError(
      f"config.stages.{stage.name}.groups={stage.config.groups}: the data have "
      f"{count} problems; lower groups or bring more"
    )


def data_file(run: Run, stage: Stage) -> str:
  """Returns the name of the file that a stage samples for.

  Raises:
    SophiaError: neither the stage nor the run names one.
  """
  name = stage.config.data or run.config.data.problems
  if not name:
    raise SophiaError(
      f"config.data.problems: no file for the stage {stage.name!r}; give "
      "--config.data.problems=FILE"
    )
  return name


def check(run: Run, stage: Stage) -> None:
  """Finds settings that no stage can sample with, before anything is written.

  Raises:
    SophiaError: a sampler that is biased or draws nothing, a selection without
      groups to compare, or a role that nothing plays.
  """
  if not stage.samples:
    return
  for role in stage.algorithm.roles:
    if key := SAMPLING.get(role):
      longest = run.section(Sampling, key).max_new_tokens
      if longest < 1:
        raise SophiaError(
          f"config.{key}: max_new_tokens is {longest}; use 1 or more"
        )
  registry.check_sampling(
    stage.algorithm, run.section(Sampling, SAMPLING["policy"])
  )
  _check_context(run, stage)
  _check_compared(stage)
  teachers.check(run, stage)


def _check_context(run: Run, stage: Stage) -> None:
  """Raises SophiaError if the longest episode has no room in engine or rows."""
  context = stage.algorithm.context
  if not context:
    return
  answer = run.section(Sampling, SAMPLING["policy"]).max_new_tokens
  rooms = {f"config.stages.{stage.name}.train.length": stage.train.length}
  if run.config.policy.engine == "embedded":
    rooms["config.engine.length"] = run.config.engine.length
  for key, room in rooms.items():
    if context + answer > room:
      raise SophiaError(
        f"{key}={room}: an episode has up to {context} + {answer} tokens "
        f"(stages.{stage.name}.context, answering.max_new_tokens); raise it to "
        f"{context + answer}, or lower these"
      )


def _check_compared(stage: Stage) -> None:
  """Raises SophiaError if a selection compares groups and each is alone."""
  key, config = stage.algorithm.compares, stage.config
  alone = "rounds" if config.rounds == 1 else "groups"
  if key and getattr(config, alone) == 1:
    where = f"config.stages.{stage.name}"
    raise SophiaError(
      f"{where}.{key}={getattr(stage.method, key)}: compares the groups of a "
      f"round, and {where}.{alone}=1 leaves each alone; raise {alone}"
    )


def store_directory(run: Run, stage: Stage) -> Path:
  """Returns the store of a stage that samples once.

  The first such stage of a run has W/trajectories, another W/NAME/trajectories.
  """
  rows = (stages.read(run.config, name) for name in run.config.order)
  first = next(s.name for s in rows if s.samples and s.config.rounds == 1)
  inside = run.workdir if first == stage.name else run.workdir / stage.name
  return inside / "trajectories"


def store_meta(run: Run, stage: Stage) -> dict[str, Any]:
  """Returns what the answers in a stage's store depend on, beside the problems.

  Problems are part of every key of the store, by their content.
  """
  config, asked = run.config.to_dict(), stage.algorithm.roles
  names = ("seed", *sections(asked).values())
  meta = {name: config[name] for name in names}
  meta["prompts"] = {
    name: config["prompts"][name]
    for role in asked
    for name in PROMPTS.get(role, ("slow_thinking",))
  }
  meta["policy"] = fingerprint(run.sampler(stage))
  if SCORER in asked:
    meta[SCORER] = decisive(run.section(policies.ScorerConfig, SCORER))
  if "reasoner" in asked:
    meta["reasoners"] = {
      name: fingerprint(run.path(values["path"]))
      for name, values in config["reasoners"].items()
    }
  meta |= teachers.identity(run, stage)
  return json.loads(json.dumps(meta))


def open_store(
  run: Run, stage: Stage, read_only: bool = False, shard: Shard = WHOLE
) -> Store:
  """Opens the store of a stage that samples once."""
  return Store(
    store_directory(run, stage),
    store_meta(run, stage),
    shard=shard.name,
    read_only=read_only,
  )


def groups(run: Run, stage: Stage) -> Iterator[Group]:
  """Yields the groups that a stage's store holds whole, in the problems' order.

  They are read again by every iteration; few are in memory at a time.

  Raises:
    SophiaError: they were sampled under other settings of the method.
  """
  assert stage.algorithm.sample is not None
  with open_store(run, stage, read_only=True) as store:
    world = _replay(run, stage, store)
    found = (p for p in problems(run, stage) if world.complete(p))
    try:
      yield from collect(found, stage.algorithm.sample, world, ahead=1)
    except Missing as e:
      whole.forget(store.path)
      raise SophiaError(
        f"{e}: config.stages.{stage.name} asks for more than launch.sample was "
        "given; give it the same settings"
      ) from e


# ---------------------------------------------------------------------- the stage
def step_name(stage: Stage) -> str:
  """Returns the name under which a stage's sampling is marked as done."""
  return f"{stage.name}/sample"


def sample(run: Run, stage: Stage, shard: Shard = WHOLE) -> None:
  """Samples what is missing of a shard; resumes where it stopped.

  Raises:
    Preempted: SIGTERM arrived; what was finished is stored.
  """
  directory = store_directory(run, stage)
  share = ShardProblems(fitting(run, stage), shard)
  if run.done(step_name(stage)) and _whole(run, stage, share.problems):
    return
  start = time.monotonic()
  with (
    files.shared(directory / LOCK, shard.terms),
    explained(f"what was finished is in {directory}"),
    open_store(run, stage, shard=shard) as store,
  ):
    name = f" {shard.name}" if shard.count > 1 else ""
    _log.info("--- %s%s", step_name(stage), name)
    _sample(run, stage, share, store)
    _finish(run, stage, share, store, time.monotonic() - start)


def _whole(run: Run, stage: Stage, problems: Sequence[Problem]) -> bool:
  """Returns whether a store holds every problem: the data may have grown, or the
  method may ask for more."""
  directory = store_directory(run, stage)
  if not directory.is_dir():
    return True  # the samples were removed after the update
  with open_store(run, stage, read_only=True) as store:
    if whole.lacking(stage, _replay(run, stage, store), problems):
      return False
  whole.record(stage, directory)
  return True


def _replay(run: Run, stage: Stage, store: Store) -> World:
  """Returns a world in which only the store answers."""
  words, prompts = words_of(run, stage), run.section(Prompts, "prompts")
  return World(store, replayed(stage, words, prompts), words, seed=run.seed)


def _sample(run: Run, stage: Stage, share: ShardProblems, store: Store) -> None:
  """Samples the problems of a shard that are not complete."""
  start = time.monotonic()
  replay = _replay(run, stage, store)
  whole.begin(stage, store)
  missing = whole.lacking(stage, replay, share)
  if not missing:
    return
  words, done = replay.words, sum(1 for _ in share) - len(missing)
  assert stage.algorithm.sample is not None
  directory = store.path / share.shard.name
  log = run.section(LogConfig, "log")
  title = f"{run.workdir.name}-{stage.name}-sample-{share.shard.name}"
  with (
    figures.opened(directory, log, title, done) as shown,
    verifier(run) as judge,
    opened_seats(run, stage) as seats,
  ):
    world = World(store, seats, words, judge, seed=run.seed)
    world.check(missing)
    found = collect(missing, stage.algorithm.sample, world)
    total = done + len(missing)
    with (
      contextlib.closing(found),
      Progress(step_name(stage), total, "problem", done) as progress,
    ):
      for _ in found:
        shown.advance(progress, store, world)
    _log.info("%s", _summary(world, time.monotonic() - start))
    for line in judge.report().lines():
      _log.info("%s", line)


def _finish(
  run: Run, stage: Stage, share: ShardProblems, store: Store, seconds: float
) -> None:
  """Marks the step as done, if this was its last shard.

  Raises:
    SophiaError: something of the own shard is missing.
  """
  with files.exclusive(store.path / "finish.lock", "finishing"):
    store.refresh()
    lacking = whole.lacking(stage, _replay(run, stage, store), share.problems)
    own = [problem for problem in lacking if problem in share.shard]
    if own:
      raise SophiaError(
        f"{store.path}: {own[0].id} is not complete, perhaps not the only one; "
        "give the same command again"
      )
    if lacking:
      _log.info("%d problems are left, of other shards", len(lacking))
      return
    whole.record(stage, store.path)
    if not run.done(step_name(stage)):
      run.mark(step_name(stage), seconds)


# ------------------------------------------------------------------- who is asked
def samplings(run: Run, stage: Stage) -> dict[str, Sampling]:
  """Returns how the tokens of each role are drawn."""
  names = SAMPLING | sections(stage.algorithm.roles)
  return {role: run.section(Sampling, name) for role, name in names.items()}


def sections(asked: Iterable[str]) -> dict[str, str]:
  """Returns the config section of the `Sampling` of each role that draws."""
  draws = [role for role in asked if role != SCORER]
  return {
    role: SAMPLING.get(role) or teachers.section_of(role) for role in draws
  }


def replayed(
  stage: Stage, words: Renderer, prompts: Prompts
) -> Mapping[str, Seat]:
  """Returns the seats of a world in which only the store answers."""
  return roles.seats(words, prompts, asked=stage.algorithm.roles)


@contextlib.contextmanager
def opened_seats(run: Run, stage: Stage) -> Iterator[Mapping[str, Seat]]:
  """Opens the policy and the reasoners of a stage that samples once."""
  how = samplings(run, stage)
  own = [role for role in stage.algorithm.roles if role in roles.OWN]
  if not own:
    with opened_others(run, stage) as others:
      yield seats(run, stage, words_of(run, stage), others)
    return
  longest = max(how[role].max_new_tokens for role in own)
  with (
    engines.policy(run, run.sampler(stage), longest) as policy,
    opened_others(run, stage) as others,
  ):
    yield seats(run, stage, policy.renderer, others, policy)


@contextlib.contextmanager
def opened_others(run: Run, stage: Stage) -> Iterator[Engines]:
  """Opens the models beside the policy that the method asks: every reasoner of
  the config by name, and teachers."""
  asked = stage.algorithm.roles
  with contextlib.ExitStack() as stack:
    found: dict[str, dict[str, Any]] = {
      role: {"": stack.enter_context(teachers.opened(run, role))}
      for role in roles.teachers(asked)
    }
    if SCORER in asked:
      found[SCORER] = {"": stack.enter_context(engines.scorer(run))}
    if "reasoner" in asked:
      found["reasoner"] = {
        name: stack.enter_context(engines.reasoner(run, name))
        for name in run.config.reasoners
      }
    yield found


def seats(
  run: Run,
  stage: Stage,
  words: Renderer,
  others: Engines,
  policy: Any = None,
) -> Mapping[str, Seat]:
  """Returns the seats of all roles; those that the method asks have engines.

  Args:
    words: the policy's renderer.
    others: engines of the models beside the policy.
    policy: its engine; None where the method does not ask it.
  """
  asked = stage.algorithm.roles
  return roles.seats(
    words,
    run.section(Prompts, "prompts"),
    samplings(run, stage),
    {role: others.get(role, {"": policy}) for role in asked},
    asked,
  )


def verifier(run: Run) -> Verifier:
  """Returns the verifier, which has shown that it can tell right from wrong."""
  pool = Verifier(**run.config.reward.to_dict())
  pool.self_check()
  return pool


def _summary(world: World, seconds: float) -> str:
  """Returns what this process has sampled, and how fast."""
  counts = ", ".join(
    f"{n} answers of the {role}, {world.tokens[role]} tokens"
    for role, n in world.sampled.items()
  )
  rate = world.tokens.total() / seconds
  return f"sampled {counts}; {rate:.0f} tokens/s for {seconds:.0f} s"
