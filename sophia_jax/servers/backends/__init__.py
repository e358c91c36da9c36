"""The kinds of server that `launch.serve` can start, by name."""

from __future__ import annotations

import difflib

from sophia_jax.servers.backends.base import (
  Backend,
  Packages,
  Platform,
  Role,
  ServeSpec,
  access,
)
from sophia_jax.servers.backends.sglang import SGLang
from sophia_jax.servers.backends.sglang_jax import SGLangJax
from sophia_jax.types import SophiaError

BACKENDS: dict[str, Backend] = {
  backend.name: backend for backend in (SGLangJax(), SGLang())
}


def by_name(name: str) -> Backend:
  """Returns a backend by its name.

  Raises:
    SophiaError: there is no such backend.
  """
  if name not in BACKENDS:
    near = difflib.get_close_matches(name, BACKENDS, n=1) or sorted(BACKENDS)
    raise SophiaError(f"backend {name!r}: no such; did you mean {near[0]!r}?")
  return BACKENDS[name]


__all__ = [
  "BACKENDS",
  "Backend",
  "Packages",
  "Platform",
  "Role",
  "ServeSpec",
  "access",
  "by_name",
]
