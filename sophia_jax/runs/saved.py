"""The config that a workdir keeps, W/config.json, as a config file."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sophia_jax.types import SophiaError


def get_config(path: str) -> ConfigDict:
  """Reads a saved config.

  Raises:
    SophiaError: the file is no config that a command has saved.
  """
  try:
    values = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as e:
    raise SophiaError(f"{path}: not a saved config ({e})") from None
  if not isinstance(values, dict) or "stages" not in values:
    raise SophiaError(
      f"{path}: not a saved config; give a file of configs/, or the "
      "config.json of a workdir"
    )
  return ConfigDict(_frozen(values))


def _frozen(value: Any) -> Any:
  """Returns a JSON value with the tuples that a config has for its lists."""
  if isinstance(value, dict):
    return {key: _frozen(item) for key, item in value.items()}
  return tuple(map(_frozen, value)) if isinstance(value, list) else value
