"""A group's selection and advantages are those that a run learns from."""

import dataclasses

import pytest

from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Moment
from sophia_jax.evals.browser import groups as trees
from sophia_jax.evals.browser import views
from sophia_jax.rollout import taken
from sophia_jax.rollout.records import Graded
from sophia_jax.rollout.store import round_directory
from sophia_jax.types import Problem, SophiaError, Status, Verdict
from tests.evals.browser import browsed


@pytest.fixture(scope="module")
def sophia(tmp_path_factory):
  return browsed.pages(browsed.sophia_run(tmp_path_factory.mktemp("s"))).session


@pytest.fixture(scope="module")
def grpo(tmp_path_factory):
  return browsed.pages(browsed.grpo_run(tmp_path_factory.mktemp("g"))).session


def test_what_is_selected_is_what_the_method_selects(sophia):
  table = sophia.catalogue.table()
  whys = set()
  for g in range(table.groups):
    view = views.group(sophia, table, g)
    place = view.place
    group, complete = trees.read(
      list(sophia.catalogue.records(table, g)), view.problem, place.algorithm
    )
    assert complete and view.complete
    scored = credit.rewarded([group], place.algorithm.reward, Moment())
    kept = place.algorithm.select(scored, Moment())
    chosen = {r.path for k in kept for r in k.rollouts if r.verdict}
    cards = list(view.cards)
    assert {c.rollout.path for c in cards if c.selected} == chosen
    assert all(c.why for c in cards)
    assert all((c.advantage == 1.0) == bool(c.selected) for c in cards)
    whys |= {c.why for c in cards}
  assert whys == {
    "selected",
    "not right",
    "right, and not among the 1 kept",
    "R(c) = 0.33, not above 0.7",
    "R(c) = 0.67, not above 0.7",
  }


def test_the_best_come_first(sophia):
  table = sophia.catalogue.table()
  for g in range(table.groups):
    view = views.group(sophia, table, g)
    captions = [branch.caption.value for branch in view.branches]
    assert captions == sorted(captions, reverse=True)
    for branch in view.branches:
      values = [card.value for card in branch.cards]
      assert values == sorted(values, reverse=True)
      assert branch.caption.value == pytest.approx(sum(values) / 3)


def test_advantages_are_the_methods(grpo):
  table = grpo.catalogue.table()
  seen = set()
  for g in range(table.groups):
    view = views.group(grpo, table, g)
    method = view.place.algorithm
    rewards = [c.value for c in view.cards]
    seen.add(sum(rewards))
    mean = sum(rewards) / 4
    std = (sum((r - mean) ** 2 for r in rewards) / 3) ** 0.5
    for card in view.cards:
      expected = (card.value - mean) / (std + 1e-6)
      assert card.advantage == pytest.approx(expected, abs=1e-5)
      assert card.age == 0
    assert method.credit is not None
  assert len(seen) > 2


def test_a_round_that_had_enough_leaves_the_rest_unselected(tmp_path):
  workdir = browsed.grpo_run(tmp_path)
  taken.write(round_directory(workdir, 0), ["p-2", "p-0"])
  session = browsed.pages(workdir).session
  table = session.catalogue.table()
  chosen, whys = set(), set()
  for g in range(table.groups):
    view = views.group(session, table, g)
    if any(card.selected for card in view.cards):
      chosen.add((view.place.round, view.problem.id))
    elif view.problem.id == "p-1":
      whys = {card.why for card in view.cards}
  assert {name for number, name in chosen if number == 0} == {"p-0", "p-2"}
  assert len({name for number, name in chosen if number == 1}) > 2
  assert whys == {"left out by the selection, or the round had enough groups"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"problems": [1]}'])
def test_a_damaged_list_of_taken_groups_is_one_line(tmp_path, text):
  (tmp_path / taken.FILE).write_text(text)
  with pytest.raises(SophiaError, match=r"taken\.json: .*remove it") as e:
    taken.read(tmp_path)
  assert "\n" not in str(e.value)


def test_a_group_in_the_making_shows_what_is_there(grpo):
  table = grpo.catalogue.table()
  records = list(grpo.catalogue.records(table, 1))
  place = table.places[table.place[1]]
  problem = grpo.problem(table, 1)
  lost = [r for r in records if not (isinstance(r, Graded) and r.path == (2,))]
  group, complete = trees.read(lost, problem, place.algorithm)
  assert not complete
  assert [r.path for r in group.rollouts] == [(0,), (1,), (2,), (3,)]
  assert [r.verdict is None for r in group.rollouts] == [
    False,
    False,
    True,
    False,
  ]
  whole, complete = trees.read(records, problem, place.algorithm)
  assert complete and len(whole.rollouts) == 4
  unknown, complete = trees.read(records, problem, None)
  assert not complete and len(unknown.rollouts) == 4


def test_records_of_another_method_are_shown_without_a_selection(grpo, sophia):
  table = grpo.catalogue.table()
  records = list(grpo.catalogue.records(table, 1))
  other = sophia.catalogue.table().places[0].algorithm
  group, complete = trees.read(records, grpo.problem(table, 1), other)
  assert (len(group.rollouts), complete) == (4, False)


def test_a_difference_is_by_words():
  pieces = views.difference("so the answer is 6", "so an answer is 7 <b>")
  assert ("gone", "the") in pieces and ("new", "an") in pieces
  assert ("new", "7 <b>") in pieces
  old = " ".join(text for kind, text in pieces if kind != "new")
  assert old == "so the answer is 6"


def test_episodes_are_graded_by_playing_them_again(tmp_path):
  session = browsed.pages(browsed.episode_run(tmp_path)).session
  assert (session.table().status == -1).all()  # their store has no grades
  session.decide_all(session.table())
  table = session.table()
  assert table.mean.tolist() == pytest.approx([1 / 3, 1 / 3])
  assert table.graded.tolist() == [3, 3]
  for values, rows in (
    ({"status": "right"}, 2),
    ({"status": "wrong", "question": "lake-1"}, 2),
    ({"group": "mixed"}, 6),
    ({"reward_min": "1"}, 2),
  ):
    found, _ = session.find(table, session.parse(values))
    assert len(found.rows) == rows, values
  view = views.group(session, table, 0)
  assert view.played and view.mean == pytest.approx(1 / 3)
  (first, *_, last) = view.cards
  assert first.shown(0) == ""
  assert first.shown(1).startswith("Reward: 0\n") and "P" in first.shown(1)
  assert (first.turn_reward(1), last.turn_reward(1)) == (1, 0)


def test_an_episode_says_how_it_ended(grpo):
  card = next(views.group(grpo, grpo.catalogue.table(), 0).cards)
  rewards = {"turns": (0.0, 1.0), "ended_done": 1.0, "ended_limit": 0.0}
  rollout = dataclasses.replace(
    card.rollout,
    rewards=rewards,
    turns=card.rollout.turns * 2,
    verdict=Verdict(status=Status.RIGHT),
  )
  problem = Problem(id="p", question="", answer="")
  said = views.explained(rollout, problem)
  assert said == "the goal was reached; the episode ended by done"
  played = dataclasses.replace(card, rollout=rollout)
  assert played.parts == [("ended_done", 1.0)]
  assert [played.turn_reward(n) for n in (0, 1)] == [0.0, 1.0]
  assert card.turn_reward(0) is None
