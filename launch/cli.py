"""What every command shares: flags, one-line errors, exit codes, the workdir."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import json
import logging
import math
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from launch import hosts
from sophia_jax.config import nearest, section
from sophia_jax.train.loop import Preempted
from sophia_jax.types import SophiaError

T = TypeVar("T")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "sophia_jax/xla"

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

  def __init__(self, config: ConfigDict, workdir: str):
    """Makes the workdir, or checks that it is this config's.

    Of several processes the first one makes it.

    Raises:
      SophiaError: the workdir was made with another config, or processes do not
        have the same, or do not see the same workdir.
    """
    self.config = config
    self.workdir = Path(workdir).absolute()
    own = self.workdir / "config.json"
    text = json.dumps(config.to_dict(), indent=1)
    hosts.agree("config", text, "give the same command on every host")
    if own.exists():
      _same(own, json.loads(own.read_text("utf-8")), json.loads(text))
    if hosts.first():
      self.workdir.mkdir(parents=True, exist_ok=True)
      write_text(own, text)
    hosts.together("workdir")
    hosts.check_seen(own)

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
    other.config = for_topology(self.config, name, given())
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
    if not hosts.first():
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


def write_text(path: Path, text: str) -> None:
  """Whole or not at all, and likewise if several processes write it at once."""
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  partial.write_text(text, encoding="utf-8")
  partial.replace(path)


# ---------------------------------------------------------------------- commands
def start(command: Callable[[], None], example: str, needs: tuple[str, ...]):
  """Runs a command whose flags are defined; never returns.

  Exit codes: 0 success (SIGTERM during sampling and training included: what is
  done is saved and a restart goes on), 1 an error that was explained in one line.
  """

  def parse(argv: list[str]) -> list[str]:
    if {"--help", "-help", "-h"} & set(argv):
      _help()
    try:
      _check_overrides(argv)
      rest = flags.FLAGS(argv)
    except SophiaError as e:
      _fail(str(e))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
      _fail(f"{_one_line(e)}; see --help. Example: {example}")
    for name in needs:
      if flags.FLAGS[name].value is None:
        _fail(f"--{name} must be given; see --help. Example: {example}")
    if rest[1:]:
      _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    return rest

  def work() -> int:
    _set_up()
    return _explained(command)

  def main(_: list[str]) -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)
    sys.exit(_explained(lambda: hosts.run(work)))

  app.run(main, flags_parser=parse)


def _explained(command: Callable[[], int | None]) -> int:
  """The exit code of a command; a user's mistake is said in one line."""
  try:
    return command() or 0
  except SophiaError as e:
    print(f"error: {_one_line(e)}", file=sys.stderr)
    return 1
  except Preempted as e:
    if hosts.first():
      print(f"preempted: {e}; the same command goes on from there")
    return 0


def _help() -> None:
  """What the command does, an example, its flags; unlike absl's, a success."""
  for name in ("config", "workdir", *hosts.FLAGS):
    if name in flags.FLAGS:
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)


def _check_overrides(argv: list[str]) -> None:
  """Names the nearest key of a misspelt --config.KEY=VALUE.

  Raises:
    SophiaError: there is no such config file, or no such key in it.
  """
  given = [
    following if argument == "--config" else argument.partition("=")[2]
    for argument, following in zip(argv, [*argv[1:], ""])
    if argument == "--config" or argument.startswith("--config=")
  ]
  if not given:
    return
  config = _read_config(Path(given[-1]))
  for argument in argv:
    if not argument.startswith("--config."):
      continue
    name = argument.removeprefix("--").partition("=")[0]
    values = config
    for key in name.split(".")[1:]:
      known = values.keys() if isinstance(values, ConfigDict) else ()
      if key not in known:
        raise SophiaError(f"{name}: no such key; {nearest(key, known)}")
      values = values[key]


def _read_config(path: Path) -> ConfigDict:
  if not path.is_file():
    near = ", ".join(sorted(str(p) for p in path.parent.glob("[!_]*.py")))
    raise SophiaError(f"{path}: no such config; there is {near or 'none here'}")
  try:
    names = runpy.run_path(str(path))
  except SyntaxError as e:
    raise SophiaError(
      f"{path}:{e.lineno}: {e.msg}; a config is a Python file"
    ) from e
  if "get_config" not in names:
    raise SophiaError(f"{path}: no get_config(); see configs/quickstart.py")
  return names["get_config"]()


def define_run_flags() -> None:
  """--config and --workdir."""
  config_flags.DEFINE_config_file("config", None, "A file of configs/.")
  flags.DEFINE_string(
    "workdir", None, "Directory of everything the run writes."
  )


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


def given() -> dict[str, Any]:
  """What the command line says: {"train.rows": 8}."""
  return config_flags.get_override_values(flags.FLAGS["config"])


def run_of_flags() -> Run:
  return Run(flags.FLAGS.config, flags.FLAGS.workdir)


def _set_up() -> None:
  handler = logging.StreamHandler()
  who = "" if hosts.first() else f"[{jax.process_index()}] "
  form = f"%(asctime)s {who}%(message)s"
  handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
  log = logging.getLogger("sophia_jax")
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  log.propagate = False
  cache = CACHE.expanduser()
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _one_line(error: BaseException) -> str:
  text = str(error.args[0]) if error.args else type(error).__name__
  return " ".join(text.split())


def _fail(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)
