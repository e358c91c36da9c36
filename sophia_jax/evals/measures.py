"""W/report.html of a run that is measured by tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sophia_jax.evals.report import clean, environment
from sophia_jax.files import write_text


@dataclass(frozen=True, kw_only=True)
class Table:
  """A table of texts."""

  title: str
  note: str
  """Sentence that says what is measured."""
  head: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]


def write(path: Path, title: str, tables: Sequence[Table]) -> None:
  """Writes the page, every value escaped, whole or not at all."""
  template = environment().get_template("measures.html.jinja")
  write_text(path, clean(template.render(title=title, tables=tables)))
