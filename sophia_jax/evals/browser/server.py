"""The pages over HTTP: read-only, for this machine unless it is said otherwise."""

from __future__ import annotations

import http
import http.server
import importlib.resources
import ipaddress
import json
import logging
import urllib.parse
from collections.abc import Iterable

from sophia_jax.evals.browser.pages import NotFound, Pages, Values
from sophia_jax.types import SophiaError

POLICY = (
  "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
  "script-src 'self'; connect-src 'self'; form-action 'self'; "
  "base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy of every answer."""
MAX_URL = 8000
"""Longest URL, characters."""
MAX_VALUES = 60
"""Most values of a URL."""
SCRIPT = "/browse.js"
_log = logging.getLogger(__name__)


class Server(http.server.ThreadingHTTPServer):
  """Serves the pages of a session.

  Args:
    host: address to listen on.
    port: 0: any that is free.

  Raises:
    SophiaError: the address or the port cannot be had.
  """

  daemon_threads = True

  def __init__(self, pages: Pages, host: str = "127.0.0.1", port: int = 0):
    self.pages = pages
    self.names = {host, "localhost"} if _is_loopback(host) else None
    """Names that a request may ask for; None: any."""
    source = importlib.resources.files("sophia_jax.evals.browser")
    self.script = (source / "browse.js").read_bytes()
    try:
      super().__init__((host, port), _Handler)
    except (OSError, OverflowError) as e:
      raise SophiaError(f"--host={host} --port={port}: {e}") from None

  @property
  def url(self) -> str:
    host, port = self.server_address[:2]
    return f"http://{host!s}:{port}/"


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers GET; nothing can be changed."""

  server: Server
  server_version, sys_version = "sophia_jax", ""
  timeout = 60

  def do_GET(self) -> None:
    try:
      path, values = self._asked()
      self._answer(path, values)
    except NotFound as e:
      self._refuse(http.HTTPStatus.NOT_FOUND, str(e))
    except SophiaError as e:
      self._refuse(http.HTTPStatus.BAD_REQUEST, str(e))
    except (BrokenPipeError, ConnectionResetError):
      self.close_connection = True

  def _asked(self) -> tuple[str, Values]:
    """Returns path and values of the URL.

    Raises:
      SophiaError: the URL is too long, or asks for another host: a page of
        another site that has its name point here.
    """
    names = self.server.names
    if names is not None:
      host = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}")
      if host.hostname not in names:
        raise SophiaError("this server answers to its own name only")
    if len(self.path) > MAX_URL:
      raise SophiaError(f"a URL of more than {MAX_URL} characters")
    parts = urllib.parse.urlsplit(self.path)
    try:
      pairs = urllib.parse.parse_qsl(
        parts.query, errors="replace", max_num_fields=MAX_VALUES
      )
    except ValueError:
      raise SophiaError(f"a URL of more than {MAX_VALUES} values") from None
    return parts.path, dict(pairs)

  def _answer(self, path: str, values: Values) -> None:
    pages = self.server.pages
    if path in pages.html:
      page = pages.html[path](values).encode()
      self._send("text/html; charset=utf-8", page)
    elif path == "/export.jsonl":
      self._stream(pages.export(values))
    elif path == "/image":
      self._send("image/png", pages.image(values))
    elif path == "/status.json":
      self._send("application/json", json.dumps(pages.status()).encode())
    elif path == SCRIPT:
      self._send("text/javascript; charset=utf-8", self.server.script)
    else:
      raise NotFound("there is no such page")

  def _head(self, status: http.HTTPStatus, kind: str) -> None:
    self.send_response(status)
    self.send_header("Content-Type", kind)
    self.send_header("Content-Security-Policy", POLICY)
    self.send_header("X-Content-Type-Options", "nosniff")
    self.send_header("Referrer-Policy", "no-referrer")
    self.send_header("Cross-Origin-Resource-Policy", "same-origin")
    self.send_header("Cache-Control", "no-store")

  def _send(
    self,
    kind: str,
    data: bytes,
    status: http.HTTPStatus = http.HTTPStatus.OK,
  ) -> None:
    self._head(status, kind)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def _stream(self, lines: Iterable[bytes]) -> None:
    self._head(http.HTTPStatus.OK, "application/jsonl; charset=utf-8")
    self.send_header(
      "Content-Disposition", 'attachment; filename="rollouts.jsonl"'
    )
    self.end_headers()
    for line in lines:
      self.wfile.write(line)

  def _refuse(self, status: http.HTTPStatus, why: str) -> None:
    self._send(
      "text/html; charset=utf-8",
      self.server.pages.refused(why).encode(),
      status,
    )

  def log_message(self, format: str, *args: object) -> None:
    _log.debug(format, *args)
