"""Environments of servers: made on first use, named by what is in them.

Servers pin packages of their own, older than ours, so each backend has a virtual
environment under $XDG_CACHE_HOME/sophia_jax/servers. A stamp marks one that is
complete; a half-made one is made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sophia_jax import files
from sophia_jax.servers.backends.base import Environment, Platform, cache
from sophia_jax.types import SophiaError

STAMP = "complete"
_PROBE_S = 30.0

_log = logging.getLogger("sophia_jax.servers")


def python_of(backend: Environment, platform: Platform) -> Path:
  """Returns the backend's interpreter; makes its environment if need be.

  Two that ask at the same time make it once.

  Raises:
    SophiaError: no Python it runs on, or pip failed; names pip's output.
  """
  directory = cache() / "servers" / _name(backend, platform)
  python = directory / "bin/python"
  directory.parent.mkdir(parents=True, exist_ok=True)
  with files.exclusive(directory.with_suffix(".lock"), f"making {directory}"):
    if not (directory / STAMP).exists():
      shutil.rmtree(directory, ignore_errors=True)
      _make(backend, platform, directory)
      (directory / STAMP).touch()
  return python


def _name(backend: Environment, platform: Platform) -> str:
  digest = hashlib.sha256("".join(backend.pythons).encode())
  for packages in backend.packages(platform):
    digest.update(repr(packages.options).encode())
    digest.update(packages.file.read_bytes())
  return f"{backend.name}-{platform}-{digest.hexdigest()[:12]}"


def _make(backend: Environment, platform: Platform, directory: Path) -> None:
  log = directory.with_suffix(".log")
  _log.info("making %s, once; this takes minutes (%s)", directory, log)
  interpreter = find_python(backend.pythons, backend.name)
  python = directory / "bin/python"
  with open(log, "wb") as output:
    steps = [[interpreter, "-m", "venv", str(directory)]]
    pip = (str(python), "-m", "pip", "install", "--no-input")
    for packages in backend.packages(platform):
      steps.append([*pip, *packages.options, "-r", str(packages.file)])
    for step in steps:
      done = subprocess.run(step, stdout=output, stderr=output, check=False)
      if done.returncode:
        raise SophiaError(
          f"{log}: {' '.join(step[1:4])} ended with {done.returncode}; fix "
          "what its last lines name and give the same command again"
        )
  backend.finish_install(python, platform)


def find_python(versions: tuple[str, ...], what: str) -> str:
  """Returns an interpreter of the first of `versions` that is installed.

  Raises:
    SophiaError: none of them is.
  """
  for version in versions:
    for candidate in _candidates(version):
      if _works(candidate, version):
        return candidate
  raise SophiaError(
    f"{what} needs Python {' or '.join(versions)}, and none was found on PATH; "
    f"install it, for instance by `uv python install {versions[0]}` or `pyenv "
    f"install {versions[0]}`, and put python{versions[0]} on PATH"
  )


def _candidates(version: str) -> Iterator[str]:
  yield sys.executable
  found = shutil.which(f"python{version}")
  if found:
    yield found
  # pyenv's python3.x on PATH works only while that version is the chosen one.
  roots = [Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()]
  if found and Path(found).parent.name == "shims":
    roots.append(Path(found).parents[1])
  for root in roots:
    found_there = root.glob(f"versions/{version}*/bin/python")
    yield from map(str, sorted(found_there, reverse=True))


def _works(candidate: str, version: str) -> bool:
  """Tells whether it starts and is what its name says; a shim may be neither."""
  code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
  try:
    done = subprocess.run(
      [candidate, "-c", code],
      capture_output=True,
      text=True,
      timeout=_PROBE_S,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return False
  return done.returncode == 0 and done.stdout.strip() == version


if __name__ == "__main__":
  try:
    print(find_python((sys.argv[1],), sys.argv[2]))
  except SophiaError as e:
    sys.exit(f"error: {e}")
