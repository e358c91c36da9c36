"""A plan: what an update takes on devices that are not there."""

from __future__ import annotations

import dataclasses

from sophia_jax.models import InternVLConfig, flops
from sophia_jax.plans import aot, arithmetic, compiled
from sophia_jax.train import sharding
from sophia_jax.train.devices import GIB, Accelerator
from sophia_jax.train.loop import TrainConfig

ROOM = 0.9
"""The part of a device's memory that a plan may fill."""


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What the estimate takes for granted."""

  segment: int | None = None
  """Tokens of a packed sequence; None: a row is one."""
  attention_efficiency: float | None = None
  """Of the peak, in the attention kernel; None: as `ACCELERATORS` assumes."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """One candidate, per device where it applies. GiB, seconds."""

  topology: str
  mesh: dict[str, int]
  remat: str
  source: str
  """"compiled": memory and collectives are of the true program. "arithmetic":
  the state is exact, the rest are formulas; nothing was compiled."""
  fits: bool
  hbm_gib: float
  peak_gib: float
  tokens_per_step: int
  memory_gib: dict[str, float]
  collectives_gib: dict[str, float]
  model_flops: float
  """Of an update, over all devices."""
  estimated_seconds: float
  estimated_mfu: float
  estimated_tokens_per_s: float
  """Over all devices."""
  seconds: dict[str, float]
  """What the estimate consists of."""
  attention_efficiency: float
  segment: int
  """Tokens of a packed sequence, as assumed."""
  advice: str


def plan(
  cfg: InternVLConfig,
  config: TrainConfig,
  mesh_config: sharding.MeshConfig,
  topology: str,
  accelerator: Accelerator,
  assumptions: Assumptions,
) -> Plan:
  """Plans an update; compiles it where its devices' compiler is at hand.

  Raises:
    SophiaError: the batch does not divide among the devices, or the step does
      not fit them.
  """
  mesh = sharding.make_mesh(mesh_config, aot.devices(topology))
  sharding.check_shape(config.rows, config.length, config.tiles, mesh)
  attention = assumptions.attention_efficiency or accelerator.attention
  source = arithmetic if topology.startswith(aot.GPUS) else compiled
  case = arithmetic.Case(cfg, config, mesh, accelerator, attention)
  cost = source.cost(case)
  segment = assumptions.segment or config.length
  needed = flops.update(cfg, _work(config, segment), config.trained)
  total = sum(cost.seconds.values())
  peak, hbm = sum(cost.memory.values()) / GIB, accelerator.memory / GIB
  tokens = config.microbatches * config.rows * config.length
  return Plan(
    topology=topology,
    mesh=dict(mesh.shape),
    remat=cfg.remat,
    source=source.__name__.rpartition(".")[2],
    fits=peak <= ROOM * hbm,
    hbm_gib=round(hbm, 4),
    peak_gib=round(peak, 4),
    tokens_per_step=tokens,
    memory_gib={k: round(v / GIB, 4) for k, v in cost.memory.items()},
    collectives_gib={k: round(v / GIB, 4) for k, v in cost.collectives.items()},
    model_flops=needed,
    estimated_seconds=round(total, 4),
    estimated_mfu=round(needed / (total * accelerator.flops * mesh.size), 4),
    estimated_tokens_per_s=round(tokens / total, 1),
    seconds={k: float(f"{v:.4g}") for k, v in cost.seconds.items()},
    attention_efficiency=attention,
    segment=segment,
    advice=_advice(cfg, peak, hbm),
  )


def _work(config: TrainConfig, segment: int) -> flops.Work:
  """Of an update."""
  tokens = config.microbatches * config.rows * config.length
  return flops.Work(
    tokens=tokens,
    pairs=tokens * (segment + 1) / 2,
    tiles=config.microbatches * config.tiles,
  )


def _advice(cfg: InternVLConfig, peak: float, hbm: float) -> str:
  """What to change when it does not fit; what to spend when there is room."""
  if peak > ROOM * hbm:
    if cfg.remat not in ("block", "offload"):
      return "recompute more: --config.policy.remat=block"
    return (
      "spread a row over more devices: double tensor or context in --mesh, halve "
      "fsdp and --rows"
    )
  if peak < 0.6 * hbm and cfg.remat in ("block", "offload"):
    return "there is room to recompute less: --config.policy.remat=attention"
  return ""
