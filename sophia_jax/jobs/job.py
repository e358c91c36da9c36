"""The parts of a job: servers, and the trainer's steps in their order."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from sophia_jax.jobs.machines import Machine
from sophia_jax.types import SophiaError

KEY = "ROLLOUT_KEY"
"""Variable that holds the servers' API key, where config.client names none."""
_LONGEST = 63
"""Characters of a name in a cluster's DNS."""
_SUFFIX = 14
"""Characters that JobSet adds: indices of a job and a pod, five at random."""

Processes = Literal["joint", "shards", "one"]


@dataclasses.dataclass(frozen=True)
class JobConfig:
  """Names and limits that `launch.submit` writes into job files."""

  name: str = ""
  """Name of the job; "": the config file's."""
  mount: str = "/shared"
  """Directory at which hosts mount the file system that all of them see."""
  hosts: int = 1
  """Hosts of a topology of CPUs."""
  server: str = ""
  """Topology of a host that serves, "v6e:2x2"; "": the trainer's kind."""
  port: int = 30000
  """Port of the servers."""
  restarts: int = 10
  """Times that a job which is lost or fails is started again."""
  image: str = "sophia-jax:latest"
  """Container image of GKE and SkyPilot, from the Containerfile."""
  claim: str = "shared"
  """PersistentVolumeClaim, or SkyPilot volume, of that file system."""
  queue: str = ""
  """Kueue's LocalQueue, or Slurm's partition; "": none."""
  secret: str = ""
  """Kubernetes Secret with the API key; "": NAME-key."""
  time: str = ""
  """Slurm's time limit; a job that reaches it is requeued."""
  sbatch: tuple[str, ...] = ()
  """More options of sbatch: ("--account=lab",)."""

  def __post_init__(self) -> None:
    if not 1024 <= self.port <= 65535:
      raise ValueError(f"port is {self.port}; use 1024 to 65535")
    if self.restarts < 0:
      raise ValueError(f"restarts is {self.restarts}; use 0 or more")
    if self.hosts < 1:
      raise ValueError(f"hosts is {self.hosts}; use 1 or more")
    for name in ("name", "mount", "image", "claim", "queue"):
      if re.search(r"[\s\x00-\x1f]", getattr(self, name)):
        raise ValueError(f"{name} has white space: {getattr(self, name)!r}")
    for value in (self.time, *self.sbatch):
      if "\n" in value or "\r" in value:
        raise ValueError(f"a line break in {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Servers:
  """Servers of one model, one a host."""

  name: str
  """Name of their job: letters, digits and hyphens."""
  key: str
  """Config key of the model: "policy", "reasoners.easy"."""
  count: int
  """Number of servers."""
  flags: tuple[str, ...]
  """Flags of launch.serve, except for its address, logs and key."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """A command of the trainer."""

  module: str
  """Module that is run: "launch.train"."""
  flags: tuple[str, ...]
  """Its flags, except for the servers' URLs, the shard and the processes'
  meeting."""
  done: str
  """Key of stages.json that says that the step is done."""
  processes: Processes
  """Processes: "joint" for one on each host that meet, "shards" for one on each
  host that do not, "one" for one on the first host."""
  served: tuple[str, ...] = ()
  """Config keys of the models that it asks in servers."""
  on_cpu: bool = False
  """Whether it needs no accelerator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """A run on a cluster."""

  name: str
  config: JobConfig
  workdir: str
  """Workdir, absolute."""
  trainer: Machine
  server: Machine
  """Host of each server."""
  servers: tuple[Servers, ...]
  steps: tuple[Step, ...]
  key: str = KEY
  """Variable of the API key."""
  root: str = "."
  """Directory that commands start in, where there is no container."""
  python: str = "python"
  """Interpreter, where there is no container."""

  def __post_init__(self) -> None:
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", self.name):
      raise SophiaError(
        f"config.job.name={self.name}: use lower case, digits and hyphens; the "
        "first is a letter"
      )
    longest = max((len(s.name) for s in self.servers), default=0)
    most = _LONGEST - _SUFFIX - max(longest, len("trainer"))
    if len(self.name) > most:
      raise SophiaError(
        f"config.job.name={self.name}: at most {most} characters, since hosts "
        "are named by it"
      )
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):
      raise SophiaError(f"config.client.api_key_env={self.key}: no variable")

  @property
  def urls(self) -> dict[str, Servers]:
    """The servers by the config key of their model."""
    return {servers.key: servers for servers in self.servers}

  @property
  def nodes(self) -> int:
    """Number of hosts, servers included."""
    return self.trainer.hosts + sum(s.count for s in self.servers)


def plain(name: str) -> str:
  """Returns a name in lower case with hyphens, as hosts are named."""
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
