"""Questions about SQLite databases: InterCode's reward, copies by image.

An episode's actions are queries, and "submit" ends it. A state is the image of
the database and the last rows, so that a copy costs nothing. Queries run in a
process that is killed where its limits do not hold (`planning.sql_worker`).
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Self

import scipy  # its parts are imported at their first use

from sophia_jax.planning.lookahead import Step
from sophia_jax.planning.sql_worker import READY, serialised
from sophia_jax.types import SophiaError, host, quoted

SUBMIT = "submit"
"""Action that ends an episode."""
_START_S = 60.0
_SHOWN = 400
"""Characters of a result that a model is shown."""


@host
class Ran:
  """The outcome of a query."""

  rows: tuple[str, ...] | None
  """Rows as texts; None: there are none, and `error` says why."""
  error: str = ""
  image: bytes = b""
  """The database as the query left it."""


class Database:
  """Runs queries in another process; a context manager.

  Args:
    timeout_s: seconds of a query, then its process is killed.
    memory_mb: what the process may allocate above what its imports need.
    rows: rows of a result at most.
    size: characters of a result at most.
    instructions: of SQLite's machine for a query, at most.
  """

  def __init__(
    self,
    timeout_s: float = 10.0,
    memory_mb: int = 256,
    rows: int = 10_000,
    size: int = 1_000_000,
    instructions: int = 20_000_000,
  ):
    self._timeout_s, self._memory_mb = timeout_s, memory_mb
    self._limits = {"rows": rows, "size": size, "instructions": instructions}
    self._process: subprocess.Popen[bytes] | None = None
    self._link: Connection | None = None
    self.killed = 0
    """Number of queries that cost a process."""

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
    if self._link is not None:
      self._link.close()
    self._process = self._link = None

  def run(self, image: bytes, sql: str) -> Ran:
    """Runs a query on an image; b"" is an empty database.

    Raises:
      SophiaError: the process does not start.
    """
    link = self._link or self._start()
    task = {"sql": sql, **self._limits}
    try:
      link.send_bytes(json.dumps(task).encode())
      link.send_bytes(image)
      if not link.poll(self._timeout_s):
        return self._killed(image, f"it took more than {self._timeout_s:g} s")
      answer, after = json.loads(link.recv_bytes()), link.recv_bytes()
    except (EOFError, OSError):
      return self._killed(image, "it took too much memory")
    found = answer.get("rows")
    return Ran(
      rows=None if found is None else tuple(found),
      error=answer.get("error", ""),
      image=after or image,
    )

  def _killed(self, image: bytes, why: str) -> Ran:
    self.killed += 1
    self.close()
    return Ran(rows=None, error=f"the query was ended: {why}", image=image)

  def _start(self) -> Connection:
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "sophia_jax.planning.sql_worker"]
    command += [str(theirs.fileno()), str(self._memory_mb)]
    self._process = subprocess.Popen(
      [*command, str(self._timeout_s)],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      pass_fds=(theirs.fileno(),),
      process_group=0,  # Ctrl-C is for the parent
      env={
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
      },
    )
    theirs.close()
    self._link = ours
    try:
      started = ours.poll(_START_S) and ours.recv_bytes() == READY
    except (EOFError, OSError):
      started = False
    if not started:
      self.close()
      raise SophiaError(
        "planning: the process for SQL does not start; see its error above, "
        f"or raise memory_mb={self._memory_mb}"
      )
    return ours


def image_of(script: str) -> bytes:
  """Returns the image of a database that a trusted script makes.

  Raises:
    SophiaError: it is no SQL that SQLite takes.
  """
  connection = sqlite3.connect(":memory:")
  try:
    connection.executescript(script)
    return serialised(connection)
  except sqlite3.Error as e:
    raise SophiaError(f"database script: {quoted(str(e))}; correct it") from e
  finally:
    connection.close()


def rows_reward(
  found: Sequence[str] | None, gold: Sequence[str] | None
) -> float:
  """Returns InterCode's reward of a query's rows.

  Intersection over union of both multisets of rows, times Kendall's tau-b between
  the two orders of the common rows, to two decimals: -1 to 1. As in the
  benchmark's code (intercode-bench 0.1.22) tau pairs the i-th common rows of both
  sides and ranks them as texts; where it is not defined, as for one row, the
  share counts alone, unrounded. 1 where both are empty, 0 where one has failed.

  Args:
    found: rows as texts; None: the query failed.
    gold: those of the gold query.
  """
  if found is None or gold is None:
    return 0.0
  mine, theirs = Counter(found), Counter(gold)
  union = (mine | theirs).total()
  if not union:
    return 1.0
  common = mine & theirs
  share = common.total() / union
  if common.total() < 2:
    return share
  ranks = {row: rank for rank, row in enumerate(sorted(common))}
  orders = [
    [ranks[row] for row in _first(rows, common)] for rows in (found, gold)
  ]
  if min(len(set(order)) for order in orders) < 2:
    return share
  tau = float(scipy.stats.kendalltau(*orders).statistic)
  return share if math.isnan(tau) else round(tau * share, 2)


def _first(rows: Sequence[str], common: Counter[str]) -> list[str]:
  """Returns the rows that are common, each as often as it is."""
  left, kept = Counter(common), []
  for row in rows:
    if left[row] > 0:
      left[row] -= 1
      kept.append(row)
  return kept


# ---------------------------------------------------------------- the environment
@host
class Question:
  """A question about a database, and the query that answers it."""

  id: str
  text: str
  gold: str
  image: bytes
  """The database, as SQLite serialises it."""
  schema: str = ""
  """Tables and columns, as the model is shown them."""


class SqlEpisode:
  """An episode of queries; implements `lookahead.Environment`.

  Args:
    database: runs the queries; copies share it.
    turns: queries at most.
  """

  def __init__(self, question: Question, database: Database, turns: int = 5):
    self.question, self._database = question, database
    gold = database.run(question.image, question.gold)
    if gold.rows is None:
      raise SophiaError(
        f"question {question.id}: its gold query fails ({gold.error}); correct it"
      )
    self._gold = gold.rows
    self._image, self._left = question.image, turns
    self._history: tuple[tuple[str, str], ...] = ()
    self.reward, self.ended = 0.0, False

  @property
  def solved(self) -> bool:
    return self.reward == 1

  def text(self) -> str:
    """Returns the question, the schema, and the queries so far."""
    turns = [f"Query: {sql}\nResult: {result}" for sql, result in self._history]
    return "\n".join(
      filter(
        None,
        (
          f"Question: {self.question.text}",
          f"Tables: {self.question.schema}" if self.question.schema else "",
          *turns,
          "Answer with one SQL query for SQLite.",
        ),
      )
    )

  def actions(self) -> tuple[str, ...]:
    """Returns (): any text is a query."""
    return ()

  def step(self, action: str) -> Step:
    """Runs a query; what SQLite refuses is an action with reward 0."""
    if self.ended:
      return Step(reward=self.reward, ended=True)
    if action.strip().lower() == SUBMIT:
      self.ended = True
      return Step(reward=self.reward, ended=True)
    ran = self._database.run(self._image, action)
    self._image, self._left = ran.image, self._left - 1
    self.reward = rows_reward(ran.rows, self._gold)
    result = f"error: {ran.error}" if ran.rows is None else "; ".join(ran.rows)
    self._history += ((action[:_SHOWN], result[:_SHOWN]),)
    self.ended = self.solved or self._left == 0
    return Step(reward=self.reward, ended=self.ended)

  def copy(self) -> SqlEpisode:
    """Returns an episode that continues from here on its own."""
    other = SqlEpisode.__new__(SqlEpisode)
    other.__dict__.update(self.__dict__)
    return other
