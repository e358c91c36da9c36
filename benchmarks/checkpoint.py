"""Import and export of a full-size model against plain safetensors.

  python -m benchmarks.checkpoint [--size=internvl3_1b] [--repeats=3]
    [--what=import,host,export] [--folder=/dev/shm]

Writes a checkpoint of random bfloat16 weights into a temporary folder and works
on its files from the page cache, each time in a new process:

  import   onto one device (`load_sharded`), against `safetensors.numpy.load_file`
  host     to numpy (`load_params`), against the same
  export   from one device (`save_params`, files only), against `save_file` of the
           same tensors into the same files

The two take turns, in processes that have traced the model's shapes before. Prints
one JSON line for each: the median seconds of both, the median over the turns of
ours / safetensors, in seconds and in seconds of all cores, and the peak of resident
memory without the interpreter, its imports, and one copy of the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from sophia_jax.checkpoints import (
  load_params,
  load_sharded,
  read_config,
  save_params,
)
from sophia_jax.models import (
  SIZES,
  DecoderConfig,
  InternVLConfig,
  Params,
  VisionConfig,
  abstract_params,
)

GIB = 1 << 30
MODELS = {
  **SIZES,
  # For trying the command out.
  "toy": InternVLConfig(
    vision=VisionConfig(width=64, depth=1, heads=1, mlp=64, image_size=28),
    decoder=DecoderConfig(
      vocab=256, width=64, depth=2, heads=2, kv_heads=1, mlp=64, head_dim=32
    ),
    image_token_id=3,
  ),
}


def random_params(size: str) -> Params:
  """Returns parameters of finite random bfloat16 bits."""
  rng = np.random.default_rng(0)
  cfg = dataclasses.replace(MODELS[size], param_dtype="bfloat16")

  def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    bits = rng.integers(0, 1 << 16, leaf.shape, np.uint16)
    return (bits & 0xBFFF).view(ml_dtypes.bfloat16)

  return jax.tree.map(draw, abstract_params(cfg))


def memory(key: str) -> int:
  """Returns VmRSS or VmHWM of this process, bytes."""
  for line in Path("/proc/self/status").read_text("utf-8").splitlines():
    if line.startswith(key):
      return int(line.split()[1]) * 1024
  raise KeyError(key)


# ------------------------------------------------------------------------- cases
def load_plain(model: Path) -> dict[str, dict[str, np.ndarray]]:
  """Loads the tensors of each file with safetensors alone."""
  return {p.name: load_file(p) for p in sorted(model.glob("*.safetensors"))}


def load_device(model: Path) -> Params:
  cfg = dataclasses.replace(read_config(model), param_dtype="bfloat16")
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  layout = jax.tree.map(lambda _: here, abstract_params(cfg))
  return jax.block_until_ready(load_sharded(model, cfg, layout))


def load_host(model: Path) -> Params:
  cfg = dataclasses.replace(read_config(model), param_dtype="bfloat16")
  return load_params(model, cfg)


def prepare_save_plain(model: Path, out: Path) -> Callable[[], object]:
  files = load_plain(model)
  out.mkdir()

  def save() -> None:
    for name, tensors in files.items():
      save_file(tensors, out / name)

  return save


def prepare_save(model: Path, out: Path) -> Callable[[], object]:
  cfg, params = read_config(model), load_device(model)
  return lambda: save_params(params, cfg, out)


READS = {"plain": load_plain, "import": load_device, "host": load_host}
WRITES = {"plain_export": prepare_save_plain, "export": prepare_save}


def child(what: str, model: Path) -> None:
  """Runs one case and prints {seconds, cpu, peak}."""
  abstract_params(read_config(model))
  with tempfile.TemporaryDirectory(dir=model.parent) as folder:
    if what in READS:
      run: Callable[[], object] = lambda: READS[what](model)
    else:
      run = WRITES[what](model, Path(folder) / "out")
    # A writer starts with the model in memory, a reader without.
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start, cpu = time.perf_counter(), time.process_time()
    held = run()
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu
    peak = memory("VmHWM") - before
    del held
  print(json.dumps({"seconds": seconds, "cpu": cpu_seconds, "peak": peak}))


# ------------------------------------------------------------------------ report
def measure(what: str, model: Path) -> dict[str, float]:
  line = [sys.executable, "-m", "benchmarks.checkpoint"]
  done = subprocess.run(
    [*line, f"--child={what}", f"--model={model}"],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def compare(
  ours: str, plain: str, model: Path, repeats: int, size: int
) -> dict[str, Any]:
  """Measures both in turns and returns a line of figures."""
  runs: dict[str, list[dict[str, float]]] = {plain: [], ours: []}
  for _ in range(repeats):
    for what, found in runs.items():
      found.append(measure(what, model))
  seconds, cpu = (
    {
      what: statistics.median(run[key] for run in found)
      for what, found in runs.items()
    }
    for key in ("seconds", "cpu")
  )
  held = size if ours in READS else 0
  beyond = {
    what: max(run["peak"] for run in found) - held
    for what, found in runs.items()
  }
  return {
    "what": ours,
    "model_gib": round(size / GIB, 2),
    "seconds": round(seconds[ours], 2),
    "safetensors_seconds": round(seconds[plain], 2),
    "gb_per_s": round(size / 1e9 / seconds[ours], 2),
    "times_safetensors": _ratio(runs[ours], runs[plain], "seconds"),
    "cpu_times_safetensors": _ratio(runs[ours], runs[plain], "cpu"),
    "cpu_seconds": round(cpu[ours], 2),
    "safetensors_cpu_seconds": round(cpu[plain], 2),
    "memory_beyond_model_gib": round(beyond[ours] / GIB, 2),
    "safetensors_memory_beyond_model_gib": round(beyond[plain] / GIB, 2),
  }


def _ratio(
  ours: list[dict[str, float]], plain: list[dict[str, float]], key: str
) -> float:
  """Returns the median of ours / plain over turns of both."""
  pairs = zip(ours, plain, strict=True)
  return round(statistics.median(a[key] / b[key] for a, b in pairs), 2)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.checkpoint --repeats=3",
  )
  parser.add_argument("--size", choices=MODELS, default="internvl3_1b")
  parser.add_argument("--what", default="import,host,export")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument(
    "--folder", help="folder of the files; the system's if absent"
  )
  parser.add_argument("--child", help=argparse.SUPPRESS)
  parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    child(args.child, args.model)
    return
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    model = Path(folder) / "model"
    save_params(random_params(args.size), MODELS[args.size], model)
    size = sum(p.stat().st_size for p in model.glob("*.safetensors"))
    for ours in args.what.split(","):
      plain = "plain_export" if ours == "export" else "plain"
      line = compare(ours, plain, model, args.repeats, size)
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
