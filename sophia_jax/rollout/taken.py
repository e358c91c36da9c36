"""Which groups a round takes to learn from, beside its store.

  taken.json   {"problems": ["p17", "p3"]}

More groups may pass the selection than a round takes, and it takes them in the order
in which it drew their problems. Whole or absent: a round that is repeated writes it
again, with the same content.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sophia_jax.files import read_json, write_json
from sophia_jax.types import SophiaError

FILE = "taken.json"
_REMEDY = (
  "remove it: every group that passes the selection counts as learnt then"
)


def write(directory: Path, problems: Sequence[str]) -> None:
  """Replaces the file of a round.

  Args:
    directory: store of the round.
    problems: ids of the problems whose groups are learnt, in their order.

  Raises:
    SophiaError: the file cannot be written, or the disk is full.
  """
  write_json(directory / FILE, {"problems": list(problems)})


def read(directory: Path) -> list[str] | None:
  """Returns the ids of the problems whose groups were learnt; None: not known.

  Raises:
    SophiaError: the file is damaged.
  """
  path = directory / FILE
  if not path.exists():
    return None
  found = read_json(path, _REMEDY).get("problems")
  if not isinstance(found, list) or not all(isinstance(p, str) for p in found):
    raise SophiaError(f"{path}: names no problems; {_REMEDY}")
  return found
