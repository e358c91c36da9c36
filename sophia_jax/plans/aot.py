"""Programs compiled ahead of time for devices that need not be attached."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sophia_jax.algorithms.contract import Algorithm, Moment
from sophia_jax.models import (
  InternVL,
  InternVLConfig,
  abstract_params,
  logical_axes,
  lora,
)
from sophia_jax.models.lora import Lora
from sophia_jax.plans.shape import Shape
from sophia_jax.train import adapters, outputs, sharding, state
from sophia_jax.train.step import Step, Sums, scalars
from sophia_jax.types import Batch, SophiaError

GPUS = ("a100", "h100", "h200")
_LIBTPU = re.compile(r"libtpu\s*==\s*([\w.*]+)")
"""The pin of jax's extra for TPUs."""


def devices(topology: str) -> Sequence[Any]:
  """Returns the devices of "v5p:4x4x4", "v6e:16x16" or "cpu:8".

  "cpu:8" are this process's own. "h100:8" gives as many CPU devices: nothing
  compiles for a GPU here, but shards have the shapes they would have there.

  Raises:
    SophiaError: libtpu is not installed or of another version than this jax
      takes, or the topology does not exist.
  """
  kind, _, size = topology.partition(":")
  if kind in ("cpu", *GPUS):
    local = jax.devices("cpu")
    if str(len(local)) != size:
      raise SophiaError(
        f"--topology={topology}: this process has {len(local)} CPU devices; "
        f"set XLA_FLAGS=--xla_force_host_platform_device_count={size}"
      )
    return local
  check_libtpu(f"--topology={topology}")
  try:
    return topologies.get_topology_desc(topology, platform="tpu").devices
  except RuntimeError as e:
    raise SophiaError(
      f"--topology={topology}: {' '.join(str(e).split())[:200]}"
    ) from e


def check_libtpu(what: str) -> None:
  """Refuses a libtpu that this jax cannot read: it would die without a word.

  Args:
    what: setting that asks for it, for the error.

  Raises:
    SophiaError: names the version of jax's own extra, and the command.
  """
  own = version("jax")
  wanted = next(
    (found[1] for r in requires("jax") or () if (found := _LIBTPU.match(r))),
    None,
  )
  remedy = f'pip install "jax[tpu]=={own}"'
  try:
    installed = version("libtpu")
  except PackageNotFoundError:
    raise SophiaError(
      f"{what}: TPUs need libtpu, their runtime and compiler: {remedy}"
    ) from None
  if wanted and not fnmatch.fnmatchcase(installed, wanted):
    raise SophiaError(
      f"{what}: libtpu {installed} is installed, jax {own} takes {wanted}: "
      f"{remedy}"
    )


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiler's figures for a program, per device."""

  arguments: int
  """Memory of the arguments, bytes."""
  temporaries: int
  """Memory of temporary values, bytes."""
  code: int
  """Memory of the code, bytes."""
  flops: float
  """Floating-point operations."""
  seconds: float
  """Time by the compiler's cost model, the body of a loop counted once."""
  collectives: Mapping[str, float]
  """Bytes that leave a device, by kind of collective."""


def compile_step(
  cfg: InternVLConfig,
  algorithm: Algorithm,
  tx: optax.GradientTransformation,
  trained: tuple[str, ...],
  shape: Shape,
  mesh: Mesh,
  frozen_dtype: str = "bfloat16",
  how: Lora | None = None,
) -> Program:
  """Compiles the programs of an update, `train.step.Step`, and adds them up.

  Args:
    how: adapters that are trained in the place of the parts `trained`.

  Raises:
    SophiaError: a program does not fit the devices' memory.
  """
  params = whole_params(cfg, mesh, trained, frozen_dtype, how)
  trained = (lora.PART,) if how else trained
  if heads := _heads(cfg, algorithm, mesh):
    params[outputs.PART] = heads
    trained = (*trained, outputs.PART)
  begin = state.abstract(params, tx, trained)
  streams = set(algorithm.all_streams) - set(algorithm.numbers)
  micro = abstract_batch(cfg, sorted(streams), shape, mesh)
  step = Step(InternVL(cfg), algorithm, tx, state.layout(begin), shape.block)
  bare = dataclasses.replace(begin, frozen={})
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    counts, (_, *others) = _everywhere(
      jax.eval_shape(step.start, begin.params), mesh
    )
    sums = Sums(begin.params, *others)
    numbers = scalars(algorithm, Moment())
    micros = begin.params, begin.frozen, micro, counts, numbers
    accumulate = _summary(step.accumulate.lower(sums, *micros))
    apply = _summary(step.apply.lower(bare, sums, counts))
  gradient = held(begin.params)
  return Program(
    arguments=held(begin) + shape.microbatches * held(micro),
    temporaries=gradient + max(accumulate.temporaries, apply.temporaries),
    code=accumulate.code + apply.code,
    flops=accumulate.flops + apply.flops,
    seconds=accumulate.seconds + apply.seconds,
    collectives={
      kind: shape.microbatches * moved + apply.collectives[kind]
      for kind, moved in accumulate.collectives.items()
    },
  )


def _heads(cfg: InternVLConfig, algorithm: Algorithm, mesh: Mesh) -> Any:
  """Returns shapes of the heads that a method asks for, whole everywhere."""
  width = cfg.decoder.width
  heads = {
    name: {
      "kernel": jax.ShapeDtypeStruct((width, channels), jnp.float32),
      "bias": jax.ShapeDtypeStruct((channels,), jnp.float32),
    }
    for name, channels in outputs.HEADS.items()
    if name in algorithm.outputs
  }
  return _everywhere(heads, mesh)


def held(tree: Any) -> int:
  """Returns the bytes of arrays, given as shapes with shardings, on a device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _everywhere(tree: Any, mesh: Mesh) -> Any:
  """Places shapes whole on every device."""
  where = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    tree,
  )


def whole_params(
  cfg: InternVLConfig,
  mesh: Mesh,
  trained: tuple[str, ...],
  frozen_dtype: str,
  how: Lora | None,
) -> Any:
  """Returns shapes as `placed_params` does, with the adapters `how` if there are
  any: then all else is frozen."""
  if how is None:
    return placed_params(cfg, mesh, trained, frozen_dtype)
  tree = jax.tree.map(
    lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
    lora.abstract(cfg, how),
    adapters.shardings(cfg, how, mesh),
  )
  scale = _everywhere(jax.ShapeDtypeStruct((), jnp.float32), mesh)
  return lora.attach(placed_params(cfg, mesh, (), frozen_dtype), tree, scale)


def placed_params(
  cfg: InternVLConfig,
  mesh: Mesh,
  trained: tuple[str, ...],
  frozen_dtype: str,
) -> Any:
  """Returns shapes of the parameters with their shardings.

  Args:
    trained: the parts that keep their own dtype.
    frozen_dtype: the dtype of all other parts.
  """
  shapes = abstract_params(cfg)  # outside the mesh: these have no sharding yet
  where = sharding.param_shardings(shapes, logical_axes(cfg), mesh)

  def placed(part: str, leaf: Any, sharding: NamedSharding) -> Any:
    dtype = leaf.dtype if part in trained else jnp.dtype(frozen_dtype)
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

  return {
    part: jax.tree.map(
      lambda leaf, at, part=part: placed(part, leaf, at),
      shapes[part],
      where[part],
    )
    for part in shapes
  }


def abstract_batch(
  cfg: InternVLConfig, streams: Sequence[str], shape: Shape, mesh: Mesh
) -> Batch:
  """Returns a batch of shapes with their shardings."""
  rows = (shape.rows, shape.length)
  side = cfg.vision.image_size if cfg.vision else 1
  ids: Any = jax.ShapeDtypeStruct(rows, jnp.int32)
  weights: Any = jax.ShapeDtypeStruct(rows, jnp.float32)
  pixels: Any = jax.ShapeDtypeStruct((shape.tiles, side, side, 3), jnp.uint8)
  places: Any = jax.ShapeDtypeStruct((shape.tiles, 4), jnp.int32)
  batch = Batch(
    tokens=ids,
    targets=ids,
    segment_ids=ids,
    bundle_ids=ids,
    positions=ids,
    tile_slots=ids,
    tiles=pixels,
    tile_places=places,
    streams=dict.fromkeys(streams, weights),
  )
  return jax.tree.map(
    lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
    batch,
    sharding.batch_shardings(batch, mesh),
  )


def _summary(lowered: Any) -> Program:
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    raise SophiaError(_exhausted(str(e))) from e
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  return Program(
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=cost.get("flops", 0.0),
    seconds=cost.get("optimal_seconds", 0.0),
    collectives=collectives(compiled.as_text()),
  )


def _exhausted(message: str) -> str:
  """Returns the compiler's sizes in one line: "needs 43.25G of 31.24G"."""
  sizes = re.search(r"\(?([\d.]+\w)\)? exceeds.*?\(?([\d.]+\w)\)", message)
  if sizes:
    return f"does not fit: temporaries need {sizes[1]} of {sizes[2]}"
  return "does not fit: " + " ".join(message.split())[:200]


# ----------------------------------------------------------------- collectives
KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-to-all",
  "collective-permute",
)
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "f64": 8}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLEES = re.compile(r"(?:body|calls|to_apply)=(\S+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([\w-]+)\((.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")


def collectives(text: str) -> dict[str, float]:
  """Counts the bytes of the results of every collective.

  Loops count by their trips. Fusions, where a TPU hides many collectives, and
  all branches of a conditional are followed.

  Args:
    text: a compiled program's HLO.
  """
  computations, entry = _computations(text)
  total = dict.fromkeys(KINDS, 0.0)

  def visit(name: str, times: float) -> None:
    for result, op, rest in computations.get(name, ()):
      kind = op.removesuffix("-start")
      # A device need not receive the part of a sum that it does not keep.
      if name.startswith("all-reduce-scatter") and kind == "all-reduce":
        kind = "reduce-scatter"
      if kind in total:
        total[kind] += times * _bytes(result)
      trips = _trips(rest, computations) if op == "while" else 1
      for callee in _callees(rest):
        visit(callee, times * trips)

  visit(entry, 1.0)
  return total


def _callees(rest: str) -> list[str]:
  """Returns the computations that an instruction runs, loop conditions
  excluded."""
  branches = ",".join(_BRANCHES.findall(rest)).split(",")
  names = [*_CALLEES.findall(rest), *branches]
  return [name.strip().strip("%,)") for name in names if name]


def _trips(
  rest: str, computations: Mapping[str, list[tuple[str, str, str]]]
) -> int:
  """Returns the trips of a loop: as noted, or its counter's limit."""
  if noted := _TRIPS.search(rest):
    return int(noted[1])
  condition = _CONDITION.search(rest)
  limits = (
    [
      int(value.partition(")")[0])
      for result, op, value in computations.get(condition[1], ())
      if op == "constant" and result.startswith("s32[]")
    ]
    if condition
    else []
  )
  return limits[0] if len(limits) == 1 else 1


def _computations(
  text: str,
) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
  """Returns name -> (result type, operation, rest of the line), and the name
  of the entry."""
  computations: dict[str, list[tuple[str, str, str]]] = {}
  entry, current = "", ""
  for line in text.splitlines():
    if header := _HEADER.match(line):
      current = header[2]
      computations[current] = []
      entry = current if header[1] else entry
    elif instruction := _INSTRUCTION.match(line):
      computations[current].append(
        (instruction[1], instruction[2], instruction[3])
      )
  return computations, entry


def _bytes(result: str) -> float:
  """Returns the bytes of the largest array of a result.

  Not of all arrays: an asynchronous start repeats its operands.
  """
  return max(_sizes(result), default=0.0)


def _sizes(result: str) -> Iterator[float]:
  for dtype, dims in _ARRAY.findall(result):
    count = 1.0
    for size in filter(None, dims.split(",")):
      count *= int(size)
    yield count * _WIDTHS.get(dtype, 4)
