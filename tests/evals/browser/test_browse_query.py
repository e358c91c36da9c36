"""Filters and their counts, orders, URLs."""

import urllib.parse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.evals.browser import filters
from sophia_jax.evals.browser import query as queries
from sophia_jax.evals.browser.query import Query
from sophia_jax.types import SophiaError
from tests.evals.browser import browsed


@pytest.fixture(scope="module")
def session(tmp_path_factory):
  folder = tmp_path_factory.mktemp("browse")
  sophia = browsed.sophia_run(folder / "sophia")
  made = browsed.pages(sophia, browsed.grpo_run(folder / "grpo")).session
  made.decide_all(made.catalogue.table())
  return made


def find(session, **values):
  table = session.catalogue.table()
  return session.find(table, session.parse(values))[0]


def test_every_count_is_what_choosing_the_value_leaves(session):
  for base in ({}, {"status": "right"}, {"workdir": "b", "length_min": "4"}):
    found = find(session, **base)
    assert len(found.counts) > 8
    for name, values in found.counts.items():
      for value in values:
        assert value.chosen == (base.get(name) == value.label)
        left = find(session, **{**base, name: value.label})
        assert len(left.rows) == value.count, (name, value.label)


def test_filters_name_what_differs(session):
  counts = {
    name: {value.label: value.count for value in values}
    for name, values in find(session).counts.items()
  }
  assert counts["workdir"] == {"a": 32, "b": 32}
  assert counts["role"] == {"caption": 8, "policy": 32, "reasoner": 24}
  assert counts["group"] == {"mixed": 32 + 24, "all wrong": 4, "all right": 4}
  assert counts["change"] == {
    "first": 32 + 16,
    "newly solved": 4,
    "still solved": 8,
    "still lost": 4,
  }
  assert counts["version"] == {"not known": 32, "1": 16, "2": 16}
  assert counts["finish"] == {"stop": 56, "length": 8}
  assert counts["source"] == {"<b>adding</b>": 32, "counting": 32}


def test_numbers_have_ranges_with_counts(session):
  counts = {
    name: {value.label: value.count for value in values}
    for name, values in find(session).counts.items()
  }
  assert counts["round"] == {"no rounds": 32, "0": 16, "1": 16}
  assert counts["length"] == {"1": 8, "2 to 3": 8, "4 to 7": 24, "8 to 15": 24}
  assert "reward" not in counts  # the verdicts have said it
  assert len(find(session, length="8 to 15").rows) == 24


@settings(max_examples=50)
@given(
  st.lists(st.integers(-1, 10**9), min_size=1, max_size=60)
  | st.lists(
    st.integers(-1, 999).map(lambda n: n / 1000), min_size=1, max_size=60
  )
)
def test_a_number_is_inside_its_range(values):
  whole = isinstance(values[0], int)
  found = filters.steps("x", "x", np.array(values))
  assert len(found.labels) <= filters.MAX_STEPS + 2
  assert len(set(found.labels)) == len(found.labels)
  for value, code in zip(values, found.codes.tolist()):
    label = found.labels[code]
    if value < 0:
      assert label == filters.UNKNOWN
      continue
    low, _, high = label.partition(" to ")
    slack = 0 if whole else 1e-6
    assert float(low) - slack <= value <= float(high or low) + slack
  lengths = np.maximum(values, 0).astype(int)
  doubled = filters.doublings("x", "x", lengths)
  for value, code in zip(lengths.tolist(), doubled.codes.tolist()):
    low, _, high = doubled.labels[code].partition(" to ")
    assert int(low) <= value <= int(high or low)


def test_a_share_is_named_by_three_decimals():
  found = filters.steps("x", "x", np.float32([0.5, 1 / 3, -1, 1 / 3]))
  assert found.labels == ("0.333", "0.5", "not known")
  assert found.codes.tolist() == [1, 0, 2, 0]


def test_ranges_and_unknown_values(session):
  assert len(find(session, round_min="1").rows) == 16
  assert len(find(session, length_min="10", length_max="11").rows) == 16
  assert len(find(session, reward_min="1").rows) == 1 + 2 + 3 + 4 + 6 + 10
  assert len(find(session, status="no such").rows) == 0
  assert len(find(session, question="P-3").groups) == 3
  assert len(find(session, question="^p-[12]\n", regex="1").groups) == 6
  assert len(find(session, text="thought 0.1").rows) == 4


def test_orders(session):
  table = session.catalogue.table()
  worst = table.mean[find(session, sort="worst").groups]
  assert (np.diff(worst) >= 0).all()
  assert (table.mean[find(session, sort="best").groups] == worst[::-1]).all()
  longest = table.longest[find(session, sort="longest").groups]
  assert (np.diff(longest) <= 0).all()
  mixed = abs(table.mean[find(session, sort="mixed").groups] - 0.5)
  assert (np.diff(mixed) >= 0).all()
  one, two = (find(session, sort="random", seed=s).groups for s in "12")
  assert one.tolist() != two.tolist() and set(one) == set(two)


def test_selections_are_counted_once_they_are_known(session, tmp_path):
  other = browsed.pages(browsed.sophia_run(tmp_path)).session
  counts = {v.label: v.count for v in find(other).counts["selected"]}
  assert counts == {"not graded": 8, "not known": 24}
  counts = {v.label: v.count for v in find(session).counts["selected"]}
  # SOPHIA keeps one right answer on a good caption; GRPO learns everything.
  assert counts == {"selected": 2 + 32, "not selected": 22, "not graded": 8}


NAMES = st.sampled_from(["status", "role", "tag.subject", "source"])


@settings(max_examples=25)
@given(
  st.dictionaries(NAMES, st.text(min_size=1, max_size=20), max_size=3),
  st.text(max_size=20),
  st.booleans(),
  st.integers(0, 99),
  st.dictionaries(
    st.sampled_from(["length_min", "reward_max"]), st.integers(0, 999)
  ),
)
def test_a_query_survives_its_url(chosen, text, regex, seed, bounds):
  query = Query(
    chosen=chosen, text=text, regex=regex, seed=seed, bounds=bounds, page=3
  )
  url = query.url("/")
  values = dict(urllib.parse.parse_qsl(url.partition("?")[2]))
  read = queries.parse(values, ["status", "role", "tag.subject", "source"])
  encoded = text.encode(errors="replace").decode()
  assert (read.text, read.regex, read.seed) == (encoded, regex, seed)
  assert (read.bounds, read.page) == (bounds, 3)
  assert len(read.chosen) == len(chosen)


@pytest.mark.parametrize(
  "values",
  [
    {"length_min": "x"},
    {"length_max": "nan"},
    {"page": "1e99"},
    {"seed": "inf"},
    {"sort": "no"},
  ],
)
def test_a_value_that_means_nothing_is_refused(values):
  with pytest.raises(SophiaError):
    queries.parse(values, [])
