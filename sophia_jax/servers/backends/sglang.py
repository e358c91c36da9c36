"""SGLang (PyTorch): the server for NVIDIA GPUs, and for tests on a CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

from sophia_jax.checkpoints import read_config
from sophia_jax.checkpoints.shards import read_json
from sophia_jax.servers.backends.base import Packages, Platform, ServeSpec
from sophia_jax.types import SophiaError

HERE = Path(__file__).parent
IMAGE_CACHE_MB = 512
"""For image embeddings; SGLang's 100 hold four images of an 8B model."""

# The wheel's C++ is built for CUDA and does not load. Two of its operators get a
# schema, so that the Python beside it imports.
_TORCHVISION_SHIM = """
if not _has_ops():
  _cpu_shim = torch.library.Library("torchvision", "DEF")
  _cpu_shim.define(
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
  )
  _cpu_shim.define(
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
  )
"""
_COMPILED = ("torch", "transformers", "sglang", "torchvision", "jax", "flax")


class SGLang:
  """`sglang.launch_server` with sophia_jax.serving.sglang in it."""

  name = "sglang"
  pythons = ("3.11", "3.12", "3.13")

  def packages(self, platform: Platform) -> tuple[Packages, ...]:
    """Returns what SGLang asks for; on a CPU only what it can import."""
    if platform == "cpu":
      return (
        Packages(HERE / "sglang_cpu.txt"),
        Packages(HERE / "sglang_cpu_no_deps.txt", ("--no-deps",)),
      )
    return (Packages(HERE / "sglang_gpu.txt"),)

  def finish_install(self, python: Path, platform: Platform) -> None:
    """Installs stand-ins for what a CPU lacks, and bytecode."""
    site = subprocess.check_output(
      [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
      text=True,
    )
    if platform == "cpu":
      _install_stand_ins(Path(site.strip()))
    _compile(python, Path(site.strip()))

  def command(self, python: Path, spec: ServeSpec) -> list[str]:
    """Returns the command line, in the foreground.

    Raises:
      SophiaError: a platform, a checkpoint or a length it cannot serve.
    """
    if spec.platform == "tpu":
      raise SophiaError(
        "SGLang (PyTorch) serves on GPUs and CPUs; use --backend=sglang_jax on "
        "a TPU"
      )
    return [
      *(str(python), "-m", "sophia_jax.serving.sglang.main"),
      *("--model-path", str(spec.model)),
      *("--host", spec.host, "--port", str(spec.port)),
      *("--dtype", spec.dtype, "--tp-size", str(spec.tp)),
      *("--max-running-requests", str(spec.max_running)),
      # Never a pickle.
      *("--load-format", "safetensors"),
      # Versions are numbers, and count updates.
      *("--weight-version", "0"),
      # The sampler that knows seeds, and in which ours takes its place.
      *("--sampling-backend", "pytorch"),
      # Its first request would be an image in a chat, which ours refuses.
      "--skip-server-warmup",
      *(_policy(spec) if spec.role == "policy" else _reasoner(spec)),
      *(_on_cpu(spec) if spec.platform == "cpu" else ()),
      *spec.extra,
    ]

  def environ(self, spec: ServeSpec) -> dict[str, str]:
    """Returns variables for the command."""
    variables = {
      "SOPHIA_IMAGES": json.dumps(dataclasses.asdict(spec.image)),
      # Log-probabilities at temperature 1, whatever tokens are drawn at.
      "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
      "SGLANG_VLM_CACHE_SIZE_MB": str(IMAGE_CACHE_MB),
      "HF_HUB_OFFLINE": "1",
      "JAX_PLATFORMS": "cpu",  # imported, never used
    }
    if spec.platform == "cpu":
      # TORCHDYNAMO_DISABLE: else the first seeded draw waits for a C++ compiler.
      variables |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    return variables


def _install_stand_ins(site: Path) -> None:
  """Puts them where the imports look."""
  kernel = site / "sgl_kernel"
  kernel.mkdir(exist_ok=True)
  source = (HERE / "sglang_cpu_kernel.txt").read_text(encoding="utf-8")
  (kernel / "__init__.py").write_text(source, encoding="utf-8")
  extension = site / "torchvision" / "extension.py"
  text = extension.read_text(encoding="utf-8")
  if _TORCHVISION_SHIM not in text:
    extension.write_text(text + _TORCHVISION_SHIM, encoding="utf-8")


def _compile(python: Path, site: Path) -> None:
  """Makes bytecode, which PYTHONDONTWRITEBYTECODE=1 would never leave.

  Without it each of the server's three processes compiles some 6,000 modules at
  every start.
  """
  variables = dict(os.environ)
  variables.pop("PYTHONDONTWRITEBYTECODE", None)
  packages = [str(site / name) for name in _COMPILED]
  # Files for other versions of Python do not compile, which is no harm.
  subprocess.run(
    [str(python), "-m", "compileall", "-q", "-j", "0", *packages],
    env=variables,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    check=False,
  )


def _policy(spec: ServeSpec) -> tuple[str, ...]:
  """Serves in SGLang's own class only, within the positions it was made for.

  Raises:
    SophiaError: a checkpoint that SGLang has no class for.
  """
  cfg = read_config(spec.model)
  config = spec.model / "config.json"
  kind = read_json(config).get("model_type")
  if kind not in ("internvl_chat", "qwen2_5_vl"):
    raise SophiaError(
      f"{config}: --backend=sglang serves an InternVL in the original format, "
      f"not {kind}; python -m launch.convert --src={spec.model} --dst=DIR "
      "--format=internvl_chat, and serve DIR"
    )
  length = min(spec.context_length, cfg.decoder.max_positions)
  return ("--context-length", str(length), "--model-impl", "sglang")


def _reasoner(spec: ServeSpec) -> tuple[str, ...]:
  return ("--context-length", str(spec.context_length))


def _on_cpu(spec: ServeSpec) -> tuple[str, ...]:
  """Returns flags for a CPU; keys and values take a quarter of memory at most."""
  d = read_config(spec.model).decoder
  size = 4 if spec.dtype == "float32" else 2
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  room = memory // 4 // (2 * d.depth * d.kv_heads * d.head_dim * size)
  pool = max(
    spec.context_length, min(spec.max_running * spec.context_length, room)
  )
  return (
    *("--device", "cpu", "--attention-backend", "torch_native"),
    "--disable-overlap-schedule",
    *("--max-total-tokens", str(pool), "--chunked-prefill-size", "2048"),
  )
