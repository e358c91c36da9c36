"""Tells whether a directory is as whole as when it was finished."""

from __future__ import annotations

import json
import pathlib

from sophia_jax import files

NAME = "files.json"


def seal(directory: pathlib.Path) -> None:
  """Notes every file of `directory` with its size, in the directory itself."""
  files.write_json(directory / NAME, _sizes(directory))


def damage(directory: pathlib.Path) -> str | None:
  """Returns the damage of a sealed directory; None if none, or not sealed."""
  path = directory / NAME
  if not path.is_file():
    return None
  try:
    noted = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    return f"{NAME} is cut off"
  found = _sizes(directory)
  for name, size in noted.items():
    if name not in found:
      return f"{name} is missing"
    if found[name] != size:
      return f"{name} has {found[name]} bytes, was written with {size}"
  return None


def _sizes(directory: pathlib.Path) -> dict[str, int]:
  return {
    str(path.relative_to(directory)): path.stat().st_size
    for path in sorted(directory.rglob("*"))
    if path.is_file() and path.name != NAME
  }
