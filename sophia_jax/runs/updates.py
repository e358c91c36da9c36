"""The updates that were made from the samples of one workdir, in one table.

W holds the first, W/updates/NAME each further one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sophia_jax.files import read_json
from sophia_jax.runs.run import CONFIG, UPDATES
from sophia_jax.train import metrics

_APART = frozenset({"log", "mesh", "client", "serve", "engine", "reward"})
"""Sections of a config that no result depends on."""


class Update(NamedTuple):
  """Settings and result of one update."""

  name: str
  settings: Mapping[str, Any]
  """Its config, flat: {"stages.sophia.alpha": 0.7}."""
  sequences: int | None
  """Sequences that it learnt from."""
  steps: int
  loss: float | None
  """Loss of the last step."""
  accuracy: Mapping[str, Any] | None
  """pass@1 on the held-out problems, with its interval."""


def found(workdir: Path) -> list[Update]:
  """Returns the updates of a workdir that have begun, the first one first."""
  named = sorted((workdir / UPDATES).glob(f"*/{CONFIG}"))
  places = [workdir, *(path.parent for path in named)]
  return [
    _read(place, "W" if place == workdir else place.name)
    for place in places
    if (place / "metrics.jsonl").is_file()
  ]


def _read(place: Path, name: str) -> Update:
  rows = metrics.read(place / "metrics.jsonl")
  losses = [row["loss"] for row in rows if "loss" in row]
  sources = _json(place / "filters.json").values()
  return Update(
    name=name,
    settings=dict(_flat(_json(place / CONFIG))),
    sequences=sum(counts.get("kept", 0) for counts in sources) or None,
    steps=int(rows[-1]["step"]) if rows else 0,
    loss=losses[-1] if losses else None,
    accuracy=_json(place / "evals" / "after.json").get("pass_at_1"),
  )


def _json(path: Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  return read_json(path, "remove the update, or restore the file")


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
  if not isinstance(values, dict):
    yield key, values
    return
  for name, value in values.items():
    if key or name not in _APART:
      yield from _flat(value, f"{key}.{name}".lstrip("."))


def table(workdir: Path) -> list[str]:
  """Returns the lines of a table of all updates; none where there is but one."""
  updates = found(workdir)
  if len(updates) < 2:
    return []
  keys = dict.fromkeys(k for update in updates for k in update.settings)
  differ = [
    key
    for key in keys
    if len({json.dumps(u.settings.get(key)) for u in updates}) > 1
  ]
  heads = ["update", *(_short(key) for key in differ)]
  rows = [[*heads, "sequences", "steps", "loss", "pass@1"]]
  rows += [_cells(update, differ) for update in updates]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [
    "  ".join(cell.ljust(n) for cell, n in zip(row, widths)).rstrip()
    for row in rows
  ]


def _short(key: str) -> str:
  """Drops the table's name from a key: stages.sophia.alpha -> sophia.alpha."""
  return key.removeprefix("stages.")


def _cells(update: Update, keys: list[str]) -> list[str]:
  rate = update.accuracy
  return [
    update.name,
    *(_said(update.settings.get(key)) for key in keys),
    _said(update.sequences),
    str(update.steps),
    "-" if update.loss is None else f"{update.loss:.4g}",
    f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
    if rate
    else "-",
  ]


def _said(value: Any) -> str:
  return "-" if value is None else str(value)[:40]
