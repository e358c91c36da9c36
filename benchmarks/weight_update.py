"""How long new weights take from the trainer to the answers of a server.

  python -m benchmarks.weight_update [--server=sglang_jax,sglang] [--size=75m]
    [--repeats=5] [--folder=/dev/shm]

Starts a real server of an InternVL on this machine, keeps it busy with requests,
and gives it fp32 parameters that lie on a device, as bfloat16. Prints one JSON line
for each server, with median seconds of

  export   to a directory; beside it `safetensors.save_file` of the same bytes into
           the same folder, taking turns
  update   pause with retract, load, resume; requests are in flight
  probe    a greedy answer with the new weights
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file, save_file

from benchmarks import rollout_embedded
from configs import quickstart
from sophia_jax.checkpoints import Format, save_params
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangEngine
from sophia_jax.rollout.weights import Loaded, ServedWeights
from sophia_jax.servers import supervise
from sophia_jax.servers.backends import ServeSpec
from sophia_jax.types import Prompt, Request, Sampling

BUSY = 4
"""Requests in flight during an update; the server has twice as many places."""
NEW = 128
FORMATS = {"sglang_jax": Format.HF, "sglang": Format.INTERNVL_CHAT}


def measure(
  folder: Path, server: str, size: str, repeats: int
) -> dict[str, Any]:
  """Returns one line of figures."""
  both = rollout_embedded.Both(rollout_embedded.SIZES[size], BUSY, folder)
  params = jax.tree.map(jnp.asarray, rollout_embedded.random_params(both.cfg))

  def save(params: Any, directory: Path) -> None:
    save_params(
      params,
      both.cfg,
      directory,
      folder / "words",
      dtype="bfloat16",
      format=FORMATS[server],
    )

  save(params, folder / "served")
  tensors = load_file(folder / "served" / "model.safetensors")
  with (
    supervise.started(
      _spec(folder, size, len(both.prompts[0])), server, folder / "log", 1800.0
    ) as started,
    SGLangEngine([started.url], ClientConfig(), both.renderer) as engine,
  ):
    probe = _requests(both.prompts[:1], 4)[0]
    weights = ServedWeights([engine], folder / "weights", save, probe)
    loaded, plain = [], []
    for version in range(1, repeats + 2):
      start = time.perf_counter()
      save_file(tensors, folder / "plain")
      plain.append(time.perf_counter() - start)
      loaded.append(_while_busy(engine, both.prompts, weights, params, version))
  # The first of each compiles.
  loaded, plain = loaded[1:], plain[1:]
  seconds = {
    name: statistics.median(getattr(one, name) for one in loaded)
    for name in ("export", "update", "probe")
  }
  ratios = [a.export / b for a, b in zip(loaded, plain, strict=True)]
  return {
    "server": server,
    "size": size,
    "mb": round(sum(x.nbytes for x in tensors.values()) / 1e6),
    "repeats": repeats,
    **{name: round(value, 3) for name, value in seconds.items()},
    "whole": round(
      statistics.median(x.export + x.update + x.probe for x in loaded), 3
    ),
    "export_times_safetensors": round(statistics.median(ratios), 2),
  }


def _spec(folder: Path, size: str, prompt: int) -> ServeSpec:
  config = quickstart.get_config()
  config.images.tile_size = rollout_embedded.SIZES[size].vision.image_size
  config.images.max_tiles = 1
  config.engine.length = prompt + NEW
  config.serve.max_running = 2 * BUSY
  config.serve.dtype = "bfloat16"
  config.serve.weights = str(folder)
  port = supervise.free_port()
  return supervise.spec_of(config, "policy", folder / "served", port=port)


def _requests(prompts: Sequence[Prompt], new: int) -> list[Request]:
  how = Sampling(temperature=0.0, max_new_tokens=new)
  return [
    Request(id=str(i), prompt=prompt, sampling=how)
    for i, prompt in enumerate(prompts)
  ]


def _while_busy(
  engine: SGLangEngine,
  prompts: Sequence[Prompt],
  weights: ServedWeights,
  params: Any,
  version: int,
) -> Loaded:
  """Updates while requests are in flight, and waits for their ends."""

  async def run() -> Loaded:
    asked = [
      asyncio.create_task(engine.ask(request))
      for request in _requests(prompts, NEW)
    ]
    await asyncio.sleep(1.0)
    loaded = await asyncio.to_thread(weights.load, params, version)
    await asyncio.gather(*asked)
    return loaded

  return asyncio.run(run())


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.weight_update --folder=/dev/shm",
  )
  parser.add_argument("--server", default="sglang_jax,sglang")
  parser.add_argument("--size", choices=rollout_embedded.SIZES, default="75m")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--folder", help="where weights go; the system's own")
  args = parser.parse_args()
  for server in args.server.split(","):
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
      line = measure(Path(folder), server, args.size, args.repeats)
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
