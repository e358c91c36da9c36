"""InterCode's SQL questions, read from its package where that is installed.

The package (intercode-bench 0.1.22) brings questions in CSV and its databases as
a MySQL dump. The dump's tables are turned into SQLite's by mechanical edits; a
table or a question that does not survive them is left out. Nothing of it is kept
here: the questions are Spider's, CC BY-SA 4.0.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sophia_jax.planning.sql import Database, Question
from sophia_jax.planning.sql_worker import serialised

_DUMP, _QUESTIONS = "spider_dev.sql", "sql_queries.csv"
_DATABASE = re.compile(r"USE `(\w+)`")
_TABLE = re.compile(r"CREATE TABLE `([^`]+)`")
_NOT_OURS = re.compile(r"\s*(KEY|UNIQUE KEY|CONSTRAINT|FULLTEXT KEY) ")
_TYPES = re.compile(
  r" (COLLATE \w+|CHARACTER SET \w+|AUTO_INCREMENT|unsigned|"
  r"ON UPDATE CURRENT_TIMESTAMP)\b"
)
_ESCAPES = {"\\'": "''", '\\"': '"', "\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def folder() -> Path | None:
  """Returns where the package keeps its questions; None: it is not installed."""
  found = importlib.util.find_spec("intercode")
  if found is None or not found.origin:
    return None
  place = Path(found.origin).parent / "assets" / "datasets"
  return place if (place / _DUMP).is_file() else None


def questions(database: Database, place: Path | None = None) -> list[Question]:
  """Returns the questions whose gold query gives rows in SQLite.

  Args:
    database: runs the gold queries.
    place: folder of the files; None: that of the package; [] without it.
  """
  place = place or folder()
  if place is None:
    return []
  databases = {
    name: image_with_schema(script)
    for name, script in scripts((place / _DUMP).read_text("utf-8"))
  }
  with open(place / _QUESTIONS, encoding="utf-8", newline="") as file:
    rows = [*csv.DictReader(file)]
  found = []
  for number, row in enumerate(rows, start=1):
    image, schema = databases.get(row["db"], (b"", ""))
    question = Question(
      id=f"intercode-{number}",
      text=row["query"],
      gold=row["gold"],
      image=image,
      schema=schema,
    )
    if database.run(image, row["gold"]).rows:
      found.append(question)
  return found


def scripts(dump: str) -> Iterator[tuple[str, list[str]]]:
  """Yields each database of a MySQL dump, with its statements for SQLite."""
  parts = _DATABASE.split(dump)
  for name, text in zip(parts[1::2], parts[2::2]):
    yield name, [*_statements(text)]


def _statements(text: str) -> Iterator[str]:
  """Yields CREATE TABLE and INSERT of a part of a dump, edited."""
  lines = iter(text.splitlines())
  for line in lines:
    if line.startswith("INSERT INTO"):
      yield re.sub(r"\\.", lambda m: _ESCAPES.get(m[0], m[0][1]), line)
    elif line.startswith("CREATE TABLE"):
      columns = []
      for column in lines:
        if column.startswith(")"):
          break
        if not _NOT_OURS.match(column):
          columns.append(_TYPES.sub("", column).rstrip().rstrip(","))
      yield f"{line}\n" + ",\n".join(columns) + "\n)"


def image_with_schema(statements: list[str]) -> tuple[bytes, str]:
  """Returns a database's image and its tables; faulty statements are left out."""
  connection = sqlite3.connect(":memory:")
  try:
    tables = []
    for statement in statements:
      try:
        connection.execute(statement)
      except sqlite3.Error:
        continue
      if created := _TABLE.match(statement):
        tables.append(created[1])
    connection.commit()
    shown = []
    for table in tables:
      rows = connection.execute(
        "SELECT name FROM pragma_table_info(?)", (table,)
      )
      shown.append(f"{table}({', '.join(name for (name,) in rows)})")
    return serialised(connection), "; ".join(shown)
  finally:
    connection.close()
