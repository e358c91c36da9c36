"""Process in which a model's SQL runs, started by `planning.sql`.

A message is a query and the image of a database; the answer is the rows, or why
there are none, and the image where the query changed it. Queries come from a
model: they have one statement, no file, no other database, and limits on
instructions, rows and bytes. The other side kills this process where they do not
hold. It loads sqlite3 and no jax.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from sophia_jax.rewards.worker import forbid_effects, limit_memory, sent

READY = b"ready"
_INSTRUCTIONS = 10_000
"""Instructions of SQLite's machine between two looks at their number."""
_PRAGMAS = frozenset(
  {
    "table_info",
    "table_list",
    "foreign_key_list",
    "index_list",
    "index_info",
    "page_count",
  }
)
"""Pragmas that only read; serialising asks for the last."""
_DENIED = frozenset(
  {
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_DROP_VTABLE,
  }
)
_LIMITS = {
  sqlite3.SQLITE_LIMIT_ATTACHED: 0,
  sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
  sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
  sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
  sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


def main(fd: int, memory_mb: int, timeout_s: float) -> None:
  """Serves until the other end of `fd` closes.

  Args:
    memory_mb: what it may allocate beyond what the imports need.
    timeout_s: processor seconds of a query; if the parent is gone nobody else
      ends it.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  sqlite3.connect(":memory:").close()  # loads what it needs before the limit
  limit_memory(memory_mb)
  link = Connection(fd)
  if not sent(link, READY):
    return
  with open(os.devnull, "w") as devnull:
    forbid_effects()
    while True:
      try:
        task = json.loads(link.recv_bytes())
        image = link.recv_bytes()
      except (EOFError, OSError):  # the parent has ended
        return
      faulthandler.dump_traceback_later(
        5 * timeout_s + 1, exit=True, file=devnull
      )
      try:
        answer, after = run(image, **task)
      except MemoryError:
        os._exit(1)
      faulthandler.cancel_dump_traceback_later()
      if not sent(link, json.dumps(answer).encode(), after):
        return


def run(
  image: bytes, sql: str, rows: int, size: int, instructions: int
) -> tuple[dict[str, Any], bytes]:
  """Runs a query on an image of a database.

  Args:
    rows: rows at most.
    size: characters of all rows at most.
    instructions: of SQLite's machine, at most.

  Returns:
    {"rows": texts of the rows} or {"error": why}; and the image, b"" where it is
    as it was.
  """
  with _opened(image, size, instructions) as connection:
    before = serialised(connection)
    found: list[str] = []
    try:
      cursor = connection.execute(sql)
      for row in cursor:
        found.append(str(row))
        size -= len(found[-1])
        if len(found) > rows or size < 0:
          return {"error": "the result is too large"}, b""
      cursor.close()
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as e:
      return {"error": " ".join(str(e).split())[:200]}, b""
    if connection.in_transaction:
      connection.commit()
    after = serialised(connection)
    return {"rows": found}, b"" if after == before else after


def serialised(connection: sqlite3.Connection) -> bytes:
  """Returns the image of a database; b"" where it has no table yet."""
  try:
    return connection.serialize()
  except sqlite3.OperationalError:  # some versions have no image of nothing
    return b""


@contextlib.contextmanager
def _opened(
  image: bytes, size: int, instructions: int
) -> Iterator[sqlite3.Connection]:
  connection = sqlite3.connect(":memory:")
  try:
    if image:
      connection.deserialize(image)
    # Sorting spills into memory, which is limited, and not into files.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.text_factory = lambda text: text.decode(errors="replace")
    for name, limit in _LIMITS.items():
      connection.setlimit(name, limit)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, len(image)))
    left = [max(instructions // _INSTRUCTIONS, 1)]

    def count() -> bool:
      left[0] -= 1
      return left[0] < 0

    connection.set_progress_handler(count, _INSTRUCTIONS)
    connection.set_authorizer(_allowed)
    yield connection
  finally:
    connection.close()


def _allowed(action: int, name: str | None, *_: str | None) -> int:
  """Refuses what reaches beyond the database, or changes how it works."""
  if action in _DENIED:
    return sqlite3.SQLITE_DENY
  if action == sqlite3.SQLITE_PRAGMA and (name or "").lower() not in _PRAGMAS:
    return sqlite3.SQLITE_DENY
  return sqlite3.SQLITE_OK


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
