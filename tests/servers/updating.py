"""Checks of both kinds of server: new weights, routes and the key."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sophia_jax.checkpoints import Format, save_params
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangEngine
from sophia_jax.rollout.weights import ServedWeights
from sophia_jax.servers import backends, environments, supervise
from sophia_jax.serving import guard
from sophia_jax.types import Completion, Prompt, Request, Sampling, SophiaError
from tests.rollout import little
from tests.servers import served
from tests.servers.served import TOLERANCE, Model, Served

LONG = 80
"""Tokens of an answer that updates meet in flight."""


def request(name: str, prompt: Prompt, new: int) -> Request:
  how = Sampling(temperature=0.0, max_new_tokens=new)
  return Request(id=name, prompt=prompt, sampling=how)


def weights_of(
  model: Model, engine: SGLangEngine, root: Path, format: Format
) -> ServedWeights:
  """Versions are seeds: `load(seed, version=seed)`."""

  def save(seed: int, directory: Path) -> None:
    params = little.params(model.module, seed)
    tokenizer = model.directory / "tokenizer"
    save_params(params, model.module.cfg, directory, tokenizer, format=format)

  probe = request("probe", model.prompt("What do you see"), 4)
  return ServedWeights([engine], root, save, probe)


def same(found: Completion, wanted: Completion) -> None:
  assert found.token_ids == wanted.token_ids
  np.testing.assert_allclose(found.logps, wanted.logps, atol=TOLERANCE, rtol=0)


def continued(
  engine: SGLangEngine, prompt: Prompt, found: Completion
) -> Completion:
  """What the server says now after the tokens of all but the last stretch."""
  count = sum(n for _, n in found.versions[:-1])
  ids = np.array(found.token_ids[:count], prompt.token_ids.dtype)
  longer = dataclasses.replace(
    prompt,
    token_ids=np.concatenate([prompt.token_ids, ids]),
    roles=np.concatenate([prompt.roles, np.zeros(count, prompt.roles.dtype)]),
  )
  rest = len(found.token_ids) - count
  return asyncio.run(engine.ask(request("rest", longer, rest)))


def updates_in_flight(
  model: Model, server: Served, root: Path, format: Format
) -> None:
  """Three updates that meet requests in flight; each token's version is checked.

  Clients ask without a pause, and yet an update may find the server between two
  requests, on a busy machine: then another one is made.
  """
  prompts = list(served.prompts(model).values())[:3]
  config = ClientConfig(api_key_env="TEST_KEY", concurrency=8)
  with SGLangEngine([server.url], config, model.words) as engine:
    weights = weights_of(model, engine, root, format)
    version = met_requests = 0
    while met_requests < 3:
      version += 1
      assert version <= 12, "updates met no request in flight"
      (expected,) = model.embedded(
        [model.prompt("What do you see")], version, 4
      )
      found = _during(engine, prompts, weights, version, expected)
      met = [(p, c) for p, c in found if len(c.versions) > 1]
      met_requests += bool(met)
      for _, completion in found:
        assert sum(n for _, n in completion.versions) == len(
          completion.token_ids
        )
        assert {v for v, _ in completion.versions} <= {version - 1, version}
      for prompt, completion in met:
        if completion.versions[-1][0] == version:
          rest = continued(engine, prompt, completion)
          n = completion.versions[-1][1]
          assert completion.token_ids[-n:] == rest.token_ids
          np.testing.assert_allclose(
            completion.logps[-n:], rest.logps, atol=TOLERANCE, rtol=0
          )
      # What is asked from now on comes from the new weights alone.
      for prompt, wanted in zip(prompts, model.embedded(prompts, version)):
        answer = asyncio.run(engine.ask(request("new", prompt, served.NEW)))
        same(answer, wanted)
        assert answer.versions == ((version, len(answer.token_ids)),)


def _during(
  engine: SGLangEngine,
  prompts: Sequence[Prompt],
  weights: ServedWeights,
  version: int,
  expected: Completion,
) -> list[tuple[Prompt, Completion]]:
  """Answers of clients that ask again and again until an update has ended."""
  found: list[tuple[Prompt, Completion]] = []

  async def run() -> None:
    answered = [asyncio.Event() for _ in prompts]
    update = asyncio.create_task(begun(answered))

    async def keep_asking(i: int) -> None:
      while not update.done():
        name = f"{version}/{i}/{len(found)}"
        answer = await engine.ask(request(name, prompts[i], LONG))
        found.append((prompts[i], answer))
        answered[i].set()

    await asyncio.gather(update, *map(keep_asking, range(len(prompts))))

  async def begun(answered: list[asyncio.Event]) -> None:
    await asyncio.gather(*(event.wait() for event in answered))
    await asyncio.to_thread(weights.load, version, version, expected)

  asyncio.run(run())
  return found


def a_killed_server_is_waited_for(
  model: Model, spec: backends.ServeSpec, backend: str, root: Path
) -> None:
  """SIGKILL in the middle of an update; it is started again on its port."""
  running = [supervise.Server(spec, backend, root / "first.log")]

  def restart() -> None:
    time.sleep(0.1)
    os.kill(running[0]._process.pid, signal.SIGKILL)
    running[0]._process.wait()
    deadline = time.monotonic() + 120
    while len(running) < 2:  # its processes follow it a moment later
      try:
        running.append(supervise.Server(spec, backend, root / "second.log"))
      except SophiaError:
        assert time.monotonic() < deadline
        time.sleep(0.1)

  format = Format.INTERNVL_CHAT if backend == "sglang" else Format.HF
  prompt = model.prompt("What do you see")
  config = ClientConfig(concurrency=4, give_up_s=1500.0)
  try:
    running[0].wait_ready(1500)
    with SGLangEngine([running[0].url], config, model.words) as engine:
      weights = weights_of(model, engine, root, format)
      weights.load(1, 1)
      restarting = threading.Thread(target=restart)
      restarting.start()
      weights.load(2, 2)
      restarting.join()
      # Had the update been faster than the kill, the client would find out.
      answer = asyncio.run(engine.ask(request("new", prompt, served.NEW)))
    (wanted,) = model.embedded([prompt], seed=2)
    same(answer, wanted)
    assert answer.version == 2
  finally:
    for server in running:
      server.stop()


# ------------------------------------------------------------------------- routes
ROUTES = """
import importlib, json
app = importlib.import_module("{module}.srt.entrypoints.http_server").app
print("ROUTES", json.dumps([
  [route.path, sorted(getattr(route, "methods", None) or ["GET"])]
  for route in app.routes if hasattr(route, "path")
]))
"""


def registered(backend: str, module: str) -> list[tuple[str, str]]:
  """Method and path of everything that the server itself registers."""
  python = environments.python_of(backends.by_name(backend), "cpu")
  variables = {"JAX_PLATFORMS": "cpu", "SGLANG_USE_CPU_ENGINE": "1"}
  done = subprocess.run(
    [str(python), "-c", ROUTES.format(module=module)],
    env={**os.environ, **variables},
    check=True,
    capture_output=True,
    text=True,
  )
  (line,) = [x for x in done.stdout.splitlines() if x.startswith("ROUTES ")]
  found = json.loads(line.removeprefix("ROUTES "))
  return [(method, path) for path, methods in found for method in methods]


def ask(server: Served, method: str, path: str, key: str) -> tuple[int, str]:
  headers = {"Content-Type": "application/json", "Origin": "http://elsewhere"}
  if key:
    headers["Authorization"] = f"Bearer {key}"
  body = None if method in ("GET", "HEAD") else b"{}"
  asked = urllib.request.Request(
    server.url + path, body, headers, method=method
  )
  try:
    with urllib.request.urlopen(asked, timeout=300) as answer:
      status, text = answer.status, answer.read().decode()
      headers_back = answer.headers
  except urllib.error.HTTPError as e:
    status, text, headers_back = e.code, e.read().decode(), e.headers
  assert "access-control-allow-origin" not in headers_back
  return status, text


def only_what_is_used_is_open(
  model: Model, server: Served, backend: str, module: str
) -> None:
  """Every route, with and without the key; the server answers after."""
  routes = registered(backend, module)
  assert len(routes) > 30
  for method, path in sorted({*routes, *guard.ROUTES}):
    path = path.replace("{", "").replace("}", "").replace(":path", "")
    known = (method, path) in guard.ROUTES
    status, _ = ask(server, method, path, "")
    assert (status == 401) == ((method, path) not in guard.OPEN), path
    status, text = ask(server, method, path, server.key)
    if not known:
      assert status in (404, 405), (method, path, text)
      assert method == "HEAD" or "error" in text
    assert status != 401, path
  assert server.post("/continue_generation", {})[0] == 200
  server.ask(served.body(model.prompt("What do you see"), model.words.end_id))


def the_key_stays_secret(server: Served) -> None:
  """It is in no command line and in no log; the log is its owner's."""
  assert server.log.stat().st_mode & 0o077 == 0
  assert server.key.encode() not in server.log.read_bytes()
  for process in Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):
      line = (process / "cmdline").read_bytes()
      assert server.key.encode() not in line or b"pytest" in line
      if b"multiprocessing" in line:  # a worker of the server
        environ = (process / "environ").read_bytes()
        assert server.key.encode() not in environ
