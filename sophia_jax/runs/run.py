"""A config and its workdir: paths, sections, stages, what a resumed run shares."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict

from sophia_jax.config import section
from sophia_jax.files import write_text
from sophia_jax.hosts import meeting
from sophia_jax.types import SophiaError

T = TypeVar("T")

# What may differ between two commands on one workdir: none of it changes what
# was, or will be, written there.
# A section stands for all its keys.
FREE = (
  *("eval", "engine", "reward", "mesh", "report", "client", "serve", "log"),
  *("topology", "topologies"),
  *(f"policy.{key}" for key in ("engine", "urls", "served")),
  *(f"policy.{key}" for key in ("remat", "attention")),
  *(f"reasoners.*.{key}" for key in ("engine", "urls", "served")),
)


class Run:
  """A config and the workdir that belongs to it."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    overrides: Mapping[str, Any] | None = None,
  ):
    """Makes the workdir, or checks that it is this config's.

    With several processes the leader makes it.

    Args:
      overrides: what the command line says, {"train.rows": 8}; it takes
        precedence over a topology.

    Raises:
      SophiaError: the workdir was made with another config, or processes do not
        have the same, or do not see the same workdir.
    """
    self.config, self.overrides = config, dict(overrides or {})
    self.workdir = Path(workdir).absolute()
    own = self.workdir / "config.json"
    text = json.dumps(config.to_dict(), indent=1)
    meeting.assert_same("config", text, "give the same command on every host")
    if own.exists():
      _same(own, json.loads(own.read_text("utf-8")), json.loads(text))
    if meeting.is_leader():
      self.workdir.mkdir(parents=True, exist_ok=True)
      write_text(own, text)
    meeting.barrier("workdir")
    meeting.wait_for_file(own)

  @property
  def seed(self) -> int:
    return self.config.seed

  def path(self, name: str) -> Path:
    """A path of the config; a relative one is inside the workdir."""
    return self.workdir / name

  def section(self, cls: type[T], name: str) -> T:
    """The config section `name` (dots descend) as the frozen dataclass."""
    values = self.config
    for key in name.split("."):
      values = values[key]
    return section(cls, values.to_dict(), name)

  def laid_out(self) -> Run:
    """This run with its updates laid out as config.topology says.

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
  def seconds(self) -> dict[str, float]:
    """Seconds of every stage that is done."""
    path = self.workdir / "stages.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}

  def done(self, stage: str) -> bool:
    return stage in self.seconds()

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Marks a stage as done, with its seconds, once its block has ended."""
    logging.getLogger("sophia_jax").info("--- %s", name)
    start = time.monotonic()
    yield
    self.mark(name, time.monotonic() - start)

  def mark(self, stage: str, seconds: float) -> None:
    """Marks a stage as done."""
    if not meeting.is_leader():
      return
    done = {**self.seconds(), stage: round(seconds, 2)}
    write_text(self.workdir / "stages.json", json.dumps(done, indent=1))


def _same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
  def leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
      yield prefix, tree
      return
    for key, value in tree.items():
      yield from leaves(value, f"{prefix}.{key}")

  before, after = (dict(leaves(_whole(tree), "")) for tree in (old, new))
  for key in sorted(before | after):
    if before.get(key) != after.get(key) and not _is_free(key):
      raise SophiaError(
        f"{path}: this workdir was made with another config: config{key} was "
        f"{before.get(key)!r}, is {after.get(key)!r}; use another --workdir"
      )


def _whole(config: dict[str, Any]) -> dict[str, Any]:
  """A config of the same batches, each in one microbatch.

  How many rows a shard of the packing has is left to the checkpoints to check.
  """
  whole = copy.deepcopy(config)
  for stage in whole.values():
    if isinstance(stage, dict) and {"rows", "microbatches"} <= stage.keys():
      stage.update(one_microbatch(stage))
  whole.get("packing", {}).pop("shards", None)
  return whole


def one_microbatch(stage: Mapping[str, Any]) -> dict[str, Any]:
  """What a stage of training says of its shape, for all of a batch at once."""
  count = stage["microbatches"]
  each = {name: stage[name] * count for name in ("rows", "tiles")}
  return {**each, "microbatches": 1}


def _is_free(key: str) -> bool:
  """Whether ".policy.engine" or ".eval.limit" may change."""
  return any(fnmatch.fnmatchcase(f"{key}.", f".{name}.*") for name in FREE)


def for_topology(
  config: ConfigDict, topology: str, over: Mapping[str, Any]
) -> ConfigDict:
  """The config as it sets itself up for a topology, if it says how.

  `config.topologies[topology]` holds what differs: {"train": {"rows": 64}}.

  Args:
    over: what wins over that: `given`.
  """
  config = config.copy_and_resolve_references()
  config.update(config.get("topologies", {}).get(topology, {}))
  config.update_from_flattened_dict(over)
  return config
