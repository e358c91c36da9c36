"""Sampling in rounds: the policy's engine, the roles, a store for each round."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from sophia_jax.checkpoints import save_params
from sophia_jax.data.images import TileCache
from sophia_jax.hosts import meeting
from sophia_jax.models import Params
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store, round_directory
from sophia_jax.rollout.weights import ServedWeights
from sophia_jax.rollout.world import World
from sophia_jax.runs import draws, engines, lengths, sampling
from sophia_jax.runs.policies import Model
from sophia_jax.runs.run import Run
from sophia_jax.runs.shards import Shard
from sophia_jax.runs.stage import Stage
from sophia_jax.servers import supervise
from sophia_jax.stopping import explained
from sophia_jax.train import sharding
from sophia_jax.types import Group, Problem, Request, Sampling, SophiaError


class Policy(NamedTuple):
  """The policy's engine, and how it takes other weights."""

  engine: engines.PolicyEngine
  load: Callable[[Params, int], Any]
  """(params, version): returns once every answer comes from them."""


class Sampler:
  """The sampling of a stage's rounds, each into a separate store."""

  def __init__(
    self,
    run: Run,
    stage: Stage,
    policy: Policy,
    others: sampling.Engines,
    judge: Verifier,
  ):
    self._run, self._stage, self._judge = run, stage, judge
    self.load = policy.load
    """Lets the policy answer with other weights: (params, version)."""
    self.policy = policy.engine
    """The policy's engine; answers with the weights that were loaded last."""
    self._seats = sampling.seats(
      run, stage, policy.engine.renderer, others, policy.engine
    )
    self.problems = sampling.fitting(run, stage)
    """Every problem of the stage's data that the engines have room for."""
    self._shard = Shard(jax.process_index(), jax.process_count())
    self._world: World | None = None
    """That of the round in flight."""
    self._stopped = False

  @contextlib.contextmanager
  def ending(self) -> Iterator[None]:
    """Makes `groups` fail soon, in any thread, once the block has failed."""
    with contextlib.ExitStack() as stack:
      stack.callback(self._stop)
      yield
      stack.pop_all()

  def _stop(self) -> None:
    self._stopped = True
    if self._world is not None:
      self._world.stop(_cut_short())

  def groups(self, number: int, problems: Sequence[Problem]) -> list[Group]:
    """Samples problems of a round; what its store holds is not asked again.

    With several processes each samples a shard, and all return all groups.

    Raises:
      Preempted: SIGTERM arrived; what was finished is stored.
    """
    own = [p for p in problems if p in self._shard]
    with alone(), self._open(number, self._shard.name) as store:
      world = World(
        store,
        self._seats,
        self.policy.renderer,
        self._judge,
        seed=self._run.seed,
        round=number,
      )
      world.check(own)
      self._world = world
      if self._stopped:
        raise _cut_short()
      found = self._collect(own, world)
    if self._shard.count == 1:
      return found
    meeting.barrier(f"sampled {number}.{problems[0].id if problems else ''}")
    with self._open(number, read_only=True) as store:
      seats = sampling.replayed(
        self._stage,
        self.policy.renderer,
        self._run.section(Prompts, "prompts"),
      )
      world = World(
        store, seats, self.policy.renderer, seed=self._run.seed, round=number
      )
      return self._collect(problems, world)

  def _collect(self, problems: Sequence[Problem], world: World) -> list[Group]:
    assert self._stage.algorithm.sample is not None
    found = collect(problems, self._stage.algorithm.sample, world)
    with contextlib.closing(found):
      return list(found)

  def _open(
    self, number: int, shard: str = "0", read_only: bool = False
  ) -> Store:
    directory = round_directory(self._run.directory(self._stage.name), number)
    meta = {**self._meta, "round": number}
    return Store(directory, meta, shard=shard, read_only=read_only)

  @functools.cached_property
  def _meta(self) -> dict[str, Any]:
    """Returns the settings that the answers of every round depend on."""
    return sampling.store_meta(self._run, self._stage)


def _cut_short() -> SophiaError:
  return SophiaError("sampling is stopped: the run has failed")


@contextlib.contextmanager
def alone() -> Iterator[None]:
  """Lets this process compute by itself in the block, on its first device.

  A session's mesh has the devices of all processes; a program on it must be run
  by every one of them. With one process nothing changes.
  """
  if jax.process_count() == 1:
    yield
    return
  device = jax.local_devices()[:1]
  with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(fsdp=1), device)):
    yield


def local(params: Params) -> Params:
  """Returns parameters that this process can use alone."""
  if jax.process_count() == 1:
    return params
  whole = multihost_utils.process_allgather(params, tiled=True)
  return jax.device_put(whole, jax.local_devices()[0])


@contextlib.contextmanager
def opened(
  run: Run,
  stage: Stage,
  model: Model,
  params: Params,
  others: sampling.Engines,
) -> Iterator[Sampler]:
  """Opens the policy's engine for a stage's rounds.

  Args:
    params: weights that an embedded engine begins with.
    others: engines of the models beside the policy.
  """
  embedded = run.config.policy.engine == "embedded"
  opening = (_embedded if embedded else _served)(run, stage, model, params)
  del params  # or they would be held until the last round
  with (
    sampling.verifier(run) as judge,
    opening as policy,
    explained("what was finished is stored"),
  ):
    yield Sampler(run, stage, policy, others, judge)


@contextlib.contextmanager
def _embedded(
  run: Run, stage: Stage, model: Model, params: Params
) -> Iterator[Policy]:
  """Opens the policy in this process."""
  own = local(params)
  with alone():
    engine = EmbeddedEngine(
      model.module,
      own,
      model.renderer,
      run.section(EngineConfig, "engine"),
      TileCache(model.image),
    )
  del own, params
  yield Policy(engine, lambda params, v: engine.load(local(params), v))


@contextlib.contextmanager
def _served(
  run: Run, stage: Stage, model: Model, params: Params
) -> Iterator[Policy]:
  """Opens the policy in servers, which take new weights by files."""
  del params  # the servers read the checkpoint that the stage starts from
  run = copy.copy(run)
  run.config = run.config.copy_and_resolve_references()
  if not run.config.serve.weights:
    run.config.serve.weights = str(run.workdir / "weights")
  root = Path(run.config.serve.weights)
  root.mkdir(parents=True, exist_ok=True)
  how = run.section(Sampling, "answering")
  probe = Request(
    id="probe",
    prompt=model.renderer.prompt("1 + 1 = ?"),
    sampling=Sampling(temperature=0.0, max_new_tokens=4),
  )
  save = functools.partial(_saved, run, model)
  with engines.policy(run, run.start(stage), how.max_new_tokens) as engine:
    served = ServedWeights([engine], root, save, probe)  # type: ignore[list-item]
    yield Policy(engine, lambda params, v: served.load(params, v))


def _saved(run: Run, model: Model, params: Params, directory: Path) -> None:
  """Writes weights as the policy's servers read them."""
  serve = supervise.serve_config(run.config)
  save_params(
    params,
    model.module.cfg,
    directory,
    model.directory,
    dtype=serve.dtype or run.config.policy.dtype,
    format=engines.served_format(run, model.module.cfg),
  )


def rounds(run: Run, stage: Stage) -> Iterator[Iterator[Group]]:
  """Yields the groups of every round of a stage that is done, from the stores,
  in the order in which the rounds drew them."""
  prompts = run.section(Prompts, "prompts")
  words = sampling.words_of(run, stage)
  problems = sampling.problems(run, stage)
  long = lengths.left_out(run, stage, problems, words)
  drawable = [p for p in problems if p.id not in long]
  assert stage.algorithm.sample is not None
  drawn = 0
  for number in range(stage.config.rounds):
    path = round_directory(run.directory(stage.name), number)
    with Store(path, read_only=True) as store:
      world = World(
        store,
        sampling.replayed(stage, words, prompts),
        words,
        seed=run.seed,
        round=number,
      )
      found, drawn = _drawn(run, stage, drawable, drawn, world)
      names = {p.id for p in found}
      others = (p for p in problems if p.id not in names)
      whole = [*found, *(p for p in others if world.complete(p))]
      yield collect(whole, stage.algorithm.sample, world, ahead=1)


def _drawn(
  run: Run, stage: Stage, problems: Sequence[Problem], drawn: int, world: World
) -> tuple[list[Problem], int]:
  """Draws the problems of a round that is done again.

  Returns:
    The problems, and the number of problems drawn by then, as `draws.wave`.
  """
  found: list[Problem] = []
  seen: set[str] = set()
  for _ in range(stage.config.draws):
    wave, after = draws.wave(
      problems, stage.config.groups, run.seed, drawn, seen
    )
    if not all(map(world.complete, wave)):
      break  # the round had enough groups before
    found, drawn = [*found, *wave], after
  return found, drawn
