"""The settings of a rollout server, and what a backend knows about it.

A backend is one kind of server: the packages of its environment, the command
line that makes it serve a checkpoint, and the variables that command needs.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal, Protocol

from sophia_jax.data.images import ImageConfig

Platform = Literal["cpu", "tpu", "gpu"]
Role = Literal["policy", "reasoner"]


def cache() -> Path:
  """Returns the folder of environments, compiled programs and stray logs."""
  root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(root).expanduser() / "sophia_jax"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeSpec:
  """One server to start."""

  model: Path
  """Checkpoint directory, absolute."""
  role: Role
  """The policy sees images; a reasoner is a plain text model."""
  host: str = "127.0.0.1"
  port: int
  api_key: str | None = None
  """Bearer token of the clients; None: anybody may ask."""
  weights: Path | None = None
  """Directory that new weights must lie in; None: none are taken."""
  image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
  """Image settings of the policy's prompts, by which images are cut."""
  dtype: str = "bfloat16"
  """dtype of weights and computation: "bfloat16" or "float32"."""
  context_length: int = 4096
  """Tokens of a prompt and its answer together, at most."""
  max_running: int = 32
  """Requests that are generated at once; more wait."""
  tp: int = 1
  """Devices that one copy of the model is spread over."""
  platform: Platform = "cpu"
  extra: tuple[str, ...] = ()
  """Flags of the server itself, appended as they are, so they win."""


def access(spec: ServeSpec) -> dict[str, str]:
  """Returns the variables that serving.guard reads: key and weights' directory.

  Not flags: every user of the machine can read a command line.
  """
  found = {}
  if spec.api_key is not None:
    found["SOPHIA_API_KEY"] = spec.api_key
  if spec.weights is not None:
    found["SOPHIA_WEIGHTS_ROOT"] = str(spec.weights)
  return found


@dataclasses.dataclass(frozen=True)
class Packages:
  """One `pip install -r`."""

  file: Path
  options: tuple[str, ...] = ()
  """Options of pip, e.g. ("--no-deps",) for a file with every dependency."""


class Environment(Protocol):
  """A virtual environment with pinned packages."""

  @property
  def name(self) -> str: ...

  @property
  def pythons(self) -> tuple[str, ...]:
    """Versions it runs on, the preferred one first: ("3.12",)."""
    ...

  def packages(self, platform: Platform) -> tuple[Packages, ...]:
    """Returns what to install, in order; the environment is named by them."""
    ...

  def finish_install(self, python: Path, platform: Platform) -> None:
    """Does what pip cannot, once, after it; `python` is the environment's."""
    ...


class Backend(Environment, Protocol):
  """One kind of server."""

  def command(self, python: Path, spec: ServeSpec) -> list[str]:
    """Returns the command line that serves `spec`, in the foreground."""
    ...

  def environ(self, spec: ServeSpec) -> dict[str, str]:
    """Returns variables for the command, beside `access` and the caller's.

    The launcher itself adds PYTHONPATH with the root of this repository, so
    `python -m sophia_jax.serving...` works in every environment.
    """
    ...
