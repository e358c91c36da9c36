"""The routes of a server that may be reached: those used here, with the key.

Both servers register some seventy routes; several end the server, write files or
open paths and URLs that a request names. This layer lies before all of them and
knows the key, so that the server's own arguments, which it logs, never hold it.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from sophia_jax.types import SophiaError

KEY_VARIABLE = "SOPHIA_API_KEY"
ROOT_VARIABLE = "SOPHIA_WEIGHTS_ROOT"
OPEN = frozenset({("GET", "/health")})
"""Answered without the key: load balancers and job managers ask for it."""
ROUTES = OPEN | {
  ("GET", "/health_generate"),
  ("GET", "/model_info"),
  ("GET", "/get_model_info"),
  ("GET", "/v1/models"),
  ("POST", "/generate"),
  ("POST", "/v1/chat/completions"),
  ("POST", "/abort_request"),
  ("POST", "/flush_cache"),
  ("POST", "/pause_generation"),
  ("POST", "/continue_generation"),
  ("POST", "/update_weights_from_disk"),
}

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Send], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Refusal:
  """An answer in place of the server's."""

  status: int
  message: str


def refusal(
  method: str, path: str, authorization: bytes, key: str
) -> Refusal | None:
  """Returns why a request is not passed on, or None if it is.

  Args:
    authorization: the header, b"" if there is none.
    key: the API key; "": none is needed.
  """
  wanted = f"Bearer {key}".encode()
  known = not key or hmac.compare_digest(authorization, wanted)
  if (method, path) in OPEN:
    return None
  if not known:
    return Refusal(401, "send the API key as a bearer token")
  if (method, path) in ROUTES:
    return None
  if path in {route for _, route in ROUTES}:
    return Refusal(405, f"{path} does not take {method}")
  return Refusal(404, f"{path} is not a route of this server")


class Guard:
  """ASGI middleware that passes on what `refusal` lets through."""

  def __init__(self, app: App, key: str):
    self._app, self._key = app, key

  async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
      return
    if scope["type"] != "http":
      await send({"type": "websocket.close", "code": 1008})
      return
    headers = dict(scope["headers"])
    why = refusal(
      scope["method"],
      scope["path"],
      headers.get(b"authorization", b""),
      self._key,
    )
    if why is None:
      await self._app(scope, receive, send)
      return
    body = json.dumps({"error": {"message": why.message}}).encode()
    await send(
      {
        "type": "http.response.start",
        "status": why.status,
        "headers": [
          (b"content-type", b"application/json"),
          (b"content-length", str(len(body)).encode()),
          # What is left of the request is not read.
          (b"connection", b"close"),
        ],
      }
    )
    await send({"type": "http.response.body", "body": body})


def install(app: Any) -> None:
  """Puts the guard before a FastAPI app whose server has not been started.

  The key is taken out of the environment, so that no process that the server
  starts inherits it. Answers for other origins (CORS) are switched off.
  """
  key = os.environ.pop(KEY_VARIABLE, "")
  app.user_middleware = [
    layer
    for layer in app.user_middleware
    if layer.cls.__name__ != "CORSMiddleware"
  ]
  app.add_middleware(Guard, key=key)


def check_root(directory: str) -> None:
  """Refuses weights outside of the directory that the server was given for them.

  Raises:
    SophiaError: there is none, or `directory` is not below it, links followed.
  """
  root = os.environ.get(ROOT_VARIABLE)
  if not root:
    raise SophiaError(
      f"{directory}: this server takes no new weights; start it with "
      "config.serve.weights, the directory they will lie in"
    )
  if Path(root).resolve() not in Path(directory).resolve().parents:
    raise SophiaError(
      f"{directory}: not below {root}, where this server takes weights from; "
      "change config.serve.weights"
    )
