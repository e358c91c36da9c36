"""Hosts and chips of a topology, and how a cluster names them.

Sources: Google's tables of TPU configurations on GKE (topologies, chips of a
host), GKE's and SkyPilot's names of accelerators.
"""

from __future__ import annotations

import dataclasses
import math
import re

from sophia_jax.types import SophiaError

TPU, GPU, CPU = "tpu", "gpu", "cpu"
GPUS_OF_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of accelerator."""

  family: str
  """Family: "tpu", "gpu" or "cpu"."""
  gke: str = ""
  """Value of GKE's node label."""
  sky: str = ""
  """SkyPilot's name; of a TPU without the size."""
  axes: int = 1
  """Axes of a topology."""
  cores: int = 1
  """Cores of a chip, as SkyPilot counts them."""
  server: str = ""
  """Topology of one host that serves."""


KINDS = {
  "v4": Kind(TPU, "tpu-v4-podslice", "tpu-v4", 3, 2, "2x2x1"),
  "v5p": Kind(TPU, "tpu-v5p-slice", "tpu-v5p", 3, 2, "2x2x1"),
  "v5e": Kind(TPU, "tpu-v5-lite-podslice", "tpu-v5litepod", 2, 1, "2x4"),
  "v6e": Kind(TPU, "tpu-v6e-slice", "tpu-v6e", 2, 1, "2x4"),
  "a100": Kind(GPU, "nvidia-a100-80gb", "A100-80GB", server="8"),
  "h100": Kind(GPU, "nvidia-h100-80gb", "H100", server="8"),
  "h200": Kind(GPU, "nvidia-h200-141gb", "H200", server="8"),
  "cpu": Kind(CPU, server="1"),
}
_EIGHT = ("v5e", "v6e")
"""Kinds with hosts of eight chips, which stand alone: 2x4."""


@dataclasses.dataclass(frozen=True)
class Machine:
  """Hosts of one kind that work together."""

  name: str
  """Kind: a key of KINDS."""
  topology: str
  """Shape of the slice, "4x4x4"; of GPUs and CPUs their number."""
  hosts: int
  """Number of hosts."""
  chips: int
  """Chips of a host; 0 for a CPU."""

  @property
  def kind(self) -> Kind:
    """The kind, as clusters know it."""
    return KINDS[self.name]

  @property
  def family(self) -> str:
    """The kind's family: tpu, gpu or cpu."""
    return self.kind.family

  @property
  def sky(self) -> str:
    """SkyPilot's `accelerators`; "" for a CPU."""
    if self.family == TPU:
      return f"{self.kind.sky}-{self.chips * self.hosts * self.kind.cores}"
    return f"{self.kind.sky}:{self.chips}" if self.chips else ""


def read(text: str, hosts: int = 1, key: str = "config.topology") -> Machine:
  """Reads a topology such as "v5p:4x4x4", "h100:32" or "cpu:2".

  Args:
    hosts: hosts of a topology of CPUs.
    key: name of the setting, for errors.

  Raises:
    SophiaError: an unknown kind, or a shape that its hosts cannot have.
  """
  name, _, topology = text.partition(":")
  if name not in KINDS:
    raise SophiaError(f"{key}={text}: known kinds are {', '.join(KINDS)}")
  kind = KINDS[name]
  if not re.fullmatch("x".join([r"[1-9]\d*"] * kind.axes), topology):
    example = f"{name}:{'x'.join('4' * kind.axes)}"
    raise SophiaError(f"{key}={text}: write its size as in {example}")
  count = math.prod(map(int, topology.split("x")))
  if kind.family == CPU:
    return Machine(name, topology, hosts, 0)
  chips = _chips(name, topology, count)
  if count % chips:
    raise SophiaError(
      f"{key}={text}: {count} chips on hosts of {chips}; use a multiple of "
      f"{chips}"
    )
  return Machine(name, topology, count // chips, chips)


def _chips(name: str, topology: str, count: int) -> int:
  """Returns the chips of each host of a slice of `count`."""
  if KINDS[name].family == GPU:
    return min(count, GPUS_OF_A_HOST)
  if name in _EIGHT and topology == "2x4":
    return 8
  return min(count, 4)


def serving(text: str, trainer: Machine) -> Machine:
  """Returns the host of a server.

  Args:
    text: its topology; "": the usual one of the trainer's kind.

  Raises:
    SophiaError: the topology has several hosts.
  """
  given = text or f"{trainer.name}:{trainer.kind.server}"
  found = read(given, key="config.job.server")
  if found.hosts > 1:
    raise SophiaError(
      f"config.job.server={text}: {found.hosts} hosts; a server has one, as "
      f"{trainer.name}:{trainer.kind.server}"
    )
  return found
