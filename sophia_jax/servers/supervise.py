"""Rollout servers: what to start for a config, and processes that end with us."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ml_collections import ConfigDict

from sophia_jax.checkpoints import read_config
from sophia_jax.config import section
from sophia_jax.data.cuts import check_cut
from sophia_jax.data.images import ImageConfig
from sophia_jax.models import InternVLConfig
from sophia_jax.servers import backends, environments
from sophia_jax.servers.backends import Platform, Role, ServeSpec
from sophia_jax.servers.backends.base import cache
from sophia_jax.types import SophiaError

ROOT = Path(__file__).parents[2]
ROOM = 8
"""Tokens of a context that SGLang-JAX keeps to itself."""
MOST_ON_CPU = 64
_SECRET = re.compile(
  r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)($|_)"
)
_POLL_S = 0.5
_STOP_S = 15.0

_log = logging.getLogger("sophia_jax.servers")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
  """How servers are started: config section `serve`, which may be left out."""

  backend: str = ""
  """"sglang_jax" or "sglang"; "": the one for this machine's devices."""
  dtype: str = ""
  """dtype of weights and computation; "": config.policy's."""
  context_length: int = 0
  """Tokens of a prompt and its answer together; 0: config.engine.length."""
  max_running: int = 0
  """Requests generated at once; 0: config.engine.slots, 64 at most on a CPU."""
  tp: int = 0
  """Devices that share a model; 0: all that divide its heads."""
  weights: str = ""
  """Directory that new weights must lie in; "": the one the checkpoint lies in."""
  start_s: float = 3600.0
  """Longest time to the first token, weights and compilation included, seconds."""
  extra: tuple[str, ...] = ()
  """More flags for the server itself."""


# ------------------------------------------------------------------ what to start
def spec_of(
  config: ConfigDict, role: Role, model: Path, **where: Any
) -> ServeSpec:
  """Returns what a server of `role` for this config must be able to do.

  Args:
    model: checkpoint directory, absolute.
    where: host, port and api_key.

  Raises:
    SophiaError: the checkpoint is not one that `role` can use, or others could
      reach the server and it has no key.
  """
  how = serve_config(config)
  _check_access(where.get("host", "127.0.0.1"), where.get("api_key"))
  cfg = _checked(model, role)
  platform, devices = find_platform()
  limit = MOST_ON_CPU if platform == "cpu" else config.engine.slots
  image = section(ImageConfig, config.images.to_dict(), "images")
  if cfg and cfg.vision:
    check_cut(image, *cfg.vision.cut, str(model))
    refuse_videos(image)
  return ServeSpec(
    model=model,
    role=role,
    image=image,
    dtype=how.dtype or config.policy.dtype,
    context_length=(how.context_length or config.engine.length) + ROOM,
    max_running=how.max_running or min(config.engine.slots, limit),
    tp=how.tp or _shared_by(cfg, devices),
    platform=platform,
    weights=Path(how.weights).absolute() if how.weights else model.parent,
    extra=how.extra,
    **where,
  )


def refuse_videos(image: ImageConfig) -> None:
  """Refuses settings under which a policy is shown videos.

  Raises:
    SophiaError: names the settings that servers take.
  """
  if image.video_rate:
    raise SophiaError(
      "config.images.video_rate: servers see no videos; give "
      "--config.policy.engine=embedded, or a rate of 0 and frames as images"
    )


def _check_access(host: str, key: str | None) -> None:
  """Refuses a server that anybody on the network could ask.

  Raises:
    SophiaError: the host is another than loopback, and there is no key.
  """
  loopback = host == "localhost"
  with contextlib.suppress(ValueError):
    loopback = loopback or ipaddress.ip_address(host).is_loopback
  if not loopback and not key:
    raise SophiaError(
      f"--host={host}: other machines could ask this server; name the variable "
      "with a key by --api_key_env, or leave the host out"
    )


def serve_config(config: ConfigDict) -> ServeConfig:
  return section(
    ServeConfig, config.get("serve", ConfigDict()).to_dict(), "serve"
  )


def _checked(model: Path, role: Role) -> InternVLConfig | None:
  """Returns the model, or None for a text model that only its server may know."""
  try:
    cfg = read_config(model)
  except SophiaError:
    kind = None
    with contextlib.suppress(
      OSError, ValueError, AttributeError, RecursionError
    ):
      kind = json.loads((model / "config.json").read_text("utf-8")).get(
        "model_type"
      )
    if role == "policy" or kind is None:
      raise
    return None
  if role == "policy" and cfg.vision is None:
    raise SophiaError(
      f"{model}: a text model; a policy is one that sees images"
    )
  if role == "reasoner" and cfg.vision is not None:
    raise SophiaError(f"{model}: it sees images; a reasoner is a text model")
  return cfg


def _shared_by(cfg: InternVLConfig | None, devices: int) -> int:
  """Returns the most devices that get equal numbers of heads."""
  if cfg is None:
    return devices
  d = cfg.decoder
  return next(
    n for n in range(devices, 0, -1) if d.heads % n == 0 and d.mlp % n == 0
  )


def find_platform() -> tuple[Platform, int]:
  """Returns this machine's kind of device, and how many; starts no runtime.

  JAX_PLATFORMS=cpu hides what is there, as it does from JAX.
  """
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return "cpu", 1
  devices = Path("/dev")
  tpus = [*devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")]
  gpus = list(devices.glob("nvidia[0-9]*"))
  if gpus and shutil.which("nvidia-smi"):
    return "gpu", len(gpus)
  return ("tpu", len(tpus)) if tpus else ("cpu", 1)


def default_backend(platform: Platform) -> str:
  return "sglang" if platform == "gpu" else "sglang_jax"


# ---------------------------------------------------------------------- processes
class Server:
  """A started server; whatever ends this process ends it too."""

  def __init__(self, spec: ServeSpec, backend: str, log: Path):
    """Makes its environment if need be, and starts it.

    Raises:
      SophiaError: the port is taken, there is no such backend, or its
        environment cannot be made.
    """
    _check_port(spec.host, spec.port)
    kind = backends.by_name(backend or default_backend(spec.platform))
    command = kind.command(environments.python_of(kind, spec.platform), spec)
    log.parent.mkdir(parents=True, exist_ok=True)
    self.spec, self.log = spec, log
    with _private(log) as output:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "sophia_jax.hosts.watch", *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={
          **_without_secrets(os.environ),
          **kind.environ(spec),
          **backends.access(spec),
          "PYTHONPATH": str(ROOT),
          "PYTHONUNBUFFERED": "1",
        },
        start_new_session=True,
      )

  @property
  def url(self) -> str:
    host = self.spec.host
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{reached}:{self.spec.port}"

  def wait_ready(self, timeout_s: float) -> None:
    """Returns once a token has come out.

    Raises:
      SophiaError: the server ended, or took too long; names its log.
    """
    deadline = time.monotonic() + timeout_s
    while not self._answers(deadline - time.monotonic()):
      if self._process.poll() is not None:
        raise SophiaError(self._ended())
      if time.monotonic() > deadline:
        raise SophiaError(
          f"{self.log}: no token after {timeout_s:.0f} s; see its last lines, "
          "or raise config.serve.start_s"
        )
      time.sleep(_POLL_S)

  def wait(self) -> None:
    """Blocks while the server runs.

    Raises:
      SophiaError: it has ended, which it never does by itself.
    """
    self._process.wait()
    raise SophiaError(self._ended())

  def stop(self) -> None:
    """Ends it and all of its processes."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    try:
      self._process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def _ended(self) -> str:
    return (
      f"{self.log}: the server ended with code {self._process.returncode}; "
      f"its last words: {_last_words(self.log)}"
    )

  def _answers(self, timeout_s: float) -> bool:
    """Tells whether the server generates; the form is the client's own."""
    body = {
      "input_ids": [0],
      "sampling_params": {"temperature": 0.0, "max_new_tokens": 1},
      "return_logprob": True,
      "logprob_start_len": 0,
    }
    headers = {"Content-Type": "application/json"}
    if self.spec.api_key:
      headers["Authorization"] = f"Bearer {self.spec.api_key}"
    request = urllib.request.Request(
      f"{self.url}/generate", json.dumps(body).encode(), headers
    )
    try:
      with urllib.request.urlopen(request, timeout=max(timeout_s, 1)) as answer:
        return bool(json.load(answer)["meta_info"]["completion_tokens"])
    except (OSError, ValueError, KeyError):
      return False


def _private(log: Path) -> BinaryIO:
  """Opens a log, empty, that only its owner may read: it shows requests."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
  os.fchmod(file, 0o600)  # an older one may be open to all
  return os.fdopen(file, "wb")


def _without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
  """Drops the variables that a server needs none of: keys, tokens, passwords."""
  return {
    name: value
    for name, value in variables.items()
    if not _SECRET.search(name.upper())
  }


def _last_words(log: Path) -> str:
  """Returns the last line of a log that says what went wrong."""
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  telling = [line for line in lines if "Error" in line] or lines or ["nothing"]
  return telling[-1].strip()[:300]


@contextlib.contextmanager
def started(
  spec: ServeSpec, backend: str, log: Path, start_s: float
) -> Iterator[Server]:
  """Runs a server that answers, for the block."""
  server = Server(spec, backend, log)
  try:
    server.wait_ready(start_s)
    yield server
  finally:
    server.stop()


@contextlib.contextmanager
def running(
  config: ConfigDict, workdir: Path, role: Role, model: Path, name: str = ""
) -> Iterator[str]:
  """Yields the base URL of a server that runs for the block, on this machine.

  Args:
    workdir: where its log goes.
    model: checkpoint directory, absolute.
    name: of the reasoner where there are several; part of the log's name.

  Raises:
    SophiaError: it cannot be started; names its log.
  """
  how = serve_config(config)
  spec = spec_of(config, role, model, port=free_port())
  log = log_path(workdir, role, name)
  _log.info("starting a server for the %s (%s)", name or role, log)
  with started(spec, how.backend, log, how.start_s) as server:
    _log.info("the %s is served at %s", name or role, server.url)
    yield server.url


def log_path(workdir: Path | None, role: Role, name: str = "") -> Path:
  """Returns W/servers/<role>.log, or a file of the cache without a workdir."""
  stem = f"{role}-{name}" if name else role
  if workdir is None:
    return cache() / "servers" / f"{stem}-{os.getpid()}.log"
  return workdir / "servers" / f"{stem}.log"


def _check_port(host: str, port: int) -> None:
  """Checks that no process listens there: it would be mistaken for our server.

  Raises:
    SophiaError: one does, or the host is not ours.
  """
  with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      s.bind((host, port))
    except OSError as e:
      raise SophiaError(
        f"{host}:{port}: {e.strerror}; give another --port or --host"
      ) from e


def free_port(host: str = "127.0.0.1") -> int:
  with socket.socket() as s:
    s.bind((host, 0))
    return s.getsockname()[1]
