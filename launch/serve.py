"""An SGLang server for one role of a config, until it is interrupted.

Example:
  python -m launch.serve --config=configs/quickstart.py --workdir=W \\
    --role=policy --port=30000

The first use creates the server's environment, which takes minutes: SGLang-JAX
(Python 3.12) on TPUs and CPUs, SGLang on NVIDIA GPUs. One line with the URL is
printed after the first token; no process is left when the command ends, whatever
the signal. The optional config section `serve`
(sophia_jax.servers.supervise.ServeConfig) sets context_length, max_running, tp,
dtype and extra flags.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from launch import cli
from sophia_jax.config import nearest
from sophia_jax.files import write_text
from sophia_jax.servers import supervise
from sophia_jax.types import SophiaError

EXAMPLE = (
  "python -m launch.serve --config=configs/quickstart.py --workdir=W "
  "--role=policy --port=30000"
)


def main() -> None:
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, _interrupted)
  options = flags.FLAGS
  config, workdir = options.config, _workdir()
  how = supervise.serve_config(config)
  spec = supervise.spec_of(
    config,
    options.role,
    _model(config, workdir),
    host=options.host,
    port=options.port,
    api_key=_api_key(options.api_key_env),
  )
  log = supervise.log_path(workdir, options.role, options.reasoner or "")
  if options.log:
    log = Path(options.log).absolute()
  backend = options.backend or how.backend
  with supervise.started(spec, backend, log, how.start_s) as server:
    print(f"{server.url} {spec.role} {spec.model} log: {log}", flush=True)
    if options.ready_file:
      write_text(Path(options.ready_file), f"{server.url}\n")
    server.wait()


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
  sys.exit(128 + number)


def _workdir() -> Path | None:
  given = flags.FLAGS.workdir
  return Path(given).absolute() if given else None


def _model(config: ConfigDict, workdir: Path | None) -> Path:
  """Returns the checkpoint directory: --model, or the config's for the role."""
  options = flags.FLAGS
  if options.model:
    model = Path(options.model).absolute()
  else:
    key, path = _configured(config)
    if not Path(path).is_absolute() and workdir is None:
      raise SophiaError(
        f"{key} is {path!r}, inside a workdir; give --workdir or --model"
      )
    model = (workdir or Path()) / path
  if not model.is_dir():
    raise SophiaError(f"{model}: no such checkpoint; give --model")
  return model


def _configured(config: ConfigDict) -> tuple[str, str]:
  """Returns the config key of the role's checkpoint, and its value."""
  options = flags.FLAGS
  if options.role == "policy":
    return "config.policy.path", config.policy.path
  names = list(config.reasoners)
  name = options.reasoner or (names[0] if len(names) == 1 else None)
  if name is None:
    raise SophiaError(
      f"config.reasoners has {', '.join(sorted(names)) or 'none'}; give "
      "--reasoner=NAME"
    )
  if name not in names:
    raise SophiaError(f"--reasoner={name}: no such key; {nearest(name, names)}")
  return f"config.reasoners.{name}.path", config.reasoners[name].path


def _api_key(variable: str | None) -> str | None:
  if not variable:
    return None
  if not os.environ.get(variable):
    raise SophiaError(f"--api_key_env={variable}: not set; export it first")
  return os.environ[variable]


if __name__ == "__main__":
  cli.define_run_flags()
  flags.DEFINE_enum("role", None, ["policy", "reasoner"], "Role to serve.")
  flags.DEFINE_integer("port", None, "Port of the HTTP server.", 1, 65535)
  flags.DEFINE_string("host", "127.0.0.1", "Address to bind to.")
  flags.DEFINE_string("reasoner", None, "Name in config.reasoners.")
  flags.DEFINE_string(
    "model", None, "Checkpoint directory; the config's if absent."
  )
  flags.DEFINE_enum(
    "backend",
    None,
    ["sglang_jax", "sglang"],
    "Kind of server; by the devices if absent.",
  )
  flags.DEFINE_string(
    "api_key_env", None, "Environment variable that holds the API key."
  )
  flags.DEFINE_string(
    "ready_file", None, "File that is written after the first token."
  )
  flags.DEFINE_string("log", None, "Log; W/servers/ROLE.log if absent.")
  cli.start(main, EXAMPLE, ("config", "role", "port"))
