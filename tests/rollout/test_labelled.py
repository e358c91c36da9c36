"""Labels from servers: stored like any answer, replayed, asked once."""

import pytest

from sophia_jax.algorithms import labels
from sophia_jax.rewards.facts import KINDS
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.types import Chat, Problem, SophiaError
from tests.rollout import lives
from tests.rollout.lives import Scripted, seats, words

RECIPE = labels.labelled(2, labels.by_models)
FACTS = "1 | attribute | The ink is red.\n2 | object | A cat is there."


def engines(checker=lambda name: "Yes"):
  return {
    "policy": Scripted(lambda name: "The ink is red. A cat."),
    "extractor": Scripted(lambda name: FACTS),
    "checker": Scripted(checker),
  }


def sampled(store, **asked):
  world = World(store, seats(**asked), lives.Counted())
  return list(collect(words(3), RECIPE, world))


def test_labels_are_stored_and_what_is_stored_is_not_asked_again(tmp_path):
  def dies(name):
    if name.startswith("w2"):
      raise SophiaError("the server is gone")
    return "No" if ".1" in name else "yes"

  first, second = engines(dies), engines(lambda n: "No" if ".1" in n else "yes")
  with (
    Store(tmp_path / "s", lives.META) as store,
    pytest.raises(SophiaError, match="gone"),
  ):
    sampled(store, **first)
  with Store(tmp_path / "s", lives.META) as store:
    found = sampled(store, **second)
  with Store(tmp_path / "s", read_only=True) as store:
    again = sampled(store, policy={}, extractor={}, checker={})
  assert lives.bare(found) == lives.bare(again)
  for group in found:
    for rollout in group.rollouts:
      labels_of = [rollout.rewards[kind] for kind in KINDS]
      assert labels_of == [(-1, 1), (0, -1), (-1, -1)]
  # Six descriptions of two facts: nothing that the store has is asked twice.
  for role, count in (("policy", 6), ("extractor", 6), ("checker", 12)):
    asked = first[role].asked + second[role].asked
    assert len({*asked}) == count
    answered = {n for n in first[role].asked if not n.startswith("w2")}
    assert role != "extractor" or answered.isdisjoint(second[role].asked)


def test_the_extractor_sees_clauses_and_the_checker_an_image():
  problem = Problem(id="p", question="?", answer="-", images=("a.png",))
  asked = roles.seats(
    None, Prompts(), asked=(labels.EXTRACTOR, labels.CHECKER, "teacher")
  )
  facts = asked[labels.EXTRACTOR].prompt(problem, text="1. It is {red}.")
  assert isinstance(facts, Chat) and facts.images == ()
  assert facts.text.endswith("Clauses:\n1. It is {red}.")
  check = asked[labels.CHECKER].prompt(problem, text="It is red.")
  assert check.images == ("a.png",) and check.text.endswith("It is red.")
  assert asked["teacher"].prompt(problem).text == "?"
