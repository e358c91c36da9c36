"""Counts what docs/walkthrough.md asks a reader to read.

Example:
  python -m docs.walk
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"`((?:sophia_jax|launch)/[\w/]+\.py):([\w.]+)`")


def places() -> list[tuple[str, str]]:
  """Returns (file, function) of every step, in the order of the walk."""
  page = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
  rows = re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE)
  return [place for row in rows for place in PLACE.findall(row)]


def lines_of(file: str, name: str) -> int:
  """Returns the lines of a function or class; 0 if the file has none such."""
  body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
  node = None
  for part in name.split("."):
    node = next((n for n in body if getattr(n, "name", None) == part), None)
    if node is None:
      return 0
    body = getattr(node, "body", [])
  return (getattr(node, "end_lineno", 0) or 0) - getattr(node, "lineno", 0) + 1


def returns(files: list[str], folder: str) -> int:
  """Returns how often the walk comes back into a folder that it has left."""
  inside = [file.startswith(folder) for file in files]
  entries = [b and not a for a, b in itertools.pairwise([False, *inside])]
  return max(0, sum(entries) - 1)


def counts() -> dict[str, int]:
  """Counts what the walk asks a reader to read."""
  walk = places()
  files = [file for file, _ in walk]
  return {
    "functions": len(set(walk)),
    "files": len(set(files)),
    "packages": len({str(Path(file).parent) for file in files}),
    "lines": sum(lines_of(*place) for place in set(walk)),
    "changes of file": sum(a != b for a, b in itertools.pairwise(files)),
    "returns into launch": returns(files, "launch/"),
    "returns into runs": returns(files, "sophia_jax/runs/"),
  }


if __name__ == "__main__":
  for what, count in counts().items():
    print(f"{count:6,d} {what}")
