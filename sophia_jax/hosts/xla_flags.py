"""XLA's flags for NVIDIA GPUs, set where the user has not set them.

A flag that the installed XLA does not know would end the process: only names
that its library holds are set.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import re
from collections.abc import Callable, MutableMapping
from pathlib import Path

MIB = 1 << 20
FLAGS = {
  # Collectives beside computation; the default waits for each.
  "xla_gpu_enable_latency_hiding_scheduler": "true",
  # A layer's weights in a few large messages.
  "xla_gpu_all_gather_combine_threshold_bytes": str(128 * MIB),
  "xla_gpu_reduce_scatter_combine_threshold_bytes": str(128 * MIB),
  "xla_gpu_all_reduce_combine_threshold_bytes": str(128 * MIB),
  # cuBLAS for large products; Triton's are tuned at every compilation.
  "xla_gpu_enable_triton_gemm": "false",
  # CUDA graphs: a decoding step is many kernels of microseconds.
  "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL",
}
PLUGINS = ("xla_cuda13", "xla_cuda12")
_NAME = re.compile(r"--(\w+)")


def apply(environment: MutableMapping[str, str] = os.environ) -> None:
  """Sets the flags if jax will compute on a GPU; before jax looks for devices."""
  library = plugin(environment)
  if library is None:
    return
  given = environment.get("XLA_FLAGS", "")
  environment["XLA_FLAGS"] = completed(given, names(library))


def completed(given: str, known: Callable[[str], bool]) -> str:
  """Returns the user's flags behind those of `FLAGS` that they leave open."""
  taken = set(_NAME.findall(given))
  ours = [
    f"--{name}={value}"
    for name, value in FLAGS.items()
    if name not in taken and known(name)
  ]
  return " ".join([*ours, *given.split()])


def plugin(environment: MutableMapping[str, str]) -> Path | None:
  """Returns XLA's library for CUDA; None where another platform is asked for."""
  platforms = environment.get("JAX_PLATFORMS", "cuda").split(",")
  if not {"cuda", "gpu"} & {*platforms}:
    return None
  if importlib.util.find_spec("jax_plugins") is None:
    return None
  for name in PLUGINS:
    spec = importlib.util.find_spec(f"jax_plugins.{name}")
    for folder in (spec and spec.submodule_search_locations) or ():
      library = Path(folder) / "xla_cuda_plugin.so"
      if library.is_file():
        return library
  return None


def names(library: Path) -> Callable[[str], bool]:
  """Returns whether a library of XLA knows a flag, by the strings it holds."""

  def known(name: str) -> bool:
    with (
      library.open("rb") as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
      # A flag that was dropped is held only inside the text that says so.
      return content.find(name.encode() + b"\0") >= 0

  return known
