"""An experiment: a TOML file that says what is compared before anything is run."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sophia_jax.config import nearest
from sophia_jax.types import SophiaError, quoted

KINDS = ("above", "same", "order", "later")
"""Kinds of hypotheses: one arm is better than another, two differ by less than the
smallest effect of interest, several are in an order, one collapses later."""


@dataclasses.dataclass(frozen=True)
class Arm:
  """One variant: a further update of the base's samples, or another run."""

  name: str
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Keys of the config and their values: {"stages.sophia.random": true}."""
  config: str = ""
  """A config that starts from the base's result; "": an update of the base's own
  samples."""
  apart: bool = False
  """A run that starts from what all seeds share instead, and draws the same
  problems; of the base's config, unless `config` names another."""


START = "start"
"""Name of what the arms start from, where a hypothesis compares with it: its
measure is that of the first arm before the update."""


@dataclasses.dataclass(frozen=True)
class Hypothesis:
  """A relation between arms that the claim predicts."""

  kind: str
  """One of KINDS."""
  arms: tuple[str, ...]
  """Arms, the highest measure first."""
  measure: str = ""
  """Path of its measure in report.json; "": the primary one. Hypotheses on one
  measure are a family (Holm)."""


@dataclasses.dataclass(frozen=True)
class Given:
  """Models that all seeds share, made once: intervals do not cover their chance."""

  stages: tuple[str, ...]
  """First stages of the config's order."""
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Keys of the config for this run alone."""


@dataclasses.dataclass(frozen=True)
class Collapse:
  """The rule by which a run of rounds collapses (`survival.life`)."""

  metric: str
  """Metric of a round that collapses."""
  share: float
  """Share of its peak that it falls below."""
  rounds: int
  """Rounds in a row that it stays there."""


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Contents of an experiment's file."""

  name: str
  digest: str
  """Identity of the file's content."""
  title: str
  claim: str
  """The claim that is tested, and its source."""
  config: str
  """Config of the base, which a seed's arms share."""
  primary: str
  """Path of the primary measure in report.json."""
  smallest: float
  """Smallest effect of interest, in the units of the primary measure."""
  arms: tuple[Arm, ...]
  hypotheses: tuple[Hypothesis, ...]
  seeds: int
  """Number of base seeds."""
  first: int = 0
  """First of the base seeds, which follow each other."""
  given: Given | None = None
  """Stages that all seeds share; None: each seed makes its own."""
  seeded: tuple[str, ...] = ()
  """Keys of the config that have the seed's number, beside `seed`."""
  repeats: int = 1
  """Updates of each arm and seed that differ in the order of sequences alone."""
  repeated: tuple[str, ...] = ()
  """Arms with `repeats` updates, others have one; (): all. The first is one of
  them: it is compared with itself."""
  stage: str = ""
  """The stage whose order of sequences the repeats change; its `train.order`."""
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Keys of the config that all arms share."""
  shown: tuple[str, ...] = ()
  """Paths of further measures in report.json that tables show."""
  labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """Names of measures in tables, by their paths."""
  collapse: Collapse | None = None
  """The rule of the hypotheses "later"."""
  series: tuple[str, ...] = ()
  """Further metrics of a round that results hold, round by round."""

  @property
  def kept(self) -> tuple[str, ...]:
    """Metrics that results hold, round by round."""
    first = (self.collapse.metric,) if self.collapse else ()
    return tuple(dict.fromkeys((*first, *self.series)))

  def measure(self, hypothesis: Hypothesis) -> str:
    """Returns the path of a hypothesis's measure."""
    return hypothesis.measure or self.primary

  def label(self, path: str) -> str:
    """Returns the name of a measure in tables."""
    return self.labels.get(path, f"`{path}`")


@dataclasses.dataclass(frozen=True)
class Unit:
  """One run: an arm of a seed."""

  seed: int
  arm: Arm
  repeat: int

  @property
  def name(self) -> str:
    """The name of its update or workdir."""
    return f"{self.arm.name}-{self.repeat}"

  @property
  def key(self) -> tuple[int, str, int]:
    """Seed, arm and repeat, which a line of results names."""
    return self.seed, self.arm.name, self.repeat


def units(experiment: Experiment, seeds: tuple[int, ...]) -> Iterator[Unit]:
  """Yields the units, a seed's base first."""
  for seed in seeds:
    for repeat in range(experiment.repeats):
      for arm in experiment.arms:
        if not repeat or arm.name in (experiment.repeated or (arm.name,)):
          yield Unit(seed, arm, repeat)


def read(path: Path) -> Experiment:
  """Reads the file of an experiment.

  Raises:
    SophiaError: there is none, or it is none; names the file and the key.
  """
  try:
    text = path.read_text(encoding="utf-8")
    values = tomllib.loads(text)
  except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
    raise SophiaError(f"{path}: {e}") from e
  arms = tuple(
    _made(Arm, path, f"arms.{name}", {"name": name, **_table(path, name, arm)})
    for name, arm in _table(path, "arms", values.pop("arms", None)).items()
  )
  listed = values.pop("hypotheses", [])
  hypotheses = tuple(
    _made(Hypothesis, path, "hypotheses", _table(path, "hypotheses", each))
    for each in (listed if isinstance(listed, list) else [listed])
  )
  if "given" in values:
    given = _table(path, "given", values["given"])
    values["given"] = _made(Given, path, "given", given)
  if "collapse" in values:
    rule = _table(path, "collapse", values["collapse"])
    values["collapse"] = _made(Collapse, path, "collapse", rule)
  digest = hashlib.sha256(text.encode()).hexdigest()[:12]
  found: dict[str, Any] = {
    "name": path.stem,
    "digest": digest,
    "arms": arms,
    "hypotheses": hypotheses,
  }
  experiment: Experiment = _made(Experiment, path, "", {**values, **found})
  _check(path, experiment)
  return experiment


def _table(path: Path, key: str, value: Any) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise SophiaError(f"{path}: {key}: needs a table [{key}]")
  return value


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
  "bool": ((bool,), "true or false"),
  "int": ((int,), "a whole number"),
  "float": ((int, float), "a number"),
  "str": ((str,), "a text"),
  "tuple": ((list, tuple), "a list"),
  "Mapping": ((dict,), "a table"),
}
"""Annotation of a field -> what it takes, and how that is called."""


def _made(kind: type, path: Path, where: str, values: dict[str, Any]) -> Any:
  """Makes a dataclass of a table."""
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for key, value in values.items():
    at = f"{where}.{key}".lstrip(".")
    if key not in fields:
      raise SophiaError(f"{path}: {at}: no such key; {nearest(key, fields)}")
    types, called = _TYPES.get(
      str(fields[key].type).partition("[")[0], ((object,), "")
    )
    if not isinstance(value, types):
      raise SophiaError(f"{path}: {at}={quoted(value)}: needs {called}")
  for key, field in fields.items():
    needed = (
      field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    )
    if needed and key not in values:
      raise SophiaError(f"{path}: {where}: {key} is missing")
  return kind(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
  )


def _check(path: Path, experiment: Experiment) -> None:
  names = [arm.name for arm in experiment.arms]
  if START in names:
    raise SophiaError(f"{path}: arms.{START}: has another meaning; rename it")
  for name in experiment.repeated:
    if name not in names:
      raise SophiaError(
        f"{path}: repeated: no arm {name!r}; {nearest(name, names)}"
      )
  for hypothesis in experiment.hypotheses:
    _check_hypothesis(path, experiment, hypothesis)
  if not experiment.arms or experiment.arms[0].config:
    raise SophiaError(f"{path}: arms: the first is the base, without a config")
  for arm in experiment.arms:
    if arm.apart and (arm is experiment.arms[0] or not experiment.given):
      raise SophiaError(
        f"{path}: arms.{arm.name}.apart: needs a table [given], which the first "
        "arm and this one both start from"
      )
  if experiment.repeats > 1 and not experiment.stage:
    raise SophiaError(f"{path}: repeats={experiment.repeats} needs a stage")
  if experiment.repeated and names[0] not in experiment.repeated:
    raise SophiaError(
      f"{path}: repeated: add {names[0]!r}, the arm that is compared with itself"
    )


def _check_hypothesis(
  path: Path, experiment: Experiment, hypothesis: Hypothesis
) -> None:
  names = [arm.name for arm in experiment.arms]
  if hypothesis.kind not in KINDS:
    raise SophiaError(
      f"{path}: hypotheses.kind={quoted(hypothesis.kind)}: one of {', '.join(KINDS)}"
    )
  for name in hypothesis.arms:
    if name not in (*names, START):
      raise SophiaError(
        f"{path}: hypotheses.arms: no arm {name!r}; {nearest(name, names)}"
      )
  least = 3 if hypothesis.kind == "order" else 2
  if len(hypothesis.arms) < least:
    raise SophiaError(
      f"{path}: hypotheses.arms: {quoted(hypothesis.kind)} needs {least} arms or more"
    )
  if hypothesis.kind == "later" and not experiment.collapse:
    raise SophiaError(
      f"{path}: hypotheses.kind='later' needs a table [collapse] with metric, "
      "share and rounds"
    )
