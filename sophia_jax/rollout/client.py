"""An event loop with connections to SGLang servers, behind the Engine protocol.

The form of requests and the meaning of answers are in sglang.py.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from sophia_jax.rollout import readiness
from sophia_jax.rollout.endpoints import (
  ClientConfig,
  Endpoint,
  Endpoints,
  Http,
  backoff_s,
)
from sophia_jax.rollout.stream import Stream
from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import Chat, Completion, Request, Sampling, SophiaError

T = TypeVar("T")

_ABORT_S = 5.0
"""Timeout of an abort, which a server that is stuck may never answer."""
_PROBE_S = 120.0
_AHEAD = 4
"""Requests in flight for each one that is drawn in advance."""
_PROBE = Request(
  id="probe",
  prompt=Chat(text="Hi"),
  sampling=Sampling(temperature=0.0, max_new_tokens=1),
)


@dataclasses.dataclass(frozen=True)
class Job:
  """A request in the form of its server."""

  id: str
  path: str
  body: dict[str, Any]
  read: Callable[[Any, str], Completion]
  """Reads the server's JSON; the string names request and server."""


class Client(abc.ABC):
  """An engine without the form of its requests.

  A context manager, because it holds connections.
  """

  def __init__(self, urls: Sequence[str], config: ClientConfig):
    """Sends no request yet.

    Raises:
      SophiaError: an invalid URL, or the API key is not set.
    """
    for url in urls or ("",):
      if not url.startswith(("http://", "https://")):
        raise SophiaError(f"rollout server {url!r}: give http://HOST:PORT")
    self.config = config
    self.served_name = "default"
    """The servers' name for their model, once `check` has asked."""
    self.least_version = 0
    """An answer to a later request that ends with older weights is not taken."""
    self.revive: Callable[[Endpoint], Coroutine[Any, Any, None]] | None = None
    """Brings a server that was down up to date, before it is asked again."""
    self._aborting: set[asyncio.Task[None]] = set()
    self._streams: set[Stream[Request, Completion]] = set()
    self._asked: set[asyncio.Task[Any]] = set()
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
      target=self._loop.run_forever, name="sglang", daemon=True
    )
    self._thread.start()
    try:
      self._http = self.wait(_opened(config))
    except SophiaError:
      self._end_loop()
      raise
    self._endpoints = Endpoints(
      [url.rstrip("/") for url in urls], config, self._probe
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends requests in flight, connections and the loop's thread."""
    if self._loop.is_closed():
      return
    for stream in tuple(self._streams):
      self._stop(stream)
    self.wait(self._cancel_asked())
    self.wait(self._endpoints.close())
    self.wait(self._aborted())
    self.wait(self._http.close())
    self._end_loop()

  def _end_loop(self) -> None:
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  @property
  def endpoints(self) -> list[Endpoint]:
    return self._endpoints.all

  async def call(
    self, endpoint: Endpoint, path: str, body: Any, timeout_s: float
  ) -> Any:
    """Returns the JSON that an endpoint answers to a POST; to be run by `wait`.

    Raises:
      Trouble: no good answer in time; another attempt may succeed.
      Refused: a status of 4xx.
    """
    url = endpoint.url + path
    return await self._http.call(url, body, timeout_s, "weights")

  def wait(self, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in the thread of the connections, and waits for it here."""
    return asyncio.run_coroutine_threadsafe(work, self._loop).result()

  @abc.abstractmethod
  def job(self, request: Request) -> Job:
    """Returns the form of a request; may take long, as it reads images."""

  # --------------------------------------------------------------------- check
  def check(self, model: str, tokens: int) -> None:
    """Finds faults of the servers before they are needed.

    Args:
      model: the checkpoint's directory, or the name the servers give it.
      tokens: of the longest prompt and its answer together.

    Raises:
      SophiaError: a server is not there within `ready_s`, has another model
        or too short a context, or generates nothing.
    """
    for endpoint in self._endpoints.all:
      self.wait(self._check(endpoint, model, tokens))

  async def _check(self, endpoint: Endpoint, model: str, tokens: int) -> None:
    self.served_name = await readiness.check(
      self._http, endpoint.url, self.config, model, tokens
    )
    try:
      await self._ask_one(endpoint, self.config.deadline_s)
    except Trouble as e:
      raise SophiaError(
        f"{endpoint.url} is there but does not generate: {e}; look at its log"
      ) from None

  async def _probe(self, endpoint: Endpoint) -> None:
    if self.revive:
      await self.revive(endpoint)
    await self._ask_one(endpoint, min(_PROBE_S, self.config.deadline_s))

  async def _ask_one(self, endpoint: Endpoint, timeout_s: float) -> None:
    """Asks for one token, in the form of all other requests."""
    await self._call(self.job(_PROBE), endpoint, timeout_s)

  # ----------------------------------------------------------------------- ask
  async def ask(self, request: Request) -> Completion:
    """Returns the completion of one request; await it in any event loop.

    Any number may be awaited at once: at most `concurrency` are in flight at
    each endpoint. Cancelling it aborts the request.

    Raises:
      SophiaError: the request was refused or failed too often, or no server has
        worked for too long.
    """
    # Images are read from disk: in a thread, as for `generate`.
    job = await asyncio.to_thread(self.job, request)
    answer = asyncio.run_coroutine_threadsafe(self._asking(job), self._loop)
    return await asyncio.wrap_future(answer)

  async def ask_at(self, endpoint: Endpoint, request: Request) -> Completion:
    """Returns one endpoint's completion, asked once; to be run by `wait`.

    Raises:
      Trouble: no good answer.
      Refused: a status of 4xx.
    """
    job = await asyncio.to_thread(self.job, request)
    with self._tracked():
      return await self._call(job, endpoint, self.config.deadline_s)

  async def _asking(self, job: Job) -> Completion:
    with self._tracked():
      return await self._answer(job)

  @contextlib.contextmanager
  def _tracked(self) -> Iterator[None]:
    """Lets `close` cancel the current task during the block."""
    task = asyncio.current_task()
    assert task is not None
    self._asked.add(task)
    try:
      yield
    finally:
      self._asked.discard(task)

  async def _cancel_asked(self) -> None:
    for task in self._asked:
      task.cancel()
    await asyncio.gather(*self._asked, return_exceptions=True)
    await self._aborted()

  # ------------------------------------------------------------------ generate
  def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
    """Yields completions as they finish; draws requests as capacity frees.

    Requests are drawn in a thread of their own. An error loses nothing that was
    finished before it. Closing the iterator aborts requests in flight.

    Raises:
      SophiaError: a request was refused or failed too often, or no server has
        worked for too long.
    """
    places = self.config.concurrency * len(self._endpoints.all)
    stream = Stream(
      requests,
      lambda request: self._answer(self.job(request)),
      self._loop,
      # A few wait here already, so that no place is empty while one is drawn.
      places + (places + _AHEAD - 1) // _AHEAD,
    )
    self._streams.add(stream)
    try:
      yield from stream
    finally:
      self._stop(stream)

  def _stop(self, stream: Stream[Request, Completion]) -> None:
    if stream in self._streams:
      self._streams.remove(stream)
      self.wait(stream.close())
      self.wait(self._aborted())

  async def _aborted(self) -> None:
    await asyncio.gather(*self._aborting)

  async def _answer(self, job: Job) -> Completion:
    """Asks until there is an answer, at one endpoint or another."""
    attempts = self.config.retries + 1
    for attempt in range(attempts):
      endpoint = await self._endpoints.acquire()
      try:
        completion = await self._call(job, endpoint, self.config.deadline_s)
        self._endpoints.succeeded(endpoint)
        return completion
      except Trouble as e:
        self._endpoints.failed(endpoint, e)
        trouble = f"{endpoint.url}: {e}"
      finally:
        await self._endpoints.release(endpoint)
      if attempt + 1 < attempts:
        await asyncio.sleep(backoff_s(self.config, attempt))
    raise SophiaError(
      f"request {job.id} failed {attempts} times, at last at {trouble}; look at "
      "that server's log"
    )

  async def _call(
    self, job: Job, endpoint: Endpoint, timeout_s: float
  ) -> Completion:
    """Makes one attempt; aborts it at the server if it is given up."""
    url, rid = endpoint.url + job.path, uuid.uuid4().hex
    what = f"request {job.id}"
    try:
      answer = await self._http.call(
        url, {**job.body, "rid": rid}, timeout_s, what
      )
      return job.read(answer, f"{what}: {endpoint.url}")
    except (Trouble, asyncio.CancelledError):
      task = asyncio.create_task(self._abort(endpoint, rid))
      self._aborting.add(task)
      task.add_done_callback(self._aborting.discard)
      raise

  async def _abort(self, endpoint: Endpoint, rid: str) -> None:
    # A router does not know it; there the closed connection has to do.
    with contextlib.suppress(Trouble, SophiaError):
      await self._http.call(
        f"{endpoint.url}/abort_request", {"rid": rid}, _ABORT_S, "abort"
      )


async def _opened(config: ClientConfig) -> Http:
  """Makes the connections, in the loop that will use them."""
  return Http(config)
