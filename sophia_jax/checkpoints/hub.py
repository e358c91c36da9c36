"""Checkpoints by their name on the Hub: "OpenGVLab/InternVL3-1B-hf"."""

from __future__ import annotations

import re
from pathlib import Path

from sophia_jax.types import SophiaError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILES = (".jsonl", ".json", ".py", ".parquet")


def is_name(text: str) -> bool:
  """Tells whether a text that is no path here may be a name on the Hub."""
  return bool(_NAME.fullmatch(text)) and not text.endswith(_FILES)


def cached(name: str) -> Path | None:
  """Returns the Hub's cache of a checkpoint, without a network; None if none."""
  if not is_name(name):
    return None
  # Imported here: it takes a while, and no folder needs it.
  from huggingface_hub import snapshot_download

  try:
    return Path(snapshot_download(name, local_files_only=True))
  except (OSError, ValueError):
    return None


def local(path: str | Path) -> Path:
  """Returns the folder of a checkpoint: itself, or the Hub's cache of its name.

  What is not in the cache is fetched.

  Raises:
    SophiaError: it is not here and cannot be fetched; says how to.
  """
  folder = Path(path)
  name = str(path)
  if folder.exists() or not is_name(name):
    return folder
  found = cached(name)
  return found if found is not None else _fetched(name)


def _fetched(name: str) -> Path:
  from huggingface_hub import snapshot_download

  # Neither pickles nor other frameworks' weights are ever read.
  wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py"]
  try:
    return Path(snapshot_download(name, allow_patterns=wanted))
  except (OSError, ValueError) as e:  # the Hub's errors are such
    raise SophiaError(
      f"{name}: no such folder, not in the Hub's cache, and not fetched "
      f"({type(e).__name__}); where there is a network: hf download {name}"
    ) from e
