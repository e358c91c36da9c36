"""Memory, collectives and estimated MFU of an update, and of a round, on absent
devices.

Compiles the train step of a config for a TPU topology without a TPU (needs
`pip install "jax[tpu]"`, which pins the libtpu that jax can read), or for a
number of CPU devices. GPUs cannot be compiled for here: their figures are by
arithmetic, and labelled so. The last line is JSON. One call compares several
meshes.

A stage that samples in rounds is planned with its annotation, the copies of the
weights that it keeps, and an embedded engine's memory; sampling rests on an
assumed throughput.

Example:
  python -m launch.plan --config=configs/internvl3_38b.py --topology=v5p:4x4x4
  python -m launch.plan --config=configs/internvl3_38b.py --topology=v6e:16x16 \\
    --rows=64 --mesh=fsdp=64,tensor=4 --mesh=fsdp=64,context=4
  python -m launch.plan --config=configs/sophia_grpo_8b.py --stage=grpo \\
    --topology=v5p:4x4x4 --rows=64 --sampling_throughput=2000

Settings for a topology belong into `config.topologies`.
"""

import dataclasses
import json
import logging
import os
from pathlib import Path

from absl import flags

from launch import cli
from sophia_jax.checkpoints.config import read_config
from sophia_jax.config import section
from sophia_jax.files import write_text
from sophia_jax.models import SIZES, InternVLConfig
from sophia_jax.plans.aot import GPUS
from sophia_jax.plans.plan import Assumptions, Plan, plan
from sophia_jax.plans.rounds import THROUGHPUT, Engine, Round, Rounds
from sophia_jax.plans.rounds import shape as round_shape
from sophia_jax.plans.shape import Shape
from sophia_jax.progress import Progress
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.runs import stage as stages
from sophia_jax.runs.policies import RuntimeConfig
from sophia_jax.runs.run import for_topology
from sophia_jax.runs.stage import Stage
from sophia_jax.train.devices import ACCELERATORS, CPU, Accelerator
from sophia_jax.train.sharding import AXES, MeshConfig
from sophia_jax.types import Sampling, SophiaError

EXAMPLE = (
  "python -m launch.plan --config=configs/internvl3_38b.py --topology=v5p:4x4x4"
)

_log = logging.getLogger("sophia_jax")
METHODS = {
  "compiled": "the compiler's cost model",
  "arithmetic": "formulas and data sheets, nothing compiled; memory too",
}


def main() -> None:
  topology = flags.FLAGS.topology
  accelerator = _accelerator(topology)
  config = for_topology(flags.FLAGS.config, topology, cli.given())
  stage = stages.read(config, flags.FLAGS.stage or config.order[-1])
  train = stage.train
  shape, rounds = Shape.of(train), _rounds(config, stage)
  if rounds is not None:
    segment = flags.FLAGS.segment_length or shape.length
    shape = round_shape(rounds, stage.algorithm, shape, segment)
  if flags.FLAGS.rows is not None:
    shape = shape.with_rows(flags.FLAGS.rows)
  model = _model(config)
  candidates = [_mesh(text) for text in flags.FLAGS.mesh or ()]
  if not candidates:
    candidates = [section(MeshConfig, config.mesh.to_dict(), "mesh")]
  assumptions = Assumptions(
    flags.FLAGS.segment_length, flags.FLAGS.attention_efficiency
  )
  plans, refused = [], []
  with Progress("plan", len(candidates), "mesh") as progress:
    for mesh in candidates:
      if accelerator is not CPU and not topology.startswith(GPUS):
        _log.info(
          "compiling for %s, %s: minutes for a model of billions",
          *(topology, _shown(dataclasses.asdict(mesh))),
        )
      try:
        plans.append(
          plan(
            model,
            stage.algorithm,
            train,
            shape,
            mesh,
            topology,
            accelerator,
            assumptions,
            rounds,
          )
        )
      except SophiaError as e:
        refused.append(f"{_shown(dataclasses.asdict(mesh))}: {e}")
      progress.advance()
  if not plans:
    raise SophiaError("; ".join(refused))
  for line in refused:
    print(line)
  plans.sort(key=lambda p: (not p.fits, p.estimated_seconds))
  for candidate in plans:
    print(table(candidate))
  values = json.dumps([dataclasses.asdict(p) for p in plans], indent=1)
  if flags.FLAGS.out:
    write_text(Path(flags.FLAGS.out), values)
  print(json.dumps(dataclasses.asdict(plans[0])))


def table(p: Plan) -> str:
  """Formats a plan for people."""
  rows = [
    f"{p.topology}  {_shown(p.mesh)}  remat {p.remat}  {p.source}  "
    f"{'fits' if p.fits else 'DOES NOT FIT'}: {p.peak_gib:.1f} of "
    f"{p.hbm_gib:.1f} GiB a device",
    *(f"  {name:18} {gib:9.2f} GiB" for name, gib in p.memory_gib.items()),
    *(
      f"  {kind:18} {gib:9.2f} GiB moved an update"
      for kind, gib in p.collectives_gib.items()
    ),
    *(f"  {name:18} {s:9.2f} s" for name, s in p.seconds.items()),
    f"  an update: {p.tokens_per_step:,} tokens, "
    f"{p.model_flops / 1e15:,.0f} PFLOP, about {p.estimated_seconds:,.1f} s"
    f" = {p.estimated_tokens_per_s:,.0f} tokens/s, MFU "
    f"{p.estimated_mfu:.1%}",
    f"  ({METHODS[p.source]}, not a timing; attention at "
    f"{p.attention_efficiency:.0%} of the peak; {p.segment:,} tokens a "
    "sequence)",
  ]
  if p.round:
    rows += _round_rows(p.round)
  return "\n".join(rows + ([f"  advice: {p.advice}"] if p.advice else []))


def _round_rows(r: Round) -> list[str]:
  """Formats what a round is beside its update."""
  asked = ", ".join(f"{n} of {role}" for role, n in r.requests.items())
  scored = ", ".join(r.scored_by) or "none"
  often = f"; up to {r.draws} times, if groups are dropped" * (r.draws > 1)
  where = {
    "embedded": "in this process",
    "servers": "in servers, on as many devices more",
  }
  return [
    f"  a round: {r.sequences:,} sequences ({asked} a problem), "
    f"{r.updates} update{'s' * (r.updates > 1)}",
    *(f"    {name:16} {gib:9.2f} GiB" for name, gib in r.phases_gib.items()),
    *(f"    {name:16} {s:9.2f} s" for name, s in r.seconds.items()),
    f"    (sampling {where[r.sampler]}: {r.response:,} tokens a sequence at "
    f"{r.throughput:,.0f} tokens/s a device, assumed{often}; annotation by "
    f"forward passes: {scored})",
  ]


def _accelerator(topology: str) -> Accelerator:
  """Returns figures of the topology's devices; prepares JAX to compile for
  them."""
  kind, _, size = topology.partition(":")
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  known = {**ACCELERATORS, "cpu": CPU}
  if kind not in known or not size:
    raise SophiaError(
      f"--topology={topology}: known kinds are cpu, "
      f"{', '.join(ACCELERATORS)}; write v5p:4x4x4, v6e:16x16, h100:8 or cpu:8"
    )
  if kind in ("cpu", *GPUS):
    count = f"--xla_force_host_platform_device_count={size}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  return known[kind]


def _rounds(config, stage: Stage) -> Rounds | None:  # type: ignore[no-untyped-def]
  """Returns the rounds of a stage; None where it samples everything first."""
  settings = stage.config
  if settings.rounds == 1 or not stage.samples:
    return None
  runtime = section(RuntimeConfig, config.policy.to_dict(), "policy")
  engine = section(EngineConfig, config.engine.to_dict(), "engine")
  answering = section(Sampling, config.answering.to_dict(), "answering")
  return Rounds(
    groups=settings.groups,
    draws=settings.draws,
    epochs=stage.train.epochs,
    minibatches=settings.minibatches,
    ahead=settings.ahead,
    response=answering.max_new_tokens,
    engine=Engine(engine.slots, engine.length)
    if runtime.engine == "embedded"
    else None,
    throughput=flags.FLAGS.sampling_throughput,
  )


def _model(config) -> InternVLConfig:  # type: ignore[no-untyped-def]
  """Returns the policy's shapes: of its config.json, or of a released size."""
  runtime = section(RuntimeConfig, config.policy.to_dict(), "policy")
  directory = Path(runtime.path)
  if runtime.path and directory.is_dir():
    cfg = read_config(directory)
  elif config.get("size") in SIZES:
    cfg = SIZES[config.size]
  else:
    raise SophiaError(
      f"{runtime.path}: no such checkpoint; give --config.policy.path, or set "
      f"config.size to one of {', '.join(SIZES)}"
    )
  return runtime.of(cfg)


def _mesh(text: str) -> MeshConfig:
  """Parses "fsdp=16,tensor=4".

  Raises:
    SophiaError: the text has another form.
  """
  sizes = dict(part.partition("=")[::2] for part in text.split(","))
  if set(sizes) - set(AXES) or not all(
    size.removeprefix("-").isdecimal() for size in sizes.values()
  ):
    raise SophiaError(
      f"--mesh={text}: write axis=devices of {', '.join(AXES)}, as in "
      "fsdp=16,tensor=4"
    )
  return MeshConfig(**{"fsdp": 1, **{a: int(n) for a, n in sizes.items()}})


def _shown(mesh: dict[str, int]) -> str:
  return " ".join(f"{axis}={size}" for axis, size in mesh.items() if size != 1)


if __name__ == "__main__":
  cli.define_config_flag()
  flags.DEFINE_string(
    "topology", None, "Devices: v5p:4x4x4, v6e:16x16, cpu:8, ..."
  )
  flags.DEFINE_multi_string(
    "mesh", None, "Mesh to plan, as fsdp=16,tensor=4; may be repeated."
  )
  flags.DEFINE_integer(
    "rows", None, "Rows of a microbatch; the update keeps its size."
  )
  flags.DEFINE_integer(
    "segment_length",
    None,
    "Length of a packed sequence, tokens; a row's if absent.",
  )
  flags.DEFINE_float(
    "attention_efficiency",
    None,
    "Share of the peak in the attention kernel; the device's usual one if "
    "absent.",
  )
  flags.DEFINE_float(
    "sampling_throughput",
    THROUGHPUT,
    "Tokens/s that a device samples in a round: an assumption.",
  )
  cli.define_stage_flag("The stage; by default the last of config.order.")
  flags.DEFINE_string("out", None, "JSON of all plans.")
  cli.start(main, EXAMPLE, ("config", "topology"))
