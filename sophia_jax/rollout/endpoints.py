"""Several servers of one model, of which some may be down.

A request goes to the endpoint with the fewest in flight. One that fails several
times in a row rests, longer each time, and is asked for one token before it gets
requests again. All of it lives in one event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import SophiaError

_WORDS = 300
"""Characters of a server's own words in an error."""


@dataclasses.dataclass(frozen=True)
class ClientConfig:
  """How servers are asked, and when one is given up."""

  concurrency: int = 64
  """Most requests in flight at one endpoint."""
  deadline_s: float = 1800.0
  """Longest time for one answer, the server's queue included, seconds."""
  connect_s: float = 10.0
  """Seconds for a connection."""
  ready_s: float = 30.0
  """Longest wait for a server that is not there yet at the start, seconds."""
  retries: int = 5
  """Further attempts of a request that failed; never after a refusal (4xx)."""
  backoff_s: float = 0.5
  """Before the n-th retry: a random time below backoff_s * 2**n."""
  max_backoff_s: float = 30.0
  """Also the longest rest of an endpoint between two probes."""
  failures: int = 3
  """Failures of an endpoint, in a row, before it rests."""
  give_up_s: float = 600.0
  """Longest time that all endpoints may be down before the run stops, seconds."""
  max_answer_mb: int = 64
  """Largest answer that is read, MB."""
  image_cache_mb: int = 256
  """Encoded images kept for the next request that shows them, MB."""
  api_key_env: str = ""
  """Name of the variable that holds the API key; "": none is sent."""

  def __post_init__(self) -> None:
    for name in ("concurrency", "failures", "max_answer_mb"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
    if self.retries < 0:
      raise ValueError(f"retries must not be negative, not {self.retries}")
    for name in ("deadline_s", "connect_s", "backoff_s", "max_backoff_s"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, not {getattr(self, name)}")


class Refused(SophiaError):
  """A request that a server will never accept, however often it is asked."""

  def __init__(self, message: str, status: int):
    super().__init__(message)
    self.status = status


# ------------------------------------------------------------------------ HTTP
class Http:
  """JSON over HTTP, with limits; made inside a running event loop."""

  def __init__(self, config: ClientConfig):
    """Opens no connection yet.

    Raises:
      SophiaError: the variable of the API key is not set.
    """
    headers = {"Content-Type": "application/json"}
    if config.api_key_env:
      key = os.environ.get(config.api_key_env)
      if not key:
        raise SophiaError(
          f"config.client.api_key_env: the variable {config.api_key_env} is "
          "not set; export it, or set the key to ''"
        )
      headers["Authorization"] = f"Bearer {key}"
    self._most = config.max_answer_mb << 20
    self._session = aiohttp.ClientSession(
      headers=headers,
      connector=aiohttp.TCPConnector(limit=0),
      timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_s),
      cookie_jar=aiohttp.DummyCookieJar(),
      # The size of a compressed answer is unknown before it is unpacked.
      auto_decompress=False,
      skip_auto_headers=("Accept-Encoding",),
    )

  async def call(
    self,
    url: str,
    body: dict[str, Any] | None,
    timeout_s: float,
    what: str,
  ) -> Any:
    """Returns the JSON that `url` answers; POST with a body, GET without.

    Args:
      what: names the request in errors.

    Raises:
      Trouble: no connection, no whole answer in time, an answer that is not
        JSON or too large, a status of 5xx.
      Refused: any other status but 200.
    """
    data = None if body is None else json.dumps(body).encode()
    try:
      async with (
        asyncio.timeout(timeout_s),
        self._session.request(
          "GET" if data is None else "POST",
          url,
          data=data,
          allow_redirects=False,
        ) as answer,
      ):
        text = await self._read(answer)
    except TimeoutError:
      raise Trouble(f"no answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError) as e:
      raise Trouble(f"{type(e).__name__}: {_words(str(e))}") from None
    if answer.status >= 500:
      raise Trouble(f"{answer.status} {_words(_message(text))}")
    if answer.status != 200:
      raise Refused(
        f"{what}: {url} answered {answer.status}: {_words(_message(text))}"
        + _remedy(answer.status),
        answer.status,
      )
    return _parsed(text)

  async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_any():
      size += len(part)
      if size > self._most:
        raise Trouble(
          f"an answer of more than config.client.max_answer_mb="
          f"{self._most >> 20} MB"
        )
      parts.append(part)
    return b"".join(parts)

  async def close(self) -> None:
    await self._session.close()


def _parsed(text: bytes) -> Any:
  if not text:
    raise Trouble("an empty answer")
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as e:
    raise Trouble(f"not whole JSON ({_words(str(e))})") from None


def _message(text: bytes) -> str:
  """Returns the server's own message, of which both kinds have several forms."""
  try:
    found = json.loads(text)
  except (ValueError, RecursionError):
    return text[: 4 * _WORDS].decode("utf-8", "replace")
  for key in ("error", "message", "detail"):
    if isinstance(found, dict) and key in found:
      found = found[key]
  return str(found)


def _words(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= _WORDS else text[:_WORDS] + "..."


def _remedy(status: int) -> str:
  if status in (401, 403):
    return "; name the variable with the key in config.client.api_key_env"
  if status == 429:
    return (
      "; lower config.client.concurrency, or give the router a longer queue"
    )
  return ""


# ------------------------------------------------------------------- endpoints
@dataclasses.dataclass(eq=False)
class Endpoint:
  """One server, or a router in front of many."""

  url: str
  running: int = 0
  """Requests in flight."""
  failures: int = 0
  """Failures in a row."""
  resting: bool = False
  trouble: str = ""
  """The last failure."""


class Endpoints:
  """Chooses the endpoint of the next request.

  Args:
    probe: makes an endpoint generate one token, or raises Trouble or
      SophiaError.
  """

  def __init__(
    self,
    urls: Sequence[str],
    config: ClientConfig,
    probe: Callable[[Endpoint], Awaitable[None]],
  ):
    self.all = [Endpoint(url) for url in urls]
    self._config, self._probe = config, probe
    self._changed = asyncio.Condition()
    self._down_since = math.inf
    """Time at which the last working one went to rest."""
    self._gave_up = ""
    """Why no endpoint is asked any more."""
    self._probing: set[asyncio.Task[None]] = set()

  async def acquire(self) -> Endpoint:
    """Waits for an endpoint that works and has room; takes a place in it.

    Raises:
      SophiaError: none has worked for `give_up_s`.
    """
    async with self._changed:
      while True:
        if self._gave_up:
          raise SophiaError(self._gave_up)
        free = [
          e
          for e in self.all
          if not e.resting and e.running < self._config.concurrency
        ]
        if free:
          endpoint = min(free, key=lambda e: e.running)
          endpoint.running += 1
          return endpoint
        await self._changed.wait()

  async def release(self, endpoint: Endpoint) -> None:
    endpoint.running -= 1
    async with self._changed:
      # All, since the one that is woken may be cancelled at the same moment.
      self._changed.notify_all()

  def succeeded(self, endpoint: Endpoint) -> None:
    endpoint.failures = 0

  def failed(self, endpoint: Endpoint, trouble: Trouble) -> None:
    """Counts a failure; sends the endpoint to rest if it has had too many."""
    endpoint.failures += 1
    endpoint.trouble = str(trouble)
    if endpoint.failures >= self._config.failures and not endpoint.resting:
      endpoint.resting = True
      if all(e.resting for e in self.all):
        self._down_since = time.monotonic()
      task = asyncio.create_task(self._rest(endpoint))
      self._probing.add(task)
      task.add_done_callback(self._probing.discard)

  async def _rest(self, endpoint: Endpoint) -> None:
    """Waits until the endpoint generates, or all have been down too long."""
    config = self._config
    pause = config.backoff_s
    while True:
      await asyncio.sleep(pause * random.uniform(0.5, 1.0))
      try:
        await self._probe(endpoint)
      except (Trouble, SophiaError) as e:
        endpoint.trouble = str(e)
      else:
        endpoint.resting, endpoint.failures = False, 0
        self._down_since = math.inf
        break
      if time.monotonic() - self._down_since > config.give_up_s:
        self._gave_up = self._none_works()
        break
      pause = min(2 * pause, config.max_backoff_s)
    async with self._changed:
      self._changed.notify_all()

  def _none_works(self) -> str:
    each = ", ".join(f"{e.url} ({e.trouble})" for e in self.all)
    return (
      f"no rollout server has worked for {self._config.give_up_s:g} s: {each}; "
      "start them again and give the same command, which resumes there"
    )

  async def close(self) -> None:
    for task in self._probing:
      task.cancel()
    await asyncio.gather(*self._probing, return_exceptions=True)


def backoff_s(config: ClientConfig, attempt: int) -> float:
  """Draws a random time, whose bound doubles with every attempt (full jitter)."""
  bound = config.backoff_s * 2.0 ** min(attempt, 30)
  return random.uniform(0.0, min(bound, config.max_backoff_s))
