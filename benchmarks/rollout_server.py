"""A server without a model: the time that remains is the client's.

  python -m benchmarks.rollout_server TOKENS LATENCY_MS

Prints its port. Answers each /generate in SGLang's form, with TOKENS tokens after
LATENCY_MS milliseconds, for any number of requests in flight.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web


def answer(tokens: int, prompt_tokens: int) -> bytes:
  triples = [[-0.125 - i / 1024, 5 + i % 64, None] for i in range(tokens)]
  meta = {
    "prompt_tokens": prompt_tokens,
    "finish_reason": {"type": "length", "length": tokens},
    "output_token_logprobs": triples,
  }
  return json.dumps({"text": "", "meta_info": meta}).encode()


async def serve(tokens: int, latency_s: float) -> None:
  known: dict[int, bytes] = {}

  async def generate(request: web.Request) -> web.Response:
    length = len((await request.json())["input_ids"])
    if length not in known:
      known[length] = answer(tokens, length)
    await asyncio.sleep(latency_s)
    return web.Response(body=known[length], content_type="application/json")

  app = web.Application(client_max_size=64 << 20)
  app.router.add_post("/generate", generate)
  runner = web.AppRunner(app)
  await runner.setup()
  site = web.TCPSite(runner, "127.0.0.1", 0)
  await site.start()
  print(runner.addresses[0][1], flush=True)
  await asyncio.Event().wait()


if __name__ == "__main__":
  asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1e3))
