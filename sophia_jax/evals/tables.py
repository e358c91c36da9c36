"""Evaluations as text, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sophia_jax.evals import paper
from sophia_jax.evals.rates import Rate

HEAD = "pass@1   95 % interval       n"


def rates(named: Mapping[str, Rate], head: str = "") -> list[str]:
  """Formats a line for each rate, under a heading."""
  width = max(map(len, [head, *named]))
  lines = [f"{head:{width}}  {HEAD}"]
  for name, p in named.items():
    interval = f"[{p['low']:.1%}, {p['high']:.1%}]"
    lines.append(
      f"{name:{width}}  {p['value']:6.1%}  {interval:16}  {p['n']:6d}"
    )
  return lines


def plain(summary: Mapping[str, Any]) -> list[str]:
  """Formats scores on a problems file: all, and by source."""
  lines = rates({"all": summary["pass_at_1"], **summary["by_source"]})
  return [*lines, *_more(summary)]


def scores(summary: Mapping[str, Any]) -> list[str]:
  """Formats scores on a benchmark: all, its metrics, its splits."""
  head = f"{summary['title']}, {summary['part']}"
  named = {"all": summary["pass_at_1"]} | {
    f"  {name}": rate for name, rate in summary["metrics"].items()
  }
  for tag, groups in summary["splits"].items():
    named |= {f"  {tag}: {name or '-'}": rate for name, rate in groups.items()}
  return [*rates(named, head), *_more(summary)]


def benchmark(summary: Mapping[str, Any], model: str) -> list[str]:
  """Formats as `scores` does, with the paper's rows."""
  return [*scores(summary), *_paper(summary, model)]


def _more(summary: Mapping[str, Any]) -> list[str]:
  """Formats pass@k, statuses and a comparison."""
  lines = []
  if summary["samples"] > 1:
    shown = [
      f"pass@{k} {p['value']:.1%}" for k, p in summary["pass_at_k"].items()
    ]
    lines.append(f"{summary['samples']} samples: {', '.join(shown)}")
  counts = [f"{n} {name}" for name, n in summary["status"].items() if n]
  lines.append(f"responses: {', '.join(counts)}")
  if summary.get("judge"):
    lines.append(f"answers found, or judged, by {summary['judge']}")
  return [*lines, *comparison(summary.get("comparison"))]


def comparison(result: Mapping[str, Any] | None) -> list[str]:
  """Formats a comparison in a line; nothing without one."""
  if not result:
    return []
  change = result["after"] - result["before"]
  if result["test"] == "McNemar":
    how = f"{result['gained']} gained, {result['lost']} lost"
  else:
    how = f"95 % interval [{result['low']:+.1%}, {result['high']:+.1%}]"
  return [
    f"against {result['against']}: {result['before']:.1%} -> {result['after']:.1%}"
    f" ({change:+.1%}; {how}; p = {result['p']:.3g}, {result['test']}, "
    f"n = {result['n']})"
  ]


def _paper(summary: Mapping[str, Any], model: str) -> list[str]:
  theirs = paper.rows(summary["benchmark"], model)
  if not theirs:
    return []
  width = max(len(row.model) for row in theirs)
  differing = "; ".join(paper.differences(summary["settings"]))
  return [
    f"paper (arXiv 2507.16814), whole benchmark{differing and '; here '}{differing}",
    *(
      f"  {row.model:{width}}  {row.value:6.1%}  "
      f"{'the same model' if row.same else 'reference'}"
      for row in theirs
    ),
  ]
