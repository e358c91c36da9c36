"""The SGLang client against a bare loop, and the embedded engine against HF.

  python -m benchmarks.rollout [--part=client,embedded] [--concurrency=8,32,64]
    [--server=instant,sglang_jax] [--reps=5]

client      Our client and a bare asyncio loop, which posts prebuilt bytes and
            drops the replies, drive the same server, interleaved in one process.
            sglang_jax is a server of a model of the quickstart's size on the CPU;
            instant answers each request with 128 tokens after half a second: at
            64 requests in flight 16,000 tokens/s, at 256 65,000.
embedded    benchmarks/rollout_embedded.py

Prints one JSON line for each case: tokens/s of both, the median of the paired
ratios, and CPU seconds of this process per 1,000 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import rollout_embedded
from configs import quickstart
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangEngine
from sophia_jax.servers import supervise
from sophia_jax.types import Prompt, Request, Sampling

NEW = 128
LATENCY_MS = 500
IMAGES = 16
"""Distinct images among the requests."""
EACH = {"instant": 8, "sglang_jax": 2}
"""Requests of a measurement, for each of the concurrent ones."""


@contextlib.contextmanager
def instant(directory: Path, longest: int) -> Iterator[str]:
  command = [sys.executable, "-m", "benchmarks.rollout_server"]
  command += [str(NEW), str(LATENCY_MS)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    try:
      yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
      process.terminate()


@contextlib.contextmanager
def sglang_jax(directory: Path, longest: int) -> Iterator[str]:
  config = quickstart.get_config()
  config.engine.length = longest + NEW
  spec = supervise.spec_of(
    config, "policy", directory / "hf", port=supervise.free_port()
  )
  log = directory / "server.log"
  with supervise.started(spec, "sglang_jax", log, 1800.0) as server:
    yield server.url


SERVERS = {"instant": instant, "sglang_jax": sglang_jax}


def requests(prompts: Sequence[Prompt], count: int) -> list[Request]:
  return [
    Request(
      id=f"{i}/0",
      prompt=prompt,
      sampling=Sampling(max_new_tokens=NEW, seed=i),
    )
    for i, prompt in zip(range(count), itertools.cycle(prompts))
  ]


def bare(url: str, bodies: list[bytes], concurrency: int) -> Callable[[], None]:
  """Posts all bodies, `concurrency` at a time."""

  async def drive() -> None:
    left = iter(bodies)

    async def worker() -> None:
      for body in left:
        async with session.post(f"{url}/generate", data=body) as answer:
          assert answer.status == 200
          await answer.read()

    async with aiohttp.ClientSession(
      headers={"Content-Type": "application/json"},
      connector=aiohttp.TCPConnector(limit=0),
    ) as session:
      await asyncio.gather(*(worker() for _ in range(concurrency)))

  return lambda: asyncio.run(drive())


def measure(
  name: str, url: str, both: rollout_embedded.Both, concurrency: int, reps: int
) -> dict[str, Any]:
  """Measures our client and the bare loop on one server."""
  asked = requests(both.prompts, EACH[name] * concurrency)
  config = ClientConfig(concurrency=concurrency)
  with SGLangEngine([url], config, both.renderer) as engine:
    bodies = [json.dumps(engine.job(r).body).encode() for r in asked]
    works = {
      "client": lambda: sum(len(c.token_ids) for c in engine.generate(asked)),
      "bare": bare(url, bodies, concurrency),
    }
    # A first round compiles everything. The seed makes all rounds equal.
    tokens = works["client"]()
    works["bare"]()
    # A garbage collection takes half a second with torch and jax loaded, and would
    # fall on either by chance.
    gc.collect()
    gc.freeze()
    seconds = rollout_embedded.interleaved(works, reps)
  median = {
    key: [statistics.median(column) for column in zip(*times)]
    for key, times in seconds.items()
  }
  ratios = [b[0] / c[0] for b, c in zip(seconds["bare"], seconds["client"])]
  return {
    "server": name,
    "concurrency": concurrency,
    "requests": len(asked),
    "tokens": tokens,
    "reps": reps,
    **{f"{k}_tokens_per_s": round(tokens / m[0]) for k, m in median.items()},
    "ratio": round(statistics.median(ratios), 3),
    **{
      f"{k}_cpu_s_per_1000": round(1000 * m[1] / len(asked), 2)
      for k, m in median.items()
    },
  }


def client(args: Any) -> Iterator[dict[str, Any]]:
  with tempfile.TemporaryDirectory() as name:
    directory = Path(name)
    size = rollout_embedded.SIZES["quickstart"]
    both = rollout_embedded.Both(size, IMAGES, directory)
    longest = max(map(len, both.prompts))
    for server in args.server.split(","):
      with SERVERS[server](directory, longest) as url:
        for concurrency in map(int, args.concurrency.split(",")):
          yield measure(server, url, both, concurrency, args.reps)


def embedded(args: Any) -> Iterator[dict[str, Any]]:
  for size in rollout_embedded.SIZES:
    for batch in (8, 64):
      yield rollout_embedded.measure(size, batch, args.reps)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.rollout --part=client",
  )
  parser.add_argument("--part", default="client,embedded")
  parser.add_argument("--concurrency", default="8,32,64")
  parser.add_argument("--server", default=",".join(SERVERS))
  parser.add_argument("--reps", type=int, default=5)
  args = parser.parse_args()
  parts = {"client": client, "embedded": embedded}
  for part in args.part.split(","):
    for line in parts[part](args):
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
