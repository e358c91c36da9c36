"""The pages: values of a URL -> HTML, JSON lines or an image.

A page is a pure function of its URL and of what the stores hold. Paths of files
never come from a URL: it names a store, a problem and a number.
"""

from __future__ import annotations

import io
import json
import math
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from sophia_jax.data.images import open_image, tile
from sophia_jax.data.native import pictures
from sophia_jax.evals.browser import tokens, views
from sophia_jax.evals.browser.filters import SOLVED
from sophia_jax.evals.browser.query import PER_PAGE, SORTS, Found, Query
from sophia_jax.evals.browser.session import Session
from sophia_jax.evals.browser.table import FINISHES, STATUSES, Table
from sophia_jax.evals.browser.views import GroupView
from sophia_jax.evals.report import clean, environment
from sophia_jax.types import Problem, SophiaError

Values = Mapping[str, str]
"""Values of a URL by name; the last where a name is there twice."""
THUMB_SIDE = 160
"""Longest side of an image in a list, pixels."""
PIPS = 64
"""Rollouts of a group that a list shows."""
HISTORY = 200
"""Groups of a problem that its page lists."""
GROUP_KEY = ("in", "id", "digest")


class NotFound(SophiaError):
  """The URL names nothing."""


class Pages:
  """The pages of a session; each method takes the values of its URL.

  Raises, from each page:
    SophiaError: a value that means nothing, or a store that has changed.
  """

  def __init__(self, session: Session):
    self.session = session
    self._templates = environment()
    self._templates.globals |= {
      "url": url,
      "sorts": SORTS,
      "statuses": STATUSES,
      "sources": session.sources,
    }
    self._templates.filters["score"] = _score
    self._templates.filters["probability"] = _probability
    self.html: dict[str, Callable[[Values], str]] = {
      "/": self.groups,
      "/group": self.group,
      "/tokens": self.tokens,
      "/problem": self.problem,
      "/compare": self.compare,
      "/curves": self.curves,
    }
    """Pages by path."""

  def _render(self, name: str, **values: Any) -> str:
    template = self._templates.get_template(f"browser/{name}.html.jinja")
    return clean(template.render(offline=False, **values))

  def refused(self, why: str) -> str:
    """Says why there is no page."""
    return self._render("refused", why=why)

  # ---------------------------------------------------------------- list of groups
  def groups(self, values: Values) -> str:
    """Lists the groups that a query finds."""
    session, table = self.session, self.session.table()
    query = session.parse(values)
    found, searched = session.find(table, query)
    last = max(1, math.ceil(len(found.groups) / PER_PAGE))
    start = PER_PAGE * (min(query.page, last) - 1)
    shown = found.groups[start : start + PER_PAGE]
    return self._render(
      "groups",
      table=table,
      query=query,
      found=found,
      filters=session.filters(table),
      searched=searched,
      pages=last,
      page=min(query.page, last),
      groups=[
        _Listed(self, table, int(g), query, start + i, found)
        for i, g in enumerate(shown)
      ],
      catalogue=session.catalogue,
      notes=session.notes,
    )

  def status(self) -> dict[str, Any]:
    """Returns how far the index is, for a page that waits for news."""
    catalogue = self.session.catalogue
    return {
      "rollouts": catalogue.table().rows,
      "ready": catalogue.ready,
      "read": catalogue.read,
      "size": catalogue.size,
    }

  # ----------------------------------------------------------------------- a group
  def _view(self, values: Values) -> tuple[Table, GroupView]:
    table = self.session.table()
    key = (values.get(name, "") for name in GROUP_KEY)
    try:
      g = self.session.group(table, *key)
    except SophiaError as e:
      raise NotFound(str(e)) from None
    return table, views.group(self.session, table, g)

  def group(self, values: Values) -> str:
    """Shows a group: image, tiles, captions, rollouts side by side."""
    table, view = self._view(values)
    query = self.session.parse(values)
    at = _whole(values.get("at", ""))
    return self._render(
      "group",
      view=view,
      query=query,
      at=at,
      neighbours=self._neighbours(table, query, at),
      tiles=[
        self._tile_count(view.problem, view, n)
        for n in range(len(view.problem.images))
      ],
    )

  def _neighbours(
    self, table: Table, query: Query, at: int | None
  ) -> dict[str, str]:
    """Returns the URLs of the groups before and after one in its list; "":
    none."""
    if at is None:
      return {"previous": "", "next": ""}
    found, _ = self.session.find(table, query)
    places = {"previous": at - 1, "next": at + 1}
    return {
      name: _group_url(table, int(found.groups[n]), query, n)
      if 0 <= n < len(found.groups)
      else ""
      for name, n in places.items()
    }

  def _tile_count(self, problem: Problem, view: GroupView, n: int) -> int:
    """Returns the tiles of an image; 0 if it cannot be read."""
    images = self.session.source(view.place).images.share(len(problem.images))
    try:
      return len(pictures(tile(open_image(problem.images[n]), images)))
    except SophiaError:
      return 0

  def tokens(self, values: Values) -> str:
    """Shows the tokens of a rollout, marked by one of their values."""
    _, view = self._view(values)
    path = tuple(
      int(n) for n in values.get("path", "").split(".") if n.isdecimal()
    )
    cards = [c for b in view.branches for c in (b.caption, *b.cards) if c]
    card = next((c for c in cards if c.rollout.path == path), None)
    if card is None:
      raise NotFound("there is no such rollout")
    turns, why = tokens.of_card(self.session, view, card)
    measures = tokens.shown(turns)
    by = values.get("by", "")
    by = by if by in measures else next(iter(tokens.MEASURES))
    return self._render(
      "tokens",
      view=view,
      card=card,
      why=why,
      measures=measures,
      by=by,
      measure=tokens.MEASURES[by],
      turns=[
        {
          "tokens": turn,
          "largest": tokens.largest(turn, by),
          "outstanding": tokens.outstanding(turn, by),
          "means": {name: tokens.mean(turn, name) for name in measures},
          "clipped": sum(token.clipped for token in turn),
          "logps": [t.logp for t in turn if t.logp is not None],
          "left": len(said.completion.token_ids) - len(turn),
        }
        for turn, said in zip(turns, card.rollout.turns)
      ],
    )

  def problem(self, values: Values) -> str:
    """Shows a problem over the rounds, and in both workdirs."""
    session, table = self.session, self.session.table()
    name = values.get("id", "")
    numbers = [i for i, (known, _) in enumerate(table.names) if known == name]
    groups = np.flatnonzero(np.isin(table.problem, numbers))
    if not len(groups):
      raise NotFound("there is no such problem; perhaps not yet")
    rows = [_row(table, int(g)) for g in groups[:HISTORY]]
    last = {row["place"].workdir: row for row in rows}
    latest = [views.group(session, table, row["g"]) for row in last.values()]
    best = [next(v.cards, None) for v in latest]
    texts = [c.rollout.completion.text if c else "" for c in best]
    return self._render(
      "problem",
      problem=session.problem(table, int(groups[-1])),
      rows=rows,
      left=len(groups) - len(rows),
      latest=latest,
      view=latest[-1],
      best=best,
      difference=views.difference(*texts) if len(texts) == 2 else [],
    )

  def compare(self, values: Values) -> str:
    """Lists the problems of both workdirs, the largest difference first."""
    table = self.session.table()
    letters = np.array([p.workdir for p in table.places] or [""])[table.place]
    last = [_last(table, letters == letter) for letter in ("a", "b")]
    both = sorted(last[0].keys() & last[1].keys())
    pairs = [(last[0][n], last[1][n]) for n in both]
    change = np.array([table.mean[b] - table.mean[a] for a, b in pairs])
    order = np.argsort(change if values.get("sort") == "lost" else -change)
    page = max(1, _whole(values.get("page", "")) or 1)
    shown = order[PER_PAGE * (page - 1) : PER_PAGE * page]
    solved = [[bool(table.mean[g] >= SOLVED) for g in p] for p in pairs]
    return self._render(
      "compare",
      rows=[tuple(_row(table, g) for g in pairs[i]) for i in shown],
      count=len(pairs),
      gained=solved.count([False, True]),
      lost=solved.count([True, False]),
      means=[
        float(np.mean([table.mean[p[i]] for p in pairs])) if pairs else math.nan
        for i in (0, 1)
      ],
      page=page,
      pages=max(1, math.ceil(len(pairs) / PER_PAGE)),
      sort=values.get("sort", "gained"),
    )

  def curves(self, values: Values) -> str:
    """Plots the metrics of the workdirs."""
    del values
    return self._render(
      "curves",
      workdirs=[
        (source, list(views.curves(source)))
        for source in self.session.sources.values()
      ],
    )

  # --------------------------------------------------------------------- not HTML
  def export(self, values: Values) -> Iterator[bytes]:
    """Yields the rollouts that a query finds, as JSON lines."""
    session, table = self.session, self.session.table()
    found, _ = session.find(table, session.parse(values))
    bounds = np.searchsorted(found.rows, table.first)

    def lines() -> Iterator[bytes]:
      for g in found.groups:
        rows = found.rows[bounds[g] : bounds[g + 1]]
        paths = {table.paths[table.path[row]]: True for row in rows}
        view = views.group(session, table, int(g))
        for line in views.exported(view, paths):
          yield json.dumps(line).encode() + b"\n"

    return lines()

  def image(self, values: Values) -> bytes:
    """Returns an image of a problem as PNG: whole, small, or one of its tiles.

    Raises:
      NotFound: there is no such image, or it cannot be read.
    """
    table = self.session.table()
    key = (values.get(name, "") for name in GROUP_KEY)
    try:
      g = self.session.group(table, *key)
      problem = self.session.problem(table, g)
      return self._png(problem, table, g, values)
    except (SophiaError, IndexError) as e:
      raise NotFound(str(e)) from None

  def _png(
    self, problem: Problem, table: Table, g: int, values: Values
  ) -> bytes:
    path = problem.images[_whole(values.get("n", "0")) or 0]
    number = _whole(values.get("tile", ""))
    if number is not None:
      source = self.session.source(table.places[table.place[g]])
      images = source.images.share(len(problem.images))
      shown = pictures(tile(open_image(path), images))
      picture = Image.fromarray(shown[number])
    else:
      picture = open_image(path)
      if values.get("small"):
        picture.thumbnail((THUMB_SIDE, THUMB_SIDE))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()

  # ---------------------------------------------------------------------- offline
  def offline(self, name: str) -> str:
    """Returns one page, whole in itself, with every group of a problem.

    Raises:
      NotFound: no store has the problem.
    """
    table = self.session.table()
    numbers = [i for i, (known, _) in enumerate(table.names) if known == name]
    groups = np.flatnonzero(np.isin(table.problem, numbers))[-HISTORY:]
    if not len(groups):
      raise NotFound(f"problem {name[:80]!r}: no store has rollouts of it")
    shown = [views.group(self.session, table, int(g)) for g in groups]
    template = self._templates.get_template("browser/offline.html.jinja")
    page = template.render(
      offline=True, problem=shown[-1].problem, views=shown, tiles=[]
    )
    return clean(page)


# ------------------------------------------------------------------------- values
class _Listed:
  """A group in a list; read from the columns, except for its question."""

  def __init__(
    self,
    pages: Pages,
    table: Table,
    g: int,
    query: Query,
    at: int,
    found: Found,
  ):
    self.row = _row(table, g)
    self.problem = pages.session.problem(table, g)
    self.url = _group_url(table, g, query, at)
    self.matching = int(found.matching[found.groups == g][0])


def _row(table: Table, g: int) -> dict[str, Any]:
  """Returns the columns of a group as plain values."""
  rows = table.of_group(g)
  name, digest = table.names[table.problem[g]]
  graded = table.status[rows] >= 0
  accuracy = table.rewards["accuracy"][rows][graded]
  order = np.argsort(-accuracy, kind="stable")[:PIPS]
  place = table.places[table.place[g]]
  pips = [
    STATUSES[s] for s in table.status[rows][graded][order] if s < len(STATUSES)
  ]
  cut = table.finish[rows] == FINISHES.index("length")
  return {
    "g": g,
    "place": place,
    "id": name,
    "key": {"in": place.name, "id": name, "digest": digest},
    "mean": float(table.mean[g]),
    "graded": int(table.graded[g]),
    "pips": pips,
    "more": int(graded.sum()) - len(pips),
    "longest": int(table.longest[g]),
    "cut": int(cut.sum()),
    "version": int(table.version[rows].max(initial=0)),
  }


def _last(table: Table, mask: np.ndarray) -> dict[str, int]:
  """Returns the last graded group of each problem among some, by its id."""
  found = {}
  for g in np.flatnonzero(mask & (table.graded > 0)).tolist():
    found[table.names[table.problem[g]][0]] = g
  return found


def _group_url(table: Table, g: int, query: Query, at: int) -> str:
  name, digest = table.names[table.problem[g]]
  place = table.places[table.place[g]].name
  key = {"in": place, "id": name, "digest": digest, "at": at}
  rest = query.url("").partition("?")[2]
  return url("/group", **key) + (f"&{rest}" if rest else "")


def url(path: str, /, **values: object) -> str:
  """Returns a path with values that may be hostile."""
  query = urllib.parse.urlencode(values, errors="replace")
  return f"{path}?{query}" if query else path


def _whole(text: str) -> int | None:
  return int(text) if text.isdecimal() and len(text) < 10 else None


def _score(value: float | None) -> str:
  """Formats a reward or an advantage; a dash where there is none."""
  if value is None or not math.isfinite(value):
    return "–"
  return f"{value:.3f}".rstrip("0").rstrip(".")


def _probability(logp: float) -> str:
  return f"{math.exp(min(logp, 0.0)):.1%}"
