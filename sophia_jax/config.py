"""Config sections: ml_collections on the outside, frozen dataclasses within.

Only entry points use a ConfigDict. They convert each section with `section`, so
a misspelt key stops the run before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from sophia_jax.types import SophiaError, quoted

T = TypeVar("T")


def defaults(cls: type, **changes: Any) -> ConfigDict:
  """Returns a config section with every key of the dataclass `cls`.

  With all keys present, each can be overridden on the command line.

  Args:
    changes: values that differ from the dataclass's defaults.

  Raises:
    SophiaError: `cls` has no such key.
  """
  known = {f.name: f for f in dataclasses.fields(cls)}
  for key in changes:
    if key not in known:
      raise SophiaError(
        f"{cls.__name__}.{key}: no such key; {nearest(key, known)}"
      )
  return ConfigDict(
    {
      name: changes.get(name, f.default)
      for name, f in known.items()
      if name in changes or f.default is not dataclasses.MISSING
    }
  )


def section(cls: type[T], values: Mapping[str, Any], name: str) -> T:
  """Builds the frozen dataclass `cls` from the config section `name`.

  Raises:
    SophiaError: `cls` does not have a key (the nearest one is named), a required
      key is absent, or a value is refused.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  for key in values:
    if key not in fields:
      raise SophiaError(
        f"config.{name}.{key}: no such key; {nearest(key, fields)}"
      )
  absent = [
    key
    for key, f in fields.items()
    if key not in values
    and f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]
  if absent:
    raise SophiaError(f"config.{name}.{absent[0]}: must be set")
  _check_values(fields, values, name)
  frozen = {
    k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
  }
  try:
    return cls(**frozen)
  except ValueError as e:
    raise SophiaError(f"config.{name}: {e}") from e


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
  "int": ((int,), "a whole number"),
  "float": ((int, float), "a number"),
  "str": ((str,), "a text"),
  "bool": ((bool,), "True or False"),
}
"""Annotation of a field -> what it takes, and how that is called."""
_LARGEST = 1 << 63


def _check_values(
  fields: Mapping[str, dataclasses.Field[Any]],
  values: Mapping[str, Any],
  name: str,
) -> None:
  """Refuses values of another type, beyond any use, and negative counts.

  A negative number means something only in a class with such a default.

  Raises:
    SophiaError: names the key.
  """
  defaults = [f.default for f in fields.values() if f.type == "int"]
  signed = any(isinstance(d, int) and d < 0 for d in defaults)
  for key, value in values.items():
    field = fields[key]
    if field.type not in _KINDS:
      continue
    types, called = _KINDS[str(field.type)]
    wrong = not isinstance(value, types) or (
      isinstance(value, bool) and field.type != "bool"
    )
    if wrong or (isinstance(value, int) and abs(value) >= _LARGEST):
      raise SophiaError(
        f"config.{name}.{key}={quoted(value)}: must be {called}"
        + " below 2**63" * (not wrong)
      )
    if field.type == "int" and value < 0 and not signed:
      raise SophiaError(f"config.{name}.{key}={value}: is negative")


def nearest(key: str, known: Iterable[str]) -> str:
  """Returns the remedy for an unknown key: the nearest of `known`, or all."""
  names = sorted(known)
  close = difflib.get_close_matches(key, names, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"known: {', '.join(names)}" if names else "there are none"


def check_choices(config: Any, name: str, **known: Iterable[str]) -> None:
  """Refuses unknown values.

  Args:
    name: the config's name in the error.
    known: values by field.

  Raises:
    SophiaError: names the field, and the values it takes.
  """
  for key, values in known.items():
    value = getattr(config, key)
    if value not in values:
      raise SophiaError(
        f"{name}.{key}: {value!r} is unknown; use one of {', '.join(values)}"
      )


def check_range(name: str, value: Any, fits: bool, remedy: str) -> None:
  """Refuses a value that is out of range.

  Args:
    name: the field's name in the error, "papo.gamma".
    fits: whether it is in range.
    remedy: what fits: "0 to 1".

  Raises:
    SophiaError: names the field, its value and what fits.
  """
  if not fits:
    raise SophiaError(f"{name}: {quoted(value)} does not fit; use {remedy}")


# --------------------------------------------------------------------- identity
FREE = "free"


def free(default: Any) -> Any:
  """Returns a field that no result depends on.

  Two commands on one workdir may differ in it: devices, logs, limits of memory.
  """
  return dataclasses.field(default=default, metadata={FREE: True})


def decisive(config: Any) -> dict[str, Any]:
  """Returns the fields of a config that results depend on, as JSON values.

  Two commands on one workdir must agree on these; a field's declaration is the
  only place that decides it.
  """
  values = {
    f.name: getattr(config, f.name)
    for f in dataclasses.fields(config)
    if not f.metadata.get(FREE)
  }
  return json.loads(json.dumps(values))
