"""A small HTTP server that answers like SGLang, or badly if so set."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable

from aiohttp import web

Fault = Callable[["Fake", web.Request], Awaitable[web.StreamResponse | None]]


def generated(body: dict, ids: list[int], **changes) -> dict:
  """An answer of /generate with the tokens `ids`."""
  meta = {
    "id": body.get("rid"),
    "prompt_tokens": len(body["input_ids"]),
    "completion_tokens": len(ids),
    "finish_reason": {"type": "stop", "matched": ids[-1]},
    "output_token_logprobs": [[-0.5 - i, t, None] for i, t in enumerate(ids)],
  }
  # As a real server: output_ids is not to be trusted.
  return {"text": "?", "output_ids": [9], "meta_info": {**meta, **changes}}


def chatted(content: str | None, **message) -> dict:
  """An answer of /v1/chat/completions."""
  message = {"role": "assistant", "content": content, **message}
  choice = {"index": 0, "message": message, "finish_reason": "stop"}
  return {"choices": [choice], "usage": {"completion_tokens": 3}}


class Fake:
  """One server in a separate thread.

  `faults` are used up one for each request that generates: what a fault returns
  is sent; None lets the request through. Good answers are `ids`, or `text`.
  """

  def __init__(self, end_id: int, port: int = 0):
    self.ids = [5, 6, end_id]
    self.text = "Six."
    self.faults: list[Fault] = []
    self.always: Fault | None = None
    self.asked: list[dict] = []
    self.aborted: list[str] = []
    self.running = self.most = 0
    self.gate = threading.Event()
    """Answers wait for it."""
    self.gate.set()
    self.info: dict = {"model_path": "/models/little"}
    self.models: dict = {"data": [{"id": "little", "max_model_len": 96}]}
    self.prompt_tokens: int | None = None
    self.headers: list[dict] = []
    self.version: str | None = None
    """Of the weights; None: a server that has no such thing."""
    self.paused = False
    self.updates: list[tuple[str, dict]] = []
    """Path and body of all that was asked about weights."""
    self.refuses = ""
    """Why an update is refused."""
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()
    self._runner, self.port = self._await(self._start(port))
    self.url = f"http://127.0.0.1:{self.port}"

  def _await(self, work):
    return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

  async def _start(self, port: int):
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/generate", self._generate)
    app.router.add_post("/v1/chat/completions", self._generate)
    app.router.add_post("/score", self._generate)
    app.router.add_post("/abort_request", self._abort)
    for path in ("pause_generation", "continue_generation"):
      app.router.add_post(f"/{path}", self._weights)
    app.router.add_post("/update_weights_from_disk", self._weights)
    app.router.add_get("/get_model_info", lambda _: self._json(self.info))
    app.router.add_get("/v1/models", lambda _: self._json(self.models))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, site._server.sockets[0].getsockname()[1]

  def stop(self) -> None:
    if self._loop.is_running():
      self.gate.set()
      self._await(self._runner.cleanup())
      self._loop.call_soon_threadsafe(self._loop.stop)
      self._thread.join()
      self._loop.close()

  async def _json(self, value) -> web.Response:
    return web.json_response(value)

  async def _abort(self, request: web.Request) -> web.Response:
    self.aborted.append((await request.json())["rid"])
    return web.Response()

  async def _weights(self, request: web.Request) -> web.Response:
    body = await request.json()
    self.updates.append((request.path, body))
    if request.path == "/update_weights_from_disk":
      if self.refuses:
        return web.json_response({"message": self.refuses}, status=400)
      self.version = body["weight_version"]
    else:
      self.paused = request.path == "/pause_generation"
    return web.json_response({"status": "ok"})

  async def _generate(self, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    self.asked.append(body)
    self.headers.append(dict(request.headers))
    self.running += 1
    self.most = max(self.most, self.running)
    try:
      while not self.gate.is_set():
        await asyncio.sleep(0.002)
      fault = self.faults.pop(0) if self.faults else self.always
      answer = await fault(self, request) if fault else None
      return answer or await self._json(self._good(body))
    finally:
      self.running -= 1

  def _good(self, body: dict) -> dict:
    if "answer" in body:
      return {"score": 0.5}
    if "messages" in body:
      return chatted(self.text)
    if "text" in body:
      count = self.prompt_tokens or len(body["text"])
      return generated({"input_ids": [0] * count}, self.ids[-1:])
    most = body["sampling_params"]["max_new_tokens"]
    ids = self.ids[-most:]
    if self.version is None:
      return generated(body, ids)
    spans = [{"version": self.version, "start": 0, "end": len(ids)}]
    return generated(body, ids, weight_versions=spans)


# ---------------------------------------------------------------------- faults
def status(code: int, text: str = "") -> Fault:
  async def fault(fake, request):
    return web.Response(status=code, text=text)

  return fault


def sends(value) -> Fault:
  """A status of 200 with this JSON, or with these bytes."""
  if not isinstance(value, bytes):
    value = json.dumps(value).encode()

  async def fault(fake, request):
    return web.Response(body=value, content_type="application/json")

  return fault


def changed(**meta) -> Fault:
  """A good answer of /generate except for these values of its meta_info."""

  async def fault(fake, request):
    return web.json_response(generated(await request.json(), fake.ids, **meta))

  return fault


async def cut(fake, request):
  """Promises more than it sends."""
  whole = json.dumps(generated(await request.json(), fake.ids)).encode()
  answer = web.StreamResponse(headers={"Content-Length": str(len(whole))})
  await answer.prepare(request)
  await answer.write(whole[: len(whole) // 2])
  request.transport.close()
  return answer


async def hangs_up(fake, request):
  request.transport.close()
  return web.Response()


async def endless(fake, request):
  """Sends for as long as anybody reads."""
  answer = web.StreamResponse()
  await answer.prepare(request)
  try:
    while True:
      fake.sent = getattr(fake, "sent", 0) + (1 << 16)
      await answer.write(b" " * (1 << 16))
  except ConnectionError:
    return answer


async def stuck(fake, request):
  await asyncio.sleep(60)
