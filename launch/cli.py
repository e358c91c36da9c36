"""Parts of every command: flags, one-line errors, exit codes, the workdir."""

from __future__ import annotations

import gc
import logging
import os
import runpy
import sys
from collections.abc import Callable
from importlib import util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from launch import keys
from sophia_jax import faults, stopping
from sophia_jax.config import nearest
from sophia_jax.hosts import meeting, xla_flags
from sophia_jax.plans import aot
from sophia_jax.runs import saved
from sophia_jax.runs.run import CONFIG, UPDATES, Run, completed
from sophia_jax.stopping import Preempted
from sophia_jax.types import SophiaError

SAVED = Path(saved.__file__)
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "sophia_jax/xla"


# ---------------------------------------------------------------------- commands
def start(
  command: Callable[[], None],
  example: str,
  needs: tuple[str, ...],
  resumes: bool = False,
):
  """Runs a command whose flags are defined; never returns.

  Exit codes: 0 for success (SIGTERM included, where the same command resumes),
  1 for an error that the user can fix, `faults.CODE` for a fault of this
  program; each is reported in one line. 130 after Ctrl-C.

  Args:
    command: the work, once the flags are parsed.
    example: a command line, for --help and errors.
    needs: flags that must be given.
    resumes: whether the command looks at `stopping` and saves what it has;
      SIGTERM ends any other at once.
  """

  def parse(argv: list[str]) -> list[str]:
    try:
      argv = _with_workdirs_config(argv) if "config" in needs else argv
      _help(argv)
      _check_overrides(argv)
      rest = flags.FLAGS(_with_saved(argv))
    except SophiaError as e:
      _fail(str(e))
    except (
      *(flags.Error, AttributeError, KeyError, TypeError, ValueError),
      *(OverflowError, RecursionError, SyntaxError),
    ) as e:
      _fail(f"{_one_line(e)}; see --help. Example: {example}")
    for name in needs:
      if flags.FLAGS[name].value is None:
        _fail(f"--{name} must be given; see --help. Example: {example}")
    if rest[1:]:
      _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    return rest

  def work() -> int:
    _set_up()
    return _exit_code(command)

  def joined() -> int:
    _check_platform()
    return meeting.run(work)

  def main(_: list[str]) -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)
    (stopping.install if resumes else stopping.release)()
    xla_flags.apply()
    sys.exit(_last_resort(joined))

  app.run(main, flags_parser=parse)


def _exit_code(command: Callable[[], int | None]) -> int:
  """Runs a command and reports a user's mistake in one line."""
  try:
    return command() or 0
  except SophiaError as e:
    print(f"error: {_one_line(e)}", file=sys.stderr)
    return 1
  except RuntimeError as e:
    if not (line := _absent_platform(e)):
      raise
    print(f"error: {line}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("interrupted; the same command resumes", file=sys.stderr)
    return 130
  except Preempted as e:
    if meeting.is_leader():
      print(f"preempted: {e}; the same command resumes there")
    return 0


def _last_resort(command: Callable[[], int]) -> int:
  """Reports any other error that ends a command in one line, too."""
  try:
    return _exit_code(command)
  except KeyboardInterrupt:
    print("interrupted; the same command resumes", file=sys.stderr)
    return 130
  except Exception as e:
    line, code = faults.line_of(e)
    print(f"error: {faults.shortened(line)}", file=sys.stderr)
    return code


def _platforms() -> str:
  """Returns what JAX_PLATFORMS asks for; "": whatever there is."""
  return getattr(jax.config, "jax_platforms", None) or ""


def _check_platform() -> None:
  """Refuses a platform whose part of jax is not installed.

  Raises:
    SophiaError: it is absent, or a libtpu that would end the process without a
      word.
  """
  asked = _platforms()
  names = asked.split(",")
  if "tpu" in names:
    aot.check_libtpu(f"JAX_PLATFORMS={asked}")
  plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
  if {"cuda", "gpu"} & set(names) and not any(map(util.find_spec, plugins)):
    raise SophiaError(
      f"JAX_PLATFORMS={asked}: this jax is without GPUs: "
      f'pip install "jax[cuda12]=={version("jax")}", or set JAX_PLATFORMS=cpu'
    )


def _absent_platform(error: RuntimeError) -> str:
  """Returns the line for a platform that jax cannot start; "" for other errors."""
  if "nable to initialize backend" not in str(error):
    return ""
  return (
    f"JAX_PLATFORMS={_platforms()}: {_one_line(error)[:300]}; "
    'for GPUs pip install "jax[cuda12]", for TPUs "jax[tpu]", or set '
    "JAX_PLATFORMS=cpu"
  )


def _help(argv: list[str]) -> None:
  """Prints the help that is asked for, if any; exits with 0, unlike absl.

  --help: the docstring, the flags, and the config's keys where there is a
  config. --help=SECTION: the keys of a section, explained; --help=all: of all.

  Raises:
    SophiaError: there is no such config, or no such section in it.
  """
  topics = [a.partition("=")[2] for a in argv if a.startswith("--help=")]
  if not topics and not {"--help", "-help", "-h"} & set(argv):
    return
  takes_config = "config" in flags.FLAGS
  paths = _values(argv, "config") if takes_config else []
  config = _read_config(Path(paths[-1])) if paths else None
  if takes_config and topics:
    if config is None:
      raise SophiaError(f"--help={topics[-1]}: give --config=FILE as well")
    print(keys.explained(config, topics[-1]))
    sys.exit(0)
  for name in ("config", "workdir", "name", "stage", *meeting.FLAGS):
    if name in flags.FLAGS:
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  app.usage(shorthelp=True, writeto_stdout=True)
  if config is not None:
    print(
      f"\nkeys of {paths[-1]}; --help=SECTION or --help=all explains them:\n"
    )
    print(keys.overview(config))
  sys.exit(0)


def _values(argv: list[str], name: str) -> list[str]:
  """Returns the values of a flag, as --name=value or --name value."""
  return [
    following if argument == f"--{name}" else argument.partition("=")[2]
    for argument, following in zip(argv, [*argv[1:], ""])
    if argument == f"--{name}" or argument.startswith(f"--{name}=")
  ]


def _with_workdirs_config(argv: list[str]) -> list[str]:
  """Adds the config that a workdir keeps, where the command line names none."""
  workdirs, names = _values(argv, "workdir"), _values(argv, "name")
  if _values(argv, "config") or not workdirs:
    return argv
  workdir = Path(workdirs[-1])
  update = workdir / UPDATES / names[-1] / CONFIG if names else None
  for path in (update, workdir / CONFIG):
    if path and path.is_file():
      return [argv[0], f"--config={path}", *argv[1:]]
  return argv


def _with_saved(argv: list[str]) -> list[str]:
  """Puts a config file that reads JSON in the place of a config.json."""
  for path in _values(argv, "config"):
    if path.endswith(".json"):
      argv = [
        a.replace(path, f"{SAVED}:{path}")
        if a in (path, f"--config={path}")
        else a
        for a in argv
      ]
  return argv


def _check_overrides(argv: list[str]) -> None:
  """Names the nearest key of a misspelt --config.KEY=VALUE.

  Raises:
    SophiaError: there is no such config file, or no such key in it.
  """
  paths = _values(argv, "config")
  if not paths:
    return
  config = _read_config(Path(paths[-1]))
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
  if path.suffix == ".json":
    return saved.get_config(str(path))
  try:
    names = runpy.run_path(str(path))
  except SyntaxError as e:
    raise SophiaError(
      f"{path}:{e.lineno}: {e.msg}; a config is a Python file"
    ) from e
  if "get_config" not in names:
    raise SophiaError(f"{path}: no get_config(); see configs/quickstart.py")
  return names["get_config"]()


def define_config_flag(absent: str = "") -> None:
  """Defines --config.

  Args:
    absent: what is taken where it is not given; "": it must be.
  """
  config_flags.DEFINE_config_file(
    "config",
    None,
    f"A file of configs/, or a config.json{absent}. Each of its keys is a flag, "
    "--config.KEY=VALUE: --config=FILE --help lists them, --help=SECTION or "
    "--help=all explains them.",
  )


def define_run_flags() -> None:
  """Defines --config and --workdir."""
  define_config_flag("; the workdir's own if absent")
  flags.DEFINE_string("workdir", None, "Directory that the run writes to.")


def define_stage_flag(help: str) -> None:
  """Defines --stage, a name of config.stages."""
  flags.DEFINE_string("stage", "", help)


def define_name_flag() -> None:
  """Defines --name, of an update beside the others."""
  flags.DEFINE_string(
    "name",
    "",
    "Name of a further update from the same samples, with other settings: it "
    "goes to W/updates/NAME; W itself if absent.",
  )


def given() -> dict[str, Any]:
  """Returns the overrides of the command line: {"seed": 8}."""
  return config_flags.get_override_values(flags.FLAGS["config"])


def run_of_flags(name: str = "") -> Run:
  """Opens the run that the flags name.

  Args:
    name: the update, for commands whose --name is an update's.

  Raises:
    SophiaError: a section of the config is absent, or the name is none.
  """
  config = completed(flags.FLAGS.config)
  return Run(config, flags.FLAGS.workdir, given(), name)


def _set_up() -> None:
  # Tracing makes millions of objects, most of which stay: to look through all of
  # them as often as Python does is a fifth of a short command.
  gc.set_threshold(10_000)
  handler = logging.StreamHandler()
  who = "" if meeting.is_leader() else f"[{jax.process_index()}] "
  form = f"%(asctime)s {who}%(message)s"
  handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))
  log = logging.getLogger("sophia_jax")
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  log.propagate = False
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(CACHE.expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _one_line(error: BaseException) -> str:
  text = str(error.args[0]) if error.args else type(error).__name__
  return faults.shortened(text)


def _fail(message: str) -> None:
  print(f"error: {faults.shortened(message)}", file=sys.stderr)
  sys.exit(1)
