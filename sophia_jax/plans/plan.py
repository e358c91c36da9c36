"""A plan: memory and time of an update, and of a round, on absent devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.models import InternVLConfig, flops
from sophia_jax.plans import aot, arithmetic, compiled
from sophia_jax.plans import rounds as rounds_
from sophia_jax.plans.arithmetic import Case, Cost
from sophia_jax.plans.rounds import Round, Rounds
from sophia_jax.plans.shape import Shape
from sophia_jax.train import sharding
from sophia_jax.train.devices import GIB, Accelerator
from sophia_jax.train.session import TrainConfig

ROOM = 0.9
"""Share of a device's memory that a plan may fill."""

Source = Literal["compiled", "arithmetic"]
COSTS: Mapping[Source, Callable[[Case], Cost]] = {
  "compiled": compiled.cost,
  "arithmetic": arithmetic.cost,
}
"""Functions that find the cost of an update, by source."""


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """Assumptions of the estimate."""

  segment: int | None = None
  """Length of a packed sequence, tokens; None: a whole row."""
  attention_efficiency: float | None = None
  """Share of the peak in the attention kernel; None: the device's in
  `ACCELERATORS`."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """One candidate: a mesh on a topology."""

  topology: str
  mesh: dict[str, int]
  """Devices of each axis."""
  remat: str
  source: Source
  """"compiled": memory and collectives are those of the true program.
  "arithmetic": the state is exact, the rest are formulas."""
  fits: bool
  """Whether the peak is at most `ROOM` of the memory."""
  hbm_gib: float
  """Memory of a device, GiB."""
  peak_gib: float
  """Memory that an update, or the largest phase of a round, needs on a device,
  GiB."""
  tokens_per_step: int
  """Tokens of an update, padding included."""
  memory_gib: dict[str, float]
  """Memory on a device by kind in an update, what a round holds included, GiB."""
  collectives_gib: dict[str, float]
  """Data moved by a device in an update, by kind of collective, GiB."""
  model_flops: float
  """Model FLOPs of an update, over all devices."""
  estimated_seconds: float
  """Time of an update, seconds."""
  estimated_mfu: float
  estimated_tokens_per_s: float
  """Throughput of all devices, tokens/s."""
  seconds: dict[str, float]
  """Components of `estimated_seconds`."""
  attention_efficiency: float
  """Assumed share of the peak in the attention kernel."""
  segment: int
  """Assumed length of a packed sequence, tokens."""
  advice: str
  """Remedy where it does not fit, or a use of spare memory; else empty."""
  round: Round | None = None
  """Round that the update is part of; None: everything is sampled first."""


def plan(
  cfg: InternVLConfig,
  algorithm: Algorithm,
  train: TrainConfig,
  shape: Shape,
  mesh_config: sharding.MeshConfig,
  topology: str,
  accelerator: Accelerator,
  assumptions: Assumptions,
  rounds: Rounds | None = None,
) -> Plan:
  """Plans an update; compiles it where the devices' compiler is installed.

  Args:
    rounds: rounds that the update is part of, and that are planned with it.

  Raises:
    SophiaError: the batch does not divide among the devices, or the compiled
      step does not fit them.
  """
  mesh = sharding.make_mesh(mesh_config, aot.devices(topology))
  sharding.check_shape(shape.rows, shape.length, shape.tiles, mesh)
  case = Case(
    cfg=cfg,
    algorithm=algorithm,
    shape=shape,
    trained=train.trained,
    lora=train.lora,
    optimizer=train,
    mesh=mesh,
    accelerator=accelerator,
    attention=assumptions.attention_efficiency or accelerator.attention,
    gpus=topology.startswith(aot.GPUS),
  )
  source: Source = "arithmetic" if case.gpus else "compiled"
  cost = COSTS[source](case)
  segment = assumptions.segment or shape.length
  whole: Round | None = None
  held: dict[str, float] = {}
  most = sum(cost.memory.values())
  if rounds is not None:
    whole, held, most = rounds_.cost(rounds, case, cost, segment)
  peak, hbm = most / GIB, accelerator.memory / GIB
  return Plan(
    topology=topology,
    mesh=dict(mesh.shape),
    remat=cfg.remat,
    source=source,
    fits=peak <= ROOM * hbm,
    hbm_gib=round(hbm, 4),
    peak_gib=round(peak, 4),
    tokens_per_step=shape.tokens,
    memory_gib=_in_gib({**cost.memory, **held}),
    collectives_gib=_in_gib(cost.collectives),
    attention_efficiency=case.attention,
    segment=segment,
    advice=_advice(cfg, peak, hbm),
    round=whole,
    **_speed(case, cost, segment),
  )


def _in_gib(values: Mapping[str, float]) -> dict[str, float]:
  return {kind: round(value / GIB, 4) for kind, value in values.items()}


def _speed(case: Case, cost: Cost, segment: int) -> dict[str, Any]:
  """Returns the fields of a plan that say how fast an update is."""
  work = _work(case.shape, segment)
  needed = flops.update(case.cfg, work, case.trained, bool(case.lora))
  total = sum(cost.seconds.values())
  at_best = total * case.accelerator.flops * case.mesh.size
  return {
    "model_flops": needed,
    "estimated_seconds": round(total, 4),
    "estimated_mfu": round(needed / at_best, 4),
    "estimated_tokens_per_s": round(case.shape.tokens / total, 1),
    "seconds": {k: float(f"{v:.4g}") for k, v in cost.seconds.items()},
  }


def _work(shape: Shape, segment: int) -> flops.Work:
  """Counts the tokens, query-key pairs and tiles of an update."""
  return flops.Work(
    tokens=shape.tokens,
    pairs=shape.tokens * (segment + 1) / 2,
    tiles=shape.microbatches * shape.tiles,
  )


def _advice(cfg: InternVLConfig, peak: float, hbm: float) -> str:
  """Suggests what to change where it does not fit, or how to use spare memory."""
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
