"""A picture of an experiment: paired differences by seed, with their intervals."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence

from sophia_jax.evidence import tables
from sophia_jax.evidence.experiment import Experiment

_LEFT, _WIDTH, _ROW, _TOP = 390, 360, 34, 40
"""Width of the names, width of the axis, height of a row and of the head, pixels."""
_COLOURS = {"confirmed": "#1a7f37", "contradicted": "#cf222e"}
_OTHER = "#57606a"


def svg(experiment: Experiment, rows: Sequence[tables.Row]) -> str:
  """Returns the picture as SVG: a row for each hypothesis on a share.

  Dots are seeds, the bar is the 95 % interval of the mean, the stroke in it the
  mean. Green rows are confirmed, red ones contradicted.
  """
  shown = [
    one
    for one in tables.tested(experiment, rows)
    if one.differences and tables.is_share(experiment.measure(one.hypothesis))
  ]
  reach = _reach(shown)
  height = _TOP + _ROW * len(shown) + 30
  x = lambda value: _LEFT + _WIDTH * (0.5 + 100 * value / (2 * reach))
  body = [*_axis(reach, height)]
  for i, one in enumerate(shown):
    path = experiment.measure(one.hypothesis)
    name = f"{one.title}: {experiment.label(path).strip('`')}"
    body += _row(one, name, _TOP + _ROW * (i + 0.5), x)
  return "\n".join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" '
      f'height="{height}" font-family="sans-serif" font-size="12">',
      f"<title>{html.escape(experiment.title)}</title>",
      '<rect width="100%" height="100%" fill="white"/>',
      *body,
      "</svg>\n",
    ]
  )


def _reach(shown: Sequence[tables.Tested]) -> int:
  """Returns the end of the axis, points: a multiple of 5 that holds all of it."""
  ends = [5.0]
  for one in shown:
    assert one.difference
    every = (*one.differences, one.difference.low, one.difference.high)
    ends += [100 * abs(v) for v in every if math.isfinite(v)]
  return 5 * math.ceil(max(ends) / 5)


def _axis(reach: int, height: int) -> Iterator[str]:
  step = 5 * math.ceil(reach / 20)
  marks = range(-(reach // step) * step, reach + 1, step)
  for mark in marks:
    at = _LEFT + _WIDTH * (0.5 + mark / (2 * reach))
    stroke = "#24292f" if not mark else "#d0d7de"
    yield (
      f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 8}" y2="{height - 24}" '
      f'stroke="{stroke}"/>'
    )
    yield (
      f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">'
      f"{'+' if mark > 0 else ''}{mark}</text>"
    )
  yield f'<text x="{_LEFT}" y="16">first less last, points</text>'


def _row(
  one: tables.Tested, name: str, y: float, x: Callable[[float], float]
) -> Iterator[str]:
  assert one.difference
  colour = _COLOURS.get(one.found.strip("*"), _OTHER)
  yield (
    f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">'
    f"{html.escape(name)}</text>"
  )
  mean, low, high = one.difference[:3]
  if math.isfinite(low):
    yield (
      f'<rect x="{x(low):.1f}" y="{y - 6:.1f}" width="{x(high) - x(low):.1f}" '
      f'height="12" fill="{colour}" fill-opacity="0.25"/>'
    )
  yield (
    f'<line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y - 9:.1f}" '
    f'y2="{y + 9:.1f}" stroke="{colour}" stroke-width="2"/>'
  )
  for value in one.differences:
    yield f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
