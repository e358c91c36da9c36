"""W/evals/NAME.html: evaluations side by side, with samples of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sophia_jax.evals import paper, tables
from sophia_jax.evals.report import clean, environment, flatten
from sophia_jax.files import write_text

SAMPLES = 6
"""Responses of each evaluation that are shown."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
  """One evaluation as the page shows it."""

  name: str
  summary: Mapping[str, Any]
  """Contents of W/evals/NAME.json, responses excluded."""
  samples: Sequence[Mapping[str, Any]]
  """First responses, with "question" and "images" of the problem."""
  data: str = ""
  """Path that the problems come from."""

  @property
  def splits(self) -> Mapping[str, Any]:
    """Scores by tag; by source where the problems are no benchmark's."""
    tags: Mapping[str, Any] = self.summary["splits"]
    return tags or {"source": self.summary["by_source"]}

  @property
  def comparisons(self) -> list[str]:
    return tables.comparison(self.summary.get("comparison"))

  @property
  def settings(self) -> list[tuple[str, str]]:
    """Settings of the responses, as names and texts."""
    return [*flatten(self.summary["settings"])]


def render(
  model: str, evaluations: Sequence[Evaluation], about: Mapping[str, str]
) -> str:
  """Returns the page as text that UTF-8 can encode, every value escaped.

  Args:
    model: the name of the checkpoint.
    about: what else heads the page: its path, the date.
  """
  template = environment().get_template("evals.html.jinja")
  rows = {
    e.name: paper.rows(e.summary["benchmark"], model) for e in evaluations
  }
  differences = {
    e.name: paper.differences(e.summary["settings"]) for e in evaluations
  }
  page = template.render(
    model=model,
    evaluations=evaluations,
    about=about,
    papers=rows,
    differences=differences,
  )
  return clean(page)


def write(
  path: Path,
  model: str,
  evaluations: Sequence[Evaluation],
  about: Mapping[str, str],
) -> None:
  """Writes the page, whole or not at all; arguments as for `render`."""
  write_text(path, render(model, evaluations, about))
