"""A config and its workdir: paths, sections, stages, what a resumed run shares."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict

from sophia_jax import stopping
from sophia_jax.checkpoints import hub
from sophia_jax.config import nearest, section
from sophia_jax.data.problems import load_problems
from sophia_jax.files import read_json, write_json
from sophia_jax.hosts import meeting
from sophia_jax.runs import stage as stages
from sophia_jax.runs.stage import Stage
from sophia_jax.types import Problem, SophiaError, quoted

T = TypeVar("T")
CONFIG, SECONDS, UPDATES = "config.json", "stages.json", "updates"
SECTIONS = (
  *("seed", "policy", "data", "images", "prompts", "captioning", "reasoning"),
  *("answering", "engine", "reward", "mixture", "filters", "packing", "eval"),
  *("mesh", "log", "stages", "order"),
)
"""Keys that every config has."""
NAMED = ("reasoners", "teachers")
"""Sections of any number of models by name; none if absent."""
TAKEN = {
  *("adapter", "average", "checkpoints", "config.json", "critic", "data"),
  *("evals", "export", "filters.json", "input.json", "metrics.jsonl", "models"),
  *("pictures", "planning", "report.html", "report.json", "rounds"),
  *("stages.json", "tensorboard", "trajectories", "updates", "vision"),
  # Steps of preparations and evaluations.
  *("after", "before", "clip_files", "descriptions", "pans", "pans_start"),
  *("practice", "world"),
}
"""Names in a workdir, and of steps, that no stage may have."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_REMAKE = "name the workdir of a finished run"
_REPEAT = "remove it: steps resume from what they wrote"


class Run:
  """A config and the workdir that belongs to it.

  Nothing is written before `begin`. The workdir keeps the config of its last
  command; what must not change between two commands is checked by the stage
  that depends on it.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    overrides: Mapping[str, Any] | None = None,
    name: str = "",
  ):
    """Reads the config; touches nothing.

    Args:
      overrides: what the command line says, {"seed": 1}; it takes precedence
        over a topology.
      name: a further update of the last stage, beside the workdir's first: its
        results are in W/updates/NAME, everything before is shared.

    Raises:
      SophiaError: the name is none, or config.base is no workdir.
    """
    if name and not _NAME.fullmatch(name):
      raise SophiaError(
        f"--name={name[:80]}: use letters, digits, -, _ and ., at most 64"
      )
    self.config, self.overrides = config, dict(overrides or {})
    self.workdir = Path(workdir).absolute()
    self.name = name
    self.place = self.workdir / UPDATES / name if name else self.workdir
    """Directory of what the last stage makes: checkpoints, export, report."""
    self.base = Base.of(config.get("base", ""))
    seed = config.get("seed", 0)
    if not isinstance(seed, int) or not 0 <= seed < 1 << 32:
      raise SophiaError(
        f"config.seed={quoted(seed)}: a whole number from 0 to 2**32 - 1"
      )
    self._problems: dict[Path, tuple[Problem, ...]] = {}

  def agree(self) -> None:
    """Raises SophiaError if processes have different configs."""
    text = json.dumps(self.config.to_dict(), indent=1)
    meeting.assert_same("config", text, "give the same command on every host")

  def begin(self, keep: bool = False) -> None:
    """Makes the workdir; with several processes the leader makes it.

    Args:
      keep: the workdir keeps the config that it has, which is its update's.

    Raises:
      SophiaError: processes have different configs, or do not see the same
        workdir.
    """
    own = self.place / CONFIG
    stopping.check("nothing is begun")
    self.agree()
    if meeting.is_leader():
      for path in (self.workdir / CONFIG, own):
        if (path == own and not keep) or not path.exists():
          write_json(path, self.config.to_dict())
    meeting.barrier("workdir")
    meeting.wait_for_file(own)

  @property
  def seed(self) -> int:
    return self.config.seed

  def path(self, name: str) -> Path:
    """Returns a path of the config; a relative one is inside the workdir.

    What the workdir does not have comes from the base, where there is one; what
    neither has and the Hub's cache knows by this name, from there.
    """
    own = self.workdir / name
    if own.exists():
      return own
    based = self.base.path(name) if self.base else None
    return based or hub.cached(name) or own

  def problems(self, name: str) -> tuple[Problem, ...]:
    """Returns the problems of a file of the config, read and checked once.

    Raises:
      SophiaError: the first mistake in the file.
    """
    path = self.path(name)
    if path not in self._problems:
      self._problems[path] = tuple(load_problems(path))
    return self._problems[path]

  def section(self, cls: type[T], name: str) -> T:
    """Returns the config section `name` (dots descend) as the dataclass."""
    values = self.config
    for key in name.split("."):
      values = values[key]
    return section(cls, values.to_dict(), name)

  def laid_out(self) -> Run:
    """Returns this run with its updates laid out as config.topology says.

    What the command line says itself is left as it is.

    Raises:
      SophiaError: the config does not know it, or it has other devices.
    """
    name = self.config.get("topology")
    if not name:
      return self
    known = self.config.get("topologies", {})
    if name not in known:
      raise SophiaError(
        f"config.topology={name}: not in config.topologies, which has "
        f"{', '.join(known) or 'none'}"
      )
    size = name.partition(":")[2]
    wanted = math.prod(int(n) for n in size.split("x"))
    if wanted != jax.device_count():
      raise SophiaError(
        f"config.topology={name} has {wanted} devices, there are "
        f"{jax.device_count()}; name another, or start on all hosts "
        "(--coordinator)"
      )
    other = copy.copy(self)
    other.config = for_topology(self.config, name, self.overrides)
    return other

  # -------------------------------------------------------------------- stages
  def check_order(self, only: str = "") -> None:
    """Checks config.order.

    Args:
      only: a stage that must be part of it; "": none.

    Raises:
      SophiaError: it is empty, names a stage twice or one that is not there, or
        one whose name has another meaning in a workdir.
    """
    order, known = list(self.config.order), self.config.stages
    if not order:
      raise SophiaError(
        "config.order: no stages; list names of config.stages, which has "
        f"{', '.join(known) or 'none'}"
      )
    for name in order:
      if name not in known:
        raise SophiaError(f"config.order: {name!r}; {nearest(name, known)}")
      if name in TAKEN or not _NAME.fullmatch(name):
        raise SophiaError(
          f"config.stages: {name!r} cannot name a stage: it "
          f"{'has another meaning' if name in TAKEN else 'is no plain name'} "
          "in a workdir; use another"
        )
      if order.count(name) > 1:
        raise SophiaError(
          f"config.order: {name!r} stands twice; give the second a row of its "
          "own in config.stages"
        )
    if only and only not in order:
      raise SophiaError(f"--stage={only}: {nearest(only, order)}")

  def stages(self) -> list[Stage]:
    """Returns the stages of config.order that the base has not done."""
    names = [
      name
      for name in self.config.order
      if not (self.base and self.base.done(name))
    ]
    return [stages.read(self.config, name) for name in names]

  def last(self) -> Stage:
    """Returns the stage whose result is the run's: W/checkpoints, W/export."""
    return stages.read(self.config, self.config.order[-1])

  def directory(self, stage: str) -> Path:
    """Returns where a stage's checkpoints, metrics and export are."""
    if self.base and self.base.done(stage):
      return self.base.directory(stage)
    if stage == self.config.order[-1]:
      return self.place
    return stage_directory(self.workdir, self.config.order, stage)

  def evals(self, name: str) -> Path:
    """Returns the directory of an evaluation; updates share those before them."""
    shared = name == "before" or name in self.config.order[:-1]
    return (self.workdir if shared else self.place) / "evals"

  def start(self, stage: Stage) -> Path:
    """Returns the checkpoint that a stage starts from.

    Raises:
      SophiaError: config.stages.NAME.start names no earlier stage.
    """
    if stage.config.model != "policy":
      return self.path(self.config.reasoners[stage.config.model].start)
    return self._weights(stage, "start", stage.config.start)

  def sampler(self, stage: Stage) -> Path:
    """Returns the checkpoint that a stage samples with.

    Raises:
      SophiaError: config.stages.NAME.sampler names no earlier stage.
    """
    if not stage.config.sampler:
      return self.start(stage)
    return self._weights(stage, "sampler", stage.config.sampler)

  def _weights(self, stage: Stage, key: str, name: str) -> Path:
    """Returns the checkpoint that `name`, the value of a stage's key, means."""
    where = f"config.stages.{stage.name}.{key}"
    earlier = [
      other
      for other in self._before(stage.name)
      if other.config.model == "policy" and other.learns
    ]
    if name == stages.PREVIOUS:
      answering = [other.name for other in earlier if other.algorithm.answers]
      name = answering[-1] if answering else stages.BASE
    if name == stages.BASE:
      return self.path(self.config.policy.path)
    if name not in {other.name for other in earlier}:
      raise SophiaError(
        f"{where}={name}: no earlier stage of the policy; use previous, base"
        + "".join(f", {other.name}" for other in earlier)
      )
    return self.directory(name) / "export"

  def _before(self, stage: str) -> list[Stage]:
    """Returns the stages before `stage` in config.order."""
    order = list(self.config.order)
    names = order[: order.index(stage)]
    return [stages.read(self.config, name) for name in names]

  def writes(self, stage: str, data: str) -> bool:
    """Returns whether a stage before `stage` writes the file `data`."""
    writers = [s.name for s in self._before(stage) if not s.learns]
    return any(Path(name) in Path(data).parents for name in writers)

  # ---------------------------------------------------------------------- done
  def seconds(self) -> dict[str, float]:
    """Returns the seconds of every step that is done."""
    shared = _seconds(self.workdir)
    if not self.name:
      return shared
    own = {k: v for k, v in shared.items() if not self._is_own(k)}
    return own | _seconds(self.place)

  def _is_own(self, step: str) -> bool:
    """Returns whether each update of a workdir does a step itself."""
    return step in (*self.config.order[-1:], "after")

  def done(self, step: str) -> bool:
    return step in self.seconds()

  def made(self, step: str) -> bool:
    """Returns whether the run, or the base it starts from, has done a step."""
    return self.done(step) or (self.base is not None and self.base.done(step))

  @contextlib.contextmanager
  def step(self, name: str) -> Iterator[None]:
    """Records a step as done, with its seconds, once its block has ended.

    Raises:
      Preempted: SIGTERM arrived before the step began.
    """
    stopping.check(f"{name} is not begun")
    logging.getLogger("sophia_jax").info("--- %s", name)
    start = time.monotonic()
    yield
    self.mark(name, time.monotonic() - start)

  def mark(self, step: str, seconds: float) -> None:
    """Records a step as done."""
    if not meeting.is_leader():
      return
    where = self.place if self._is_own(step) else self.workdir
    done = {**_seconds(where), step: round(seconds, 2)}
    write_json(where / SECONDS, done)


def completed(config: ConfigDict) -> ConfigDict:
  """Returns a config that has every section; those for names may be absent.

  Raises:
    SophiaError: names the first section that is absent.
  """
  for name in SECTIONS:
    if name not in config:
      raise SophiaError(
        f"config.{name}: absent; begin with c = configs.base.get_config(), which "
        "has every section, and change what differs"
      )
  absent = [name for name in NAMED if name not in config]
  if absent:
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.update({name: ConfigDict() for name in absent})
  return config


class Base:
  """A finished run that another one starts from; only read."""

  def __init__(self, workdir: Path):
    self.workdir = workdir
    self.config = read_json(workdir / CONFIG, _REMAKE)
    """The base's config."""
    order = self.config.get("order")
    if not isinstance(order, list) or not order:
      raise SophiaError(
        f"{workdir / CONFIG}: has no order of stages; {_REMAKE}"
      )
    self._done = _seconds(workdir)
    before = self.config.get("base", "")
    found = bool(before) and (Path(before) / CONFIG).is_file()
    self.base = Base.of(before if found else "")
    """The run that it started from itself, where that is still there."""

  @classmethod
  def of(cls, name: str) -> Base | None:
    """Opens the workdir `name`; None where there is no name.

    Raises:
      SophiaError: it is no workdir of a run.
    """
    if not name:
      return None
    workdir = Path(name).absolute()
    if not (workdir / CONFIG).is_file():
      raise SophiaError(
        f"config.base={name}: no {CONFIG} there; name the workdir of a "
        "finished run, or leave it out to make everything here"
      )
    return cls(workdir)

  @property
  def origin(self) -> Base:
    """The run at the start of the chain, which made the data."""
    return self.base.origin if self.base else self

  def done(self, step: str) -> bool:
    """Returns whether it, or the run that it started from, has done a step."""
    return step in self._done or (
      self.base is not None and self.base.done(step)
    )

  def directory(self, stage: str) -> Path:
    """Returns where a stage's result is."""
    if self.base and stage not in self._done and self.base.done(stage):
      return self.base.directory(stage)
    return stage_directory(self.workdir, self.config["order"], stage)

  def path(self, name: str) -> Path | None:
    """Returns a file of it, or of the run that it started from."""
    if (own := self.workdir / name).exists():
      return own
    return self.base.path(name) if self.base else None


def stage_directory(workdir: Path, order: Any, stage: str) -> Path:
  """Returns W for the last stage of a run, W/NAME for the others."""
  return workdir if stage == order[-1] else workdir / stage


def _seconds(workdir: Path) -> dict[str, float]:
  path = workdir / SECONDS
  if not path.exists():
    return {}
  found = read_json(path, _REPEAT)
  if not all(isinstance(value, int | float) for value in found.values()):
    raise SophiaError(f"{path}: holds something else than seconds; {_REPEAT}")
  return found


def for_topology(
  config: ConfigDict, topology: str, over: Mapping[str, Any]
) -> ConfigDict:
  """Returns the config as it sets itself up for a topology, if it says how.

  `config.topologies[topology]` holds what differs; its "train" goes into every
  stage: {"train": {"rows": 64}, "mesh": {"fsdp": 8}}.

  Args:
    over: overrides of the command line, which take precedence.
  """
  config = config.copy_and_resolve_references()
  changes = dict(config.get("topologies", {}).get(topology, {}))
  train = changes.pop("train", {})
  for stage in config.stages.values():
    stage.train.update(train)
  config.update(changes)
  config.update_from_flattened_dict(over)
  return config
