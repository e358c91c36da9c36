"""Tokens of a few rollouts of a round, with what an update made of each.

  tokens.ndjson   {"format": 1, "rollouts": ["p1/0", ...]}
                  {"id": "p1/0", "token_ids": [...], "values": {"logp": [...]}}

It lies beside the segments of a round's store, whose names end with .jsonl. Whole
or absent: a round that is repeated writes it again, with the same content.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sophia_jax import files
from sophia_jax.types import SophiaError, host

FILE, FORMAT = "tokens.ndjson", 1


@host
class Learnt:
  """The tokens that the policy wrote in a rollout, all turns joined."""

  token_ids: tuple[int, ...]
  values: Mapping[str, Float[np.ndarray, "L"]]
  """A value of each token by its name (logp, entropy, ...); NaN where the update
  did not learn the token."""


def write(directory: Path, rollouts: Mapping[str, Learnt]) -> None:
  """Replaces the file of a round.

  Args:
    directory: store of the round.
    rollouts: the rollouts by their ids.

  Raises:
    SophiaError: the file cannot be written, or the disk is full.
  """
  names = sorted(rollouts)
  lines: list[Any] = [{"format": FORMAT, "rollouts": names}]
  for name in names:
    learnt = rollouts[name]
    values = {key: _numbers(v) for key, v in learnt.values.items()}
    ids = list(map(int, learnt.token_ids))
    lines.append({"id": name, "token_ids": ids, "values": values})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  files.write_text(directory / FILE, text)


def _numbers(values: Float[np.ndarray, "L"]) -> list[float | None]:
  """Returns six digits of each value; None where it is not finite."""
  return [
    float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()
  ]


def names(directory: Path) -> tuple[str, ...]:
  """Returns the ids of the rollouts whose tokens are kept; () where none are.

  Raises:
    SophiaError: the file is damaged.
  """
  path = directory / FILE
  try:
    with open(path, "rb") as file:
      line = file.readline()
  except OSError:
    return ()
  found = _object(path, 1, line).get("rollouts")
  if not isinstance(found, list):
    raise _damaged(path, 1, "a list of rollouts")
  return tuple(map(str, found))


def read(directory: Path, name: str) -> Learnt | None:
  """Returns the tokens of a rollout; None where they are not kept.

  Raises:
    SophiaError: the file is damaged.
  """
  path = directory / FILE
  try:
    lines = path.read_bytes().splitlines()[1:]
  except OSError:
    return None
  for number, line in enumerate(lines, start=2):
    values = _object(path, number, line)
    if values.get("id") == name:
      return _learnt(path, number, values)
  return None


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
  try:
    found = json.loads(line)
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise _damaged(path, number, "a JSON object")
  return found


def _learnt(path: Path, number: int, values: Mapping[str, Any]) -> Learnt:
  error = _damaged(path, number, "token ids with as many numbers each")
  try:
    ids = tuple(map(int, values["token_ids"]))
    columns = {
      str(key): np.array(column, np.float64)
      for key, column in values["values"].items()
    }
  except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
    raise error from None
  if any(column.shape != (len(ids),) for column in columns.values()):
    raise error
  return Learnt(token_ids=ids, values=columns)


def _damaged(path: Path, number: int, what: str) -> SophiaError:
  return SophiaError(
    f"{path}:{number}: not {what}; remove the file, which only pages of tokens "
    "read"
  )
