"""Values of a model's config.json, each of its type; a ValueError names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.types import quoted

Section = Mapping[str, Any]
_LARGEST = 1 << 31
_DEEPEST = 10_000


def require(section: Section, key: str, only: object) -> None:
  if section.get(key, only) != only:
    raise ValueError(
      f"{key} is {quoted(section[key])}; only {only!r} is supported"
    )


def section(top: Section, key: str) -> Section:
  found = given(top, key)
  if not isinstance(found, Mapping):
    raise ValueError(f"{key} is {quoted(found)}; expected an object")
  return found


def whole(
  section: Section, key: str, default: int | None = None, least: int = 1
) -> int:
  """Returns a size or an id; null counts as absent."""
  found = given(section, key, default)
  number = isinstance(found, int) and not isinstance(found, bool)
  if not number or not least <= found < _LARGEST:
    raise ValueError(
      f"{key} is {quoted(found)}; expected a whole number from {least}"
    )
  return found


def depth(section: Section) -> int:
  """Returns a number of layers; each of them becomes tensors to look for."""
  found = whole(section, "num_hidden_layers")
  if found > _DEEPEST:
    raise ValueError(
      f"num_hidden_layers is {found}; expected at most {_DEEPEST}"
    )
  return found


def real(section: Section, key: str, default: float | None = None) -> float:
  found = given(section, key, default)
  number = isinstance(found, int | float) and not isinstance(found, bool)
  if not number or not 0 < found < 1e30:  # nan fails, too
    raise ValueError(f"{key} is {quoted(found)}; expected a positive number")
  return float(found)


def flag(section: Section, key: str, default: bool | None = None) -> bool:
  found = given(section, key, default)
  if not isinstance(found, bool):
    raise ValueError(f"{key} is {quoted(found)}; expected true or false")
  return found


def side(section: Section, key: str) -> int:
  """Returns the side of a square that is given as one number or as two."""
  found = given(section, key)
  if isinstance(found, list) and found:
    if any(side != found[0] for side in found):
      raise ValueError(f"{key} is {quoted(found)}; expected a square")
    found = found[0]
  return whole({key: found}, key)


def given(section: Section, key: str, default: Any = None) -> Any:
  found = section.get(key)
  found = default if found is None else found
  if found is None:
    raise ValueError(f"{key} is missing")
  return found
