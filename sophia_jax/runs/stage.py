"""A stage of a run: one row of the config's table of stages.

  c.stages = {
    "warmup": stage("sft", data="data/warmup.jsonl", train={"epochs": 2}),
    "sophia": stage("sophia", alpha=0.7, train={"epochs": 10}),
    "grpo": stage("grpo", rounds=100, groups=32, n=8),
  }
  c.order = ("warmup", "sophia", "grpo")

A row holds the keys of `StageConfig`, those of the method's own config, and
`train`, the keys of `TrainConfig`: `--config.stages.grpo.n=16`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sophia_jax.algorithms import corrections, registry
from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.algorithms.on_policy import on_policy
from sophia_jax.config import defaults, free, nearest, section
from sophia_jax.train.session import TrainConfig
from sophia_jax.types import SophiaError, quoted

PREVIOUS, BASE = "previous", "base"
CORRECTIONS = ("auto", "off", *corrections.MODES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
  """A stage, except for its method and its optimizer."""

  algorithm: str
  """Name in `algorithms.registry.ALGORITHMS`."""
  model: str = "policy"
  """Model that learns: "policy", or a name of config.reasoners."""
  start: str = free(PREVIOUS)
  """Weights it starts from: "previous" (the stage before), "base"
  (config.policy.path), or the name of an earlier stage."""
  sampler: str = ""
  """Weights it samples with where it samples once, named as `start`; "": those it
  starts from."""
  data: str = free("")
  """File it learns from: problems, examples or pairs; "": config.data.problems.
  A relative path is inside the workdir."""
  rounds: int = 1
  """Times that it samples and learns. 1: everything is sampled first."""
  groups: int = 0
  """Problems a round learns from; 0: all of the data."""
  draws: int = 1
  """Times `groups` problems that a round may sample until as many are left
  after the selection."""
  minibatches: int = 1
  """Updates an epoch of a round. With one update a round the old
  log-probabilities are that update's own, and no pass scores them before."""
  ahead: int = 0
  """Rounds sampled before their turn, with weights as many rounds old; 0 or 1."""
  correction: str = "auto"
  """Importance weights between sampler and trainer: "off", "truncate", "mask";
  "auto": "truncate" where the policy is served or sampled ahead."""
  correction_high: float = 2.0
  """Upper bound of these weights."""
  evaluate_every: int = free(0)
  """Rounds between two evaluations on the held-out problems; 0: none."""
  keep_tokens: int = free(8)
  """Rollouts of a round, drawn at random, of which each token is kept as its
  update saw it, for `launch.browse`; 0: none."""
  ratios: int = free(0)
  """Learnt trajectories of a last stage that samples once, whose ratio of policy
  to sampler is measured before and after the update; 0: none."""

  def __post_init__(self) -> None:
    for name in ("rounds", "draws", "minibatches"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 1 or more")
    for name in ("groups", "evaluate_every", "keep_tokens", "ratios"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    if self.correction not in CORRECTIONS:
      raise ValueError(
        f"correction is {quoted(self.correction)}; use one of "
        f"{', '.join(CORRECTIONS)}"
      )
    if self.ahead not in (0, 1):
      raise ValueError(f"ahead is {self.ahead}; use 0 or 1")
    if self.ratios and self.rounds > 1:
      raise ValueError(f"ratios is {self.ratios} and rounds above 1; use 0")
    if self.rounds > 1 and not self.groups:
      raise ValueError("rounds is above 1 and groups is 0; say how many")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """A row of the table, read."""

  name: str
  config: StageConfig
  method: Any
  """The config of its algorithm."""
  train: TrainConfig
  algorithm: Algorithm

  @property
  def samples(self) -> bool:
    """Whether it takes rollouts."""
    return self.algorithm.sample is not None

  @property
  def learns(self) -> bool:
    """Whether it makes a model; otherwise it writes files."""
    return self.algorithm.files is None


def stage(
  algorithm: str, *, train: Mapping[str, Any] | None = None, **values: Any
) -> ConfigDict:
  """Returns a row of the table with every key of its algorithm.

  Args:
    algorithm: name in `algorithms.registry.ALGORITHMS`.
    train: keys of `TrainConfig` that differ from its defaults.
    values: keys of `StageConfig` and of the algorithm's config.

  Raises:
    SophiaError: an unknown algorithm or key; names the nearest.
  """
  method = registry.config_of(algorithm)
  own = {f.name for f in dataclasses.fields(StageConfig)}
  known = own | {f.name for f in dataclasses.fields(method)}
  for key in values:
    if key not in known:
      raise SophiaError(
        f"stage({algorithm!r}): {key}: no such key; {nearest(key, known)}"
      )
  mine = {k: v for k, v in values.items() if k in own}
  row = defaults(StageConfig, algorithm=algorithm, **mine)
  row.update(
    defaults(method, **{k: v for k, v in values.items() if k not in own})
  )
  row.train = defaults(TrainConfig, **(train or {}))
  return row


def read(config: ConfigDict, name: str) -> Stage:
  """Reads the row `name` of the table.

  Raises:
    SophiaError: no such row, an unknown key, or values that no method can have
      or that do not go together.
  """
  if name not in config.stages:
    raise SophiaError(
      f"config.stages: no stage {name!r}; {nearest(name, config.stages)}"
    )
  values = config.stages[name].to_dict()
  where = f"stages.{name}"
  train = section(TrainConfig, values.pop("train", {}), f"{where}.train")
  method = registry.config_of(values.get("algorithm", ""))
  own = {f.name for f in dataclasses.fields(StageConfig)}
  mine = {k: v for k, v in values.items() if k in own}
  rest = {k: v for k, v in values.items() if k not in own}
  settings = section(StageConfig, mine, where)
  built: Any = section(method, rest, where)
  if settings.sampler and settings.rounds > 1:
    raise SophiaError(
      f"config.{where}.sampler={settings.sampler}: the stage learns in rounds, "
      "which the policy itself samples; leave it empty"
    )
  if train.updates and settings.rounds > 1:
    raise SophiaError(
      f"config.{where}.train.updates={train.updates}: the stage learns in rounds; "
      f"leave it at 0 and set {where}.rounds, epochs and minibatches"
    )
  algorithm = registry.build(settings.algorithm, rest)
  _refuse_alone(algorithm, settings, where)
  embedded = config.policy.engine == "embedded"
  return Stage(
    name=name,
    config=settings,
    method=built,
    train=train,
    algorithm=_in_rounds(
      _corrected(algorithm, settings, embedded), settings, train
    ),
  )


def _refuse_alone(
  algorithm: Algorithm, config: StageConfig, where: str
) -> None:
  """Raises SophiaError for one round of a method that moves a second model."""
  beside = {
    "a critic": algorithm.critic,
    "a copy that follows the policy": algorithm.average,
  }
  for what, model in beside.items():
    if model is not None and config.rounds == 1:
      raise SophiaError(
        f"config.{where}.rounds=1: {config.algorithm} has {what}, which learns "
        "in rounds alone; use 2 or more"
      )


def _in_rounds(
  algorithm: Algorithm, config: StageConfig, train: TrainConfig
) -> Algorithm:
  """Leaves the old log-probabilities out where a round makes one update."""
  if config.rounds > 1 and config.minibatches * train.epochs == 1:
    return on_policy(algorithm)
  return algorithm


def _corrected(
  algorithm: Algorithm, config: StageConfig, embedded: bool
) -> Algorithm:
  """Weights the policy's term where sampler and trainer are not one program."""
  mode = config.correction
  if mode == "auto":
    differs = not embedded or config.ahead > 0
    sampled = config.rounds > 1 and "old_logps" in algorithm.all_streams
    mode = "truncate" if differs and sampled else "off"
  if mode == "off":
    return algorithm
  return corrections.corrected(
    algorithm, corrections.Config(mode=mode, high=config.correction_high)
  )
