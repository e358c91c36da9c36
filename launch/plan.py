"""Memory, collectives and estimated MFU of a training step on absent devices.

Compiles the train step of a config for a TPU topology without a TPU (needs
`pip install libtpu`), or for a number of CPU devices. GPUs cannot be compiled
for here: their figures are by arithmetic, and labelled so. The last line is
JSON. One call compares several meshes.

Example:
  python -m launch.plan --config=configs/internvl3_38b.py --topology=v5p:4x4x4
  python -m launch.plan --config=configs/internvl3_38b.py --topology=v6e:16x16 \\
    --rows=64 --mesh=fsdp=64,tensor=4 --mesh=fsdp=64,context=4

Settings for a topology belong into `config.topologies`.
"""

import dataclasses
import json
import os
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from launch import cli
from sophia_jax.checkpoints.config import read_config
from sophia_jax.config import section
from sophia_jax.files import write_text
from sophia_jax.models import SIZES, InternVLConfig
from sophia_jax.plans.aot import GPUS
from sophia_jax.plans.plan import Assumptions, Plan, plan
from sophia_jax.plans.shape import Shape
from sophia_jax.progress import Progress
from sophia_jax.runs import stage as stages
from sophia_jax.runs.policies import RuntimeConfig
from sophia_jax.runs.run import for_topology
from sophia_jax.train.devices import ACCELERATORS, CPU, Accelerator
from sophia_jax.train.sharding import AXES, MeshConfig
from sophia_jax.types import SophiaError

EXAMPLE = (
  "python -m launch.plan --config=configs/internvl3_38b.py --topology=v5p:4x4x4"
)

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
  shape = Shape.of(train)
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
      try:
        plans.append(
          plan(model, train, shape, mesh, topology, accelerator, assumptions)
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
  return "\n".join(rows + ([f"  advice: {p.advice}"] if p.advice else []))


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
  config_flags.DEFINE_config_file("config", None, "A file of configs/.")
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
  cli.define_stage_flag("The stage; by default the last of config.order.")
  flags.DEFINE_string("out", None, "JSON of all plans.")
  cli.start(main, EXAMPLE, ("config", "topology"))
