"""The state behind the pages: workdirs, their index, problems, selections."""

from __future__ import annotations

import collections
import functools
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sophia_jax.data.images import ImageConfig
from sophia_jax.data.problems import well_formed
from sophia_jax.evals.browser import filters, search
from sophia_jax.evals.browser import query as queries
from sophia_jax.evals.browser.filters import SELECTED, TOKENS, Filter
from sophia_jax.evals.browser.groups import Credits
from sophia_jax.evals.browser.index import Catalogue
from sophia_jax.evals.browser.query import Found, Query
from sophia_jax.evals.browser.table import Place, Table, with_grades
from sophia_jax.rollout import tokens
from sophia_jax.types import Problem, SophiaError

REFRESH_S = 2.0
"""Seconds between two looks at the stores."""
DECIDED = 2000
"""Groups between two looks of the filters at their selection."""
DECIDE_ROWS = 100_000
"""Most rollouts whose selection is found out without being asked for."""
_log = logging.getLogger(__name__)


class Source(Protocol):
  """A workdir, as runs.browsing.Workdir."""

  path: Path
  letter: str
  notes: list[str]

  @property
  def images(self) -> ImageConfig: ...

  def places(self) -> Iterator[Place]: ...

  def tokenizers(self) -> Mapping[str, Path]: ...

  def metrics(self) -> Mapping[str, Path]: ...


class Session:
  """The workdirs that are browsed. Thread-safe.

  `refresh` once, or `start` a thread that follows them.
  """

  def __init__(self, sources: Sequence[Source]):
    self.sources = {source.letter: source for source in sources}
    self.catalogue = Catalogue(
      lambda: [p for s in sources for p in s.places()],
      {source.letter: source.path for source in sources},
    )
    self.credits = Credits(self.catalogue, self.problem)
    self._problems: dict[Path, dict[str, Problem]] = {}
    self._unread: dict[Path, str] = {}
    """Files of problems, and stores, that could not be read, and why."""
    self.kept: dict[str, tuple[str, ...]] = {}
    """Ids of the rollouts whose tokens are kept, by the name of their store."""
    self._lock = threading.Lock()
    self._filters: tuple[Any, dict[str, Filter]] = (None, {})
    self._table: tuple[Any, Table] = (None, self.catalogue.table())
    self._hits: collections.OrderedDict[Any, search.Hits] = (
      collections.OrderedDict()
    )
    self._deciding: threading.Thread | None = None
    self._decided = 0
    """Groups whose selection is known, in steps."""
    self._stopped = threading.Event()

  # ----------------------------------------------------------------- following
  def refresh(self) -> None:
    """Reads what the workdirs have now."""
    self._read_problems()
    self.catalogue.refresh()
    self._read_problems()
    self._find_kept()

  def start(self) -> None:
    """Follows the workdirs in a thread until `stop`."""
    threading.Thread(target=self._follow, name="follow", daemon=True).start()

  def stop(self) -> None:
    self._stopped.set()

  def _follow(self) -> None:
    decided = -1
    while not self._stopped.is_set():
      try:
        self.refresh()
        table = self.catalogue.table()
        news = table.generation != decided
        if news and self.catalogue.ready and table.rows <= DECIDE_ROWS:
          self.decide_all(table)
          decided = table.generation
      except (SophiaError, OSError) as e:
        _log.warning("%s", e)
      self._stopped.wait(REFRESH_S)

  def _read_problems(self) -> None:
    for path in {p.data for p in self.catalogue.table().places if p.data}:
      if path in self._problems:
        continue
      try:
        self._problems[path] = {p.id: p for p in well_formed(path)}
        self._unread.pop(path, None)
      except SophiaError as e:
        self._unread[path] = str(e)

  def _find_kept(self) -> None:
    for place in self.catalogue.table().places:
      if place.rounds and place.name not in self.kept:
        try:
          found = tokens.names(place.directory)
        except SophiaError as e:
          self._unread[place.directory] = str(e)
          continue
        self._unread.pop(place.directory, None)
        if found:
          self.kept = {**self.kept, place.name: found}

  @property
  def notes(self) -> list[str]:
    """Sentences that say what could not be read."""
    of_sources = [note for s in self.sources.values() for note in s.notes]
    return [*of_sources, *self._unread.values()]

  def table(self) -> Table:
    """Returns the rollouts that are indexed, with the grades of episodes whose
    selection is known."""
    table = self.catalogue.table()
    key = table.generation, len(table.places), self._decided
    with self._lock:
      if self._table[0] != key:
        self._table = key, with_grades(table, self.credits.played)
      return self._table[1]

  # -------------------------------------------------------------------- problems
  def known(self, table: Table, g: int) -> Problem | None:
    """Returns the problem of a group; None if its file does not have it."""
    data = table.places[table.place[g]].data
    known = self._problems.get(data, {}) if data else {}
    return known.get(table.names[table.problem[g]][0])

  def problem(self, table: Table, g: int) -> Problem:
    """Returns the problem of a group, with its id alone if that is all."""
    name = table.names[table.problem[g]][0]
    return self.known(table, g) or Problem(id=name, question="", answer="")

  def source(self, place: Place) -> Source:
    return self.sources[place.workdir]

  def group(self, table: Table, place: str, name: str, digest: str) -> int:
    """Returns the number of a group.

    Raises:
      SophiaError: there is none.
    """
    names = [p.name for p in table.places]
    if place in names and (name, digest) in table.names:
      numbers = names.index(place), table.names.index((name, digest))
      found = np.flatnonzero(
        (table.place == numbers[0]) & (table.problem == numbers[1])
      )
      if len(found):
        return int(found[0])
    raise SophiaError("there is no such group; perhaps not yet")

  # --------------------------------------------------------------------- queries
  def filters(self, table: Table) -> dict[str, Filter]:
    """Returns the filters of a table; they are made once."""
    key = (
      table.generation,
      len(table.places),
      len(self._problems),
      len(self.kept),
      self._decided,
    )
    with self._lock:
      if self._filters[0] != key:
        methods = any(p.algorithm for p in table.places)
        chosen = self.credits.selected(table) if methods else None
        known = functools.partial(self.known, table)
        made = filters.of_table(table, known, chosen, self.kept)
        self._filters = key, made
      return self._filters[1]

  def parse(self, values: Mapping[str, str]) -> Query:
    """Reads a query; errors as `query.parse`.

    A filter that has one value, or none yet, is kept in the URL.
    """
    names = (
      "workdir", "stage", "role", "status", "finish", "group", "change",
      "round", "version", "age", "length", "reward", SELECTED, TOKENS, "source", "difficulty",
    )  # fmt: skip
    tags = [name for name in values if name.startswith("tag.")]
    return queries.parse(values, [*names, *tags[: filters.MAX_TAGS]])

  def find(self, table: Table, query: Query) -> tuple[Found, int]:
    """Returns what a query finds, and the number of answers that were searched
    for its text: fewer than all where the time limit was reached.

    Raises:
      SophiaError: the text is no regular expression.
    """
    texts, questions, searched = None, None, table.rows
    if query.text:
      hits = self._search(table, query.text, query.regex)
      texts, searched = hits.mask, hits.searched
    if query.question:
      questions = self._questions(table, query.question, query.regex)
    if SELECTED in query.chosen:
      self.decide(table)
    known = self.filters(table)
    return queries.find(table, query, known, texts, questions), searched

  def _search(self, table: Table, text: str, regex: bool) -> search.Hits:
    key = table.generation, text, regex
    with self._lock:
      if key in self._hits:
        return self._hits[key]
    hits = search.search(self.catalogue, table, text, regex)
    with self._lock:
      self._hits[key] = hits
      for old in list(self._hits)[:-8]:
        del self._hits[old]
    return hits

  def _questions(self, table: Table, text: str, regex: bool) -> np.ndarray:
    texts = [
      f"{name}\n{known.question if known else ''}"
      for name, known in (
        (table.names[table.problem[g]][0], self.known(table, g))
        for g in range(table.groups)
      )
    ]
    return search.matches(texts, text, regex)

  # ------------------------------------------------------------------- selections
  def decide(self, table: Table) -> None:
    """Finds out the selection of every group, in a thread."""
    with self._lock:
      if self._deciding is not None and self._deciding.is_alive():
        return
      self._deciding = threading.Thread(
        target=self._decide, args=(table,), name="decide", daemon=True
      )
      self._deciding.start()
    self._deciding.join(1.0)

  def _decide(self, table: Table) -> None:
    try:
      self.decide_all(table)
    except SophiaError as e:
      _log.warning("%s", e)

  def decide_all(self, table: Table) -> None:
    """Finds out which rollouts of every group are selected.

    Raises:
      SophiaError: a segment has changed since it was indexed.
    """
    for g in range(table.groups):
      if self._stopped.is_set():
        return
      self.credits.decide(table, g)
      if g % DECIDED == DECIDED - 1 or g == table.groups - 1:
        self._decided += 1
