"""The SGLang client: engines whose models run in servers somewhere else.

For SGLang-JAX and SGLang (PyTorch) alike; several servers, or one sglang-router.

  with SGLangEngine(["http://127.0.0.1:30000"], ClientConfig(), renderer) as engine:
    engine.check("InternVL3-8B", 12_288)
    for completion in engine.generate(requests): ...
"""

from __future__ import annotations

import base64
import functools
import mimetypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cachetools

from sophia_jax.data.chat import Renderer
from sophia_jax.rollout import readiness, wire
from sophia_jax.rollout.client import Client, Job
from sophia_jax.rollout.endpoints import ClientConfig, Endpoint
from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Prompt,
  Request,
  Role,
  SophiaError,
)


class SGLangEngine(Client):
  """A model whose vocabulary is ours: exact ids go there and come back.

  Words are rendered here, so that all requests ask for the same.
  """

  def __init__(
    self, urls: Sequence[str], config: ClientConfig, renderer: Renderer
  ):
    """Sends no request yet; see `check`.

    Raises:
      SophiaError: an invalid URL, or the API key is not set.
    """
    super().__init__(urls, config)
    self.renderer = renderer
    self._encoded = cachetools.cached(
      cachetools.LRUCache(config.image_cache_mb << 20, getsizeof=len),
      lock=threading.Lock(),
    )(_encoded)

  async def _check(self, endpoint: Endpoint, model: str, tokens: int) -> None:
    await super()._check(endpoint, model, tokens)
    await readiness.check_vocabulary(
      self._http, endpoint.url, self.config, self.renderer
    )

  def job(self, request: Request) -> Job:
    prompt = request.prompt
    if isinstance(prompt, Chat):
      prompt = self.renderer.prompt(prompt.text, prompt.images, prompt.system)
    images = [self._encoded(path) for path in prompt.images]
    end_id = self.renderer.end_id
    return Job(
      request.id,
      "/generate",
      wire.generate_body(prompt, request.sampling, end_id, images),
      functools.partial(self._read, request, prompt, self.least_version),
    )

  def _read(
    self,
    request: Request,
    prompt: Prompt,
    least_version: int,
    answer: Any,
    where: str,
  ) -> Completion:
    words = self.renderer
    found = wire.read_generated(
      answer, len(prompt), request.sampling, words.vocab_size, where
    )
    # Of a server that was started again, and has the weights it began with.
    if found.versions and found.versions[-1][0] < least_version:
      raise Trouble(
        f"it serves version {found.versions[-1][0]} of the weights, not "
        f"{least_version}"
      )
    return Completion(
      request_id=request.id,
      text=words.decode(found.ids),
      token_ids=found.ids,
      logps=found.logps,
      finish_reason=found.reason,
      versions=found.versions,
    )


class SGLangScorer(Client):
  """Log-probabilities of given responses, of a model whose vocabulary is ours.

  A request's prompt ends with the response, whose tokens have the role RESPONSE;
  a completion holds their ids and log-probabilities. Text only.
  """

  def __init__(
    self, urls: Sequence[str], config: ClientConfig, renderer: Renderer
  ):
    """Sends no request yet; see `check`.

    Raises:
      SophiaError: an invalid URL, or the API key is not set.
    """
    super().__init__(urls, config)
    self.renderer = renderer

  def job(self, request: Request) -> Job:
    prompt = request.prompt
    if isinstance(prompt, Chat):
      prompt = self.renderer.prompt(prompt.text, system=prompt.system)
    if prompt.images:
      raise TypeError(f"{request.id}: images are not scored")
    ids = prompt.token_ids.tolist()
    count = int((prompt.roles == Role.RESPONSE).sum())
    return Job(
      request.id,
      "/generate",
      wire.scoring_body(ids),
      functools.partial(_read_scored, request, ids, count),
    )


def _read_scored(
  request: Request, ids: list[int], count: int, answer: Any, where: str
) -> Completion:
  del where
  return Completion(
    request_id=request.id,
    text="",
    token_ids=tuple(ids[len(ids) - count :]),
    logps=wire.read_scored(answer, ids, count),
    finish_reason=FinishReason.STOP,
  )


class SGLangChat(Client):
  """A model that is known by its words only.

  They go to the server's own chat template. `token_ids` of a completion is () and
  `logps` None.
  """

  def job(self, request: Request) -> Job:
    if not isinstance(request.prompt, Chat):
      raise TypeError(f"{request.id}: asked by ids, which mean nothing to it")
    images = [data_url(path) for path in request.prompt.images]
    return Job(
      request.id,
      "/v1/chat/completions",
      wire.chat_body(
        request.prompt, request.sampling, self.served_name, images
      ),
      functools.partial(_read_chat, request),
    )


def _read_chat(request: Request, answer: Any, where: str) -> Completion:
  del where  # nothing of ours to compare with
  text, reason = wire.read_chat(answer)
  return Completion(
    request_id=request.id,
    text=text,
    token_ids=(),
    logps=None,
    finish_reason=reason,
  )


def data_url(path: str) -> str:
  """Returns an image file as the URL that chat servers take."""
  kind = mimetypes.guess_type(path)[0] or "image/png"
  return f"data:{kind};base64,{_encoded(path)}"


def _encoded(path: str) -> str:
  """Returns base64 of an image file."""
  try:
    return base64.b64encode(Path(path).read_bytes()).decode("ascii")
  except OSError as e:
    raise SophiaError(f"{path}: cannot read this image ({e.strerror})") from e
