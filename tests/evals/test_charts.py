import math

from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.evals import charts

anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(anything, anything), max_size=600))
def test_a_line_stays_in_its_box(points):
  # Loss and step are far below the range of a float; squaring is not asked for.
  points = [
    (x, y)
    for x, y in points
    if not 1e100 < abs(x) < math.inf and not 1e100 < abs(y) < math.inf
  ]
  line = charts.line("a", points)
  assert "nan" not in line.path and "inf" not in line.path
  for token in line.path.replace("M", " ").replace("L", " ").split():
    assert -1 <= float(token) <= max(line.width, line.height) + 1
  assert line.steps == len(points)


def test_a_gap_splits_the_path_and_a_lone_point_is_a_dot():
  nan = float("nan")
  line = charts.line("a", [(0, 1), (1, 2), (2, nan), (3, 1), (4, nan), (5, 2)])
  assert line.path.count("M") == 1 and len(line.dots) == 2
  assert line.not_finite == 2 and (line.first, line.last) == ("1", "2")


def test_a_long_curve_is_thinned_to_means():
  points = [(float(i), float(i % 2)) for i in range(10_000)]
  line = charts.line("a", points)
  assert line.path.count("L") < charts.MAX_POINTS
  assert charts.line("a", []).path == ""
  assert (line.first, line.last) == ("0.5", "0.5")


def test_a_curve_that_does_not_move_has_one_height():
  line = charts.line("a", [(0, 0.25), (1, 0.25)])
  assert [tick.label for tick in line.y_ticks] == ["0.25"]


def test_levels_have_one_bar_each():
  chart = charts.levels("r", [0, 0.5, 0.5, 1.0])
  assert [b.value for b in chart.bars] == [0, 0.5, 1.0]
  assert [b.height for b in chart.bars] == [65.0, 130.0, 65.0]
  assert chart.bars[0].x == 0 and chart.count == 4 and chart.tallest == 2
  assert charts.levels("r", [i / 100 for i in range(100)]).count == 100
  assert charts.levels("r", []).bars == ()


def test_histogram_counts_every_value_once():
  chart = charts.histogram("h", [0, 1, 9, 10], low=0, high=10, bins=10)
  assert [b.label.rpartition(": ")[2] for b in chart.bars] == ["1", "1", "2"]
  assert chart.median.label == "1"
  same = charts.histogram("h", [5, 5], low=5, high=5)
  assert same.count == 2


def test_ticks_are_round():
  assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
  assert charts.ticks(0.13, 0.98) == [0.2, 0.4, 0.6000000000000001, 0.8]
  assert charts.ticks(1, 1) == [1]
  assert charts.ticks(0, math.inf) == [0]


def test_numbers_are_short():
  shown = {0: "0", 1234: "1,234", 0.25: "0.25", 3e-9: "3e-09", 2e7: "2e+07"}
  assert {v: charts.number(v) for v in shown} == shown
