"""Geometry of the report's charts: numbers become coordinates.

The template draws them as inline SVG, so that every string passes through its
autoescape. Coordinates are in the units of each chart's viewBox.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_POINTS = 240
"""Most points of a curve."""
MAX_DISTINCT = 17
"""Most levels that get a bar each."""


@dataclass(frozen=True)
class Tick:
  """A label at a place of an axis."""

  at: float
  label: str


@dataclass(frozen=True)
class Line:
  """A curve in a box of `width` x `height`, with the origin at its top left."""

  name: str
  width: int
  height: int
  path: str
  dots: tuple[tuple[float, float], ...]
  """Points without a finite neighbour, which a path would not show."""
  end: tuple[float, float] | None
  x_ticks: tuple[Tick, ...]
  y_ticks: tuple[Tick, ...]
  first: str
  last: str
  steps: int
  not_finite: int


@dataclass(frozen=True)
class Bar:
  """A bar of a histogram."""

  value: float
  """Level, or lower edge of the bin."""
  x: float
  y: float
  width: float
  height: float
  label: str


@dataclass(frozen=True)
class Histogram:
  """Bars on the bottom of a box of `width` x `height`."""

  name: str
  width: int
  height: int
  bars: tuple[Bar, ...]
  x_ticks: tuple[Tick, ...]
  count: int
  tallest: int
  median: Tick | None


def ticks(low: float, high: float, count: int = 4) -> list[float]:
  """Returns round values (1, 2, 5 times a power of ten) inside [low, high]."""
  if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
    return [low] if math.isfinite(low) else []
  raw = (high - low) / max(1, count)
  power = 10.0 ** math.floor(math.log10(raw))
  step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * 0.7)
  first, last = math.ceil(low / step), math.floor(high / step)
  if last - first > 100:  # the range is below the resolution of a float
    return [low]
  return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
  """Formats a short label: 1200 -> 1,200; 0.25 -> 0.25; 1e-7 -> 1e-07."""
  if value == 0 or not math.isfinite(value):
    return "0" if value == 0 else str(value)
  if abs(value) >= 1e6 or abs(value) < 1e-4:
    return f"{value:.3g}"
  if abs(value) >= 100 or value == int(value):
    return f"{value:,.0f}"
  return f"{value:.3g}"


def line(
  name: str,
  points: Sequence[tuple[float, float]],
  width: int = 228,
  height: int = 110,
) -> Line:
  """Lays out a curve; long ones are averaged, non-finite points leave gaps.

  `first` and `last` are the ends of what is drawn, so that they agree with the
  axis.
  """
  finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
  missing = len(points) - len(finite)
  if not finite:
    empty: tuple[Tick, ...] = ()
    return Line(
      name, width, height, "", (), None, empty, empty, "–", "–",
      len(points), missing,
    )  # fmt: skip
  shown = _thin(points)
  ys = [p[1] for p in shown if p is not None]
  x_low, x_high = min(x for x, _ in finite), max(x for x, _ in finite)
  pad = 0.06 * (max(ys) - min(ys)) or max(1e-9, abs(ys[0]) * 0.1)
  y_low, y_high = min(ys) - pad, max(ys) + pad
  heights = ticks(y_low, y_high, 4) if max(ys) > min(ys) else [ys[0]]

  def place(point: tuple[float, float]) -> tuple[float, float]:
    across = (point[0] - x_low) / (x_high - x_low) if x_high > x_low else 0.5
    up = (point[1] - y_low) / (y_high - y_low)
    return round(across * width, 2), round(height - up * height, 2)

  runs = _runs([None if p is None else place(p) for p in shown])
  return Line(
    name=name,
    width=width,
    height=height,
    path=" ".join(
      "M" + " L".join(f"{x} {y}" for x, y in run) for run in runs if run[1:]
    ),
    dots=tuple(run[0] for run in runs if not run[1:]),
    end=runs[-1][-1],
    x_ticks=tuple(
      Tick(place((x, y_low))[0], number(x)) for x in ticks(x_low, x_high, 4)
    ),
    y_ticks=tuple(Tick(place((x_low, y))[1], number(y)) for y in heights),
    first=number(ys[0]),
    last=number(ys[-1]),
    steps=len(points),
    not_finite=missing,
  )


def levels(
  name: str, values: Sequence[float], width: int = 420, height: int = 130
) -> Histogram:
  """Lays out rewards in [0, 1]: one bar a level if there are few levels."""
  counts = Counter(round(v, 6) for v in values if math.isfinite(v))
  if len(counts) > MAX_DISTINCT:
    return histogram(name, values, width, height, low=0.0, high=1.0, bins=12)
  places = sorted(counts)
  gap = min((b - a for a, b in itertools.pairwise(places)), default=0.125)
  bar = max(4.0, min(36.0, 0.72 * gap * width))
  top = max(counts.values(), default=1)
  bars = tuple(
    Bar(
      value=v,
      x=round(v * (width - bar), 2),
      y=round(height * (1 - counts[v] / top), 2),
      width=round(bar, 2),
      height=round(height * counts[v] / top, 2),
      label=f"{number(v)}: {counts[v]:,}",
    )
    for v in places
  )
  marks = tuple(
    Tick(bar / 2 + v * (width - bar), number(v))
    for v in (0.0, 0.25, 0.5, 0.75, 1.0)
  )
  total = sum(counts.values())
  return Histogram(
    name,
    width,
    height,
    bars,
    marks,
    total,
    max(counts.values(), default=0),
    None,
  )


def histogram(
  name: str,
  values: Sequence[float],
  width: int = 850,
  height: int = 56,
  *,
  low: float,
  high: float,
  bins: int = 40,
) -> Histogram:
  """Lays out a histogram on [low, high]; several can share the axis."""
  kept = sorted(v for v in values if math.isfinite(v))
  span = high - low if high > low else 1.0
  counts = Counter(
    min(bins - 1, max(0, int((v - low) / span * bins))) for v in kept
  )
  top = max(counts.values(), default=1)
  step = width / bins
  bars = tuple(
    Bar(
      value=low + i * span / bins,
      x=round(i * step + 0.5, 2),
      y=round(height * (1 - counts[i] / top), 2),
      width=round(step - 1, 2),
      height=round(height * counts[i] / top, 2),
      label=f"{number(low + i * span / bins)} to "
      f"{number(low + (i + 1) * span / bins)}: {counts[i]:,}",
    )
    for i in sorted(counts)
  )
  marks = tuple(
    Tick((v - low) / span * width, number(v)) for v in ticks(low, high, 5)
  )
  median = None
  if kept:
    middle = kept[(len(kept) - 1) // 2]
    median = Tick((middle - low) / span * width, number(middle))
  return Histogram(
    name, width, height, bars, marks, len(kept),
    max(counts.values(), default=0), median,
  )  # fmt: skip


def _thin(
  points: Sequence[tuple[float, float]],
) -> list[tuple[float, float] | None]:
  """Averages to at most MAX_POINTS points; None: a gap."""
  size = -(-len(points) // MAX_POINTS)
  thinned: list[tuple[float, float] | None] = []
  for start in range(0, len(points), size):
    block = [
      (x, y)
      for x, y in points[start : start + size]
      if math.isfinite(x) and math.isfinite(y)
    ]
    if block:
      xs, ys = zip(*block)
      thinned.append((sum(xs) / len(xs), sum(ys) / len(ys)))
    else:
      thinned.append(None)
  return thinned


def _runs(
  places: Sequence[tuple[float, float] | None],
) -> list[list[tuple[float, float]]]:
  """Splits a curve at its gaps."""
  runs: list[list[tuple[float, float]]] = [[]]
  for place in places:
    if place is not None:
      runs[-1].append(place)
    elif runs[-1]:
      runs.append([])
  return [run for run in runs if run]
