"""SGLang-JAX: for TPUs, and for any CPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

from sophia_jax.checkpoints import read_config
from sophia_jax.models import DecoderConfig
from sophia_jax.servers.backends.base import (
  Packages,
  Platform,
  ServeSpec,
  cache,
)
from sophia_jax.types import SophiaError

PAGE = 16
"""Tokens of a page of the cache on a CPU."""
CHUNKS = (512, 256, 128, 64)
"""Prompt tokens that one step reads, on a CPU: the most that memory allows."""
LOGITS_BYTES = 1 << 30
"""For a CPU's dense attention logits and the copies made of them."""
_COPIES = 4
_MAX_PREFILL = 4096


class Sizes(NamedTuple):
  """Sizes of a server on a CPU."""

  running: int
  chunk: int
  context: int

  @property
  def pool(self) -> int:
    """Tokens of the cache; every step copies it whole, so no more than needed."""
    return self.running * self.context


def cpu_sizes(spec: ServeSpec, decoder: DecoderConfig) -> Sizes:
  """Finds sizes whose attention fits: the longest chunk, then fewer requests.

  On several CPU devices, and for models that are not ours, every layer makes the
  logits of all queries with the whole cache, [T, heads, running * context] in
  fp32, several times over; serving.attention stays far below that.
  """
  context = -(-spec.context_length // PAGE) * PAGE
  running = spec.max_running
  while True:
    row = decoder.heads * running * context * 4 * _COPIES
    for chunk in CHUNKS:
      # A step of decoding has a token of every request in it.
      if chunk >= running and chunk * row <= LOGITS_BYTES:
        return Sizes(running, chunk, context)
    if running == 1:
      return Sizes(1, CHUNKS[-1], context)
    running //= 2


class SGLangJax:
  """Serves our own model classes; see sophia_jax.serving."""

  name = "sglang_jax"
  pythons = ("3.12",)

  def packages(self, platform: Platform) -> tuple[Packages, ...]:
    if platform == "gpu":
      raise SophiaError(
        "SGLang-JAX serves on TPUs and CPUs; use --backend=sglang on a GPU"
      )
    here = Path(__file__).parent
    return (Packages(here / f"sglang_jax_{platform}.txt"),)

  def finish_install(self, python: Path, platform: Platform) -> None:
    """Changes nothing: SGLang-JAX runs as installed."""

  def command(self, python: Path, spec: ServeSpec) -> list[str]:
    return [
      *(str(python), "-m", "sophia_jax.serving.sglang_jax.main"),
      *("--model-path", str(spec.model)),
      *("--host", spec.host, "--port", str(spec.port)),
      *("--device", spec.platform, "--dtype", spec.dtype),
      *("--tp-size", str(spec.tp)),
      # A request's tokens depend on its own seed, not on who it runs with.
      "--enable-deterministic-sampling",
      "--skip-server-warmup",
      *(_on_cpu(spec) if spec.platform == "cpu" else _on_tpu(spec)),
      *spec.extra,
    ]

  def environ(self, spec: ServeSpec) -> dict[str, str]:
    image = dataclasses.asdict(spec.image)
    return {
      "SOPHIA_IMAGES": json.dumps(image),
      "JAX_PLATFORMS": "cpu" if spec.platform == "cpu" else "tpu,cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache() / "xla-servers"),
      "HF_HUB_OFFLINE": "1",
    }


def _on_cpu(spec: ServeSpec) -> tuple[str, ...]:
  """Returns flags for few shapes of each program, compiled when first needed."""
  sizes = cpu_sizes(spec, read_config(spec.model).decoder)
  # Most steps read the few tokens of a short prompt, or its last ones.
  shapes = sorted({CHUNKS[-1], sizes.chunk})
  return (
    *("--attention-backend", "native", "--disable-precompile"),
    # With the schedule overlapped, host arrays change while a step still reads
    # them: on a CPU the step's arrays are the host's own memory.
    "--disable-overlap-schedule",
    *("--page-size", str(PAGE)),
    *("--context-length", str(sizes.context)),
    *("--max-running-requests", str(sizes.running)),
    *("--max-total-tokens", str(sizes.pool)),
    *("--chunked-prefill-size", str(sizes.chunk)),
    *("--max-prefill-tokens", str(_MAX_PREFILL)),
    *("--precompile-token-paddings", *map(str, shapes)),
    *("--precompile-bs-paddings", str(sizes.running)),
  )


def _on_tpu(spec: ServeSpec) -> tuple[str, ...]:
  """Gives the cache what the weights leave; all shapes compile at start."""
  return (
    *("--attention-backend", "fa", "--page-size", "128"),
    *("--context-length", str(spec.context_length)),
    *("--max-running-requests", str(spec.max_running)),
    *("--chunked-prefill-size", "4096", "--mem-fraction-static", "0.8"),
  )
