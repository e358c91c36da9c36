"""The page of tokens: what is kept of an update, beside what the store has."""

import math
import re

import pytest

from sophia_jax.evals.browser import tokens, views
from sophia_jax.rollout import tokens as kept
from tests.evals.browser import browsed
from tests.evals.browser.test_browse_pages import Page, key_of


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("browse")
  return browsed.pages(browsed.grpo_run(folder / "grpo"))


def turn_of(pages, g, path):
  view = views.group(pages.session, pages.session.catalogue.table(), g)
  (card,) = (c for c in view.cards if c.rollout.path == path)
  (turn,), why = tokens.of_card(pages.session, view, card)
  return card, turn, why


def shown(pages, g=1, **values):
  page = pages.html["/tokens"](key_of(pages, g) | {"path": "2"} | values)
  return page, Page(page).text


def test_tokens_carry_what_the_store_keeps(pages):
  card, turn, why = turn_of(pages, 0, (1,))
  assert not card.kept and why == ""
  assert [t.id for t in turn] == [5, 6, 7]
  assert [t.logp for t in turn] == [-0.01, -1.0, -5.0]
  assert [t.version for t in turn] == [1, 1, 1]
  assert [t.text for t in turn] == ["[5]", "[6]", "[7]"]
  assert list(tokens.shown([turn])) == ["logp"]
  assert [t.id for t in tokens.outstanding(turn, "logp")] == [7, 6, 5]
  measure = tokens.MEASURES["logp"]
  assert [measure.level(t.logp, 5.0) for t in turn] == [0, 2, 4]


def test_tokens_carry_what_the_update_made_of_them(pages):
  card, turn, _ = turn_of(pages, 1, (2,))
  assert card.kept
  assert list(tokens.shown([turn])) == list(tokens.MEASURES)
  first, _, last = turn
  assert first.gap == pytest.approx(-1.09) and last.gap is None
  assert first.weight == 0.125 and last.weight is None
  assert first.clipped and not last.clipped
  assert first.value("advantage") == -2.0 and last.value("ratio") is None
  assert tokens.mean(turn, "entropy") == pytest.approx(0.7)
  assert len(tokens.outstanding(turn, "ratio")) == 2


def test_values_of_other_tokens_are_not_shown(pages):
  """The store has three tokens where two are kept."""
  card, turn, why = turn_of(pages, 2, (0,))
  assert card.kept and why == ""
  assert all(token.seen == {} for token in turn)


def test_levels_have_bounds():
  levels = {
    name: [measure.level(value, 2.0) for value in (0.0, 1.0, 1.1, 2.0)]
    for name, measure in tokens.MEASURES.items()
  }
  assert levels["gap"] == [0, 3, 4, 4]
  assert levels["entropy"] == [0, 2, 3, 3]
  assert levels["ratio"] == [4, 0, 2, 4]
  assert levels["weight"] == [4, 2, 2, 0]
  assert tokens.MEASURES["ratio"].level(math.exp(-0.3), 1.0) == 3
  assert tokens.MEASURES["weight"].level(0.0, 0.0) == 0
  assert all(m.level(None, 1.0) == 0 for m in tokens.MEASURES.values())


def test_a_page_marks_tokens_by_the_value_of_its_url(pages):
  page, text = shown(pages, by="ratio")
  assert re.findall(r'class="tok (t\d[^"]*)"', page) == [
    *("t3 clip", "t3 clip", "t0"),
  ]
  assert "Boxed: clipped, 2 of them" in text and "Mean 1.3" in text
  for name in ("gap -1.09", "entropy 0.7", "ratio 1.3", "weight 0.125"):
    assert name in page, name
  assert "Every token in a table" in text
  assert re.search(r'by=ratio[^>]*aria-current="true"', page)
  for by in ("", "absent", "<script>", "advantage"):
    page, text = shown(pages, by=by)
    assert "of the whole answer" in text and "<script>" not in page
    assert re.search(r'by=logp[^>]*aria-current="true"', page)


def test_a_page_without_kept_tokens_is_as_the_store_has_it(pages):
  _, text = shown(pages, 0)
  assert "Marked by" not in text and "clipped" not in text
  assert "least likely" in text


def test_a_list_finds_the_rollouts_whose_tokens_are_kept(pages):
  table = pages.session.catalogue.table()
  found, _ = pages.session.find(table, pages.session.parse({"tokens": "kept"}))
  names = [
    table.names[table.problem[table.group[row]]][0] for row in found.rows
  ]
  paths = [table.paths[table.path[row]] for row in found.rows]
  assert list(zip(names, paths)) == [("p-1", (2,)), ("p-2", (0,))] * 2
  group = Page(pages.html["/group"](key_of(pages, 1))).text
  assert group.count("with what the update made of them") == 1


def test_a_damaged_file_costs_its_values_alone(tmp_path):
  workdir = browsed.grpo_run(tmp_path)
  file = workdir / "rounds" / "000000" / kept.FILE
  made = browsed.pages(workdir)
  file.write_text("{\n{")
  _, text = shown(made, 1)
  assert "answer 2" in text and f"{kept.FILE}" in text
  damaged = browsed.pages(workdir)
  page = Page(damaged.html["/"]({})).text
  assert f"{kept.FILE}:1: not a JSON object" in page
  assert "p-1" in page
