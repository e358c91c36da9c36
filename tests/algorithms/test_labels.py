"""Labels of clauses: exact ones, those of models, and what models write wrong."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import labels
from sophia_jax.algorithms.labels import CHECKER, EXTRACTOR
from sophia_jax.digits import language
from sophia_jax.rewards.facts import ABSENT, KINDS, RIGHT, UNKNOWN, WRONG
from sophia_jax.types import Chat, FinishReason, Problem, Status
from tests.algorithms import rows, words

TRUE = language.description((3, 5), "red", "white")
SAID = "The ink is blue. The left digit is 3, the right digit is 6. Nice."
PROBLEM = Problem(id="p", question="?", answer=TRUE)


class World(words.World):
  """The policy says `said`; other roles answer by rule."""

  def __init__(self, said=SAID, extractor="", checker=lambda fact: "yes"):
    super().__init__()
    self.said, self.extractor, self.checker = said, extractor, checker
    self.prompts = []

  async def ask(self, role, problem, path, prompt, turn=0):
    self.asked.append((role, path, turn))
    if role == "policy":
      ids = [*words.encode(self.said), words.END]
      return rows.completion(ids, [-0.5] * len(ids), text=self.said)
    self.prompts.append(prompt.text)
    text = self.checker(prompt.text) if role == CHECKER else self.extractor
    reason = FinishReason.STOP if text is not None else FinishReason.ABSENT
    return rows.completion(
      [1], reason=reason, text="down" if text is None else text
    )

  def prompt(self, template, problem, **context):
    if template in (EXTRACTOR, CHECKER):
      return Chat(text=context["text"], images=problem.images)
    return super().prompt(template, problem)

  def chance(self, problem, path):
    return 7 + path[0]


def sampled(label, world=None, n=1):
  world = world or World()
  recipe = labels.labelled(n, label)
  return asyncio.run(recipe(world, PROBLEM)).rollouts


def found(rollout):
  return [tuple(map(int, rollout.rewards[kind])) for kind in KINDS]


# ------------------------------------------------------------------------ exact
def test_labels_of_a_known_scene_are_exact():
  (rollout,) = sampled(labels.by_reference(0.0))
  assert found(rollout) == [
    (ABSENT, RIGHT, WRONG, ABSENT),
    (WRONG, ABSENT, ABSENT, ABSENT),
    (ABSENT,) * 4,
  ]
  assert rollout.rewards["clauses"] == 4
  assert rollout.rewards["accuracy"] == 0
  (right,) = sampled(labels.by_reference(0.0), World(TRUE))
  assert right.rewards["accuracy"] == 1


def test_noise_swaps_right_and_wrong_in_its_share_and_nothing_else():
  exact = sampled(labels.by_reference(0.0), n=200)
  noisy = sampled(labels.by_reference(0.2), n=200)
  again = sampled(labels.by_reference(0.2), n=200)
  assert [*map(found, noisy)] == [*map(found, again)]
  swapped = stated = 0
  for one, other in zip(exact, noisy):
    for a, b in zip(sum(found(one), ()), sum(found(other), ())):
      assert {a, b} == {ABSENT} or {a, b} <= {RIGHT, WRONG}
      stated += a != ABSENT
      swapped += a != b
  assert 0.1 < swapped / stated < 0.3


def test_errors_of_a_description_are_counted_by_kind():
  recipe = labels.counted(labels.described(1))
  (rollout,) = asyncio.run(recipe(World(), PROBLEM)).rollouts
  parts = rollout.rewards
  assert [parts[f"wrong_{kind}"] for kind in KINDS] == [1, 1, 0]
  assert (parts["wrong"], parts["missing"], parts["silent"]) == (2, 0, 1)
  assert parts["accuracy"] == 0 and rollout.verdict.status is Status.WRONG
  (right,) = asyncio.run(recipe(World(TRUE), PROBLEM)).rollouts
  assert right.rewards["accuracy"] == 1
  assert right.verdict.status is Status.RIGHT
  (silent,) = asyncio.run(recipe(World(" "), PROBLEM)).rollouts
  assert silent.rewards["accuracy"] == silent.rewards["clauses"] == 0
  assert silent.rewards["missing"] == 2
  assert silent.verdict.status is Status.UNPARSEABLE


# ----------------------------------------------------------------------- models
LISTED = """\
1 | attribute | The ink is blue.
2 | object | There is a 3.
2 | Object | The 3 is on the left.
3 | object | There is a 6.
3 | relation | The 6 is right of the 3.
"""


def test_facts_are_listed_once_and_checked_one_by_one():
  world = World(
    extractor=LISTED, checker=lambda f: f"**{'No' if '6' in f else 'Yes'}**."
  )
  (rollout,) = sampled(labels.by_models, world)
  assert found(rollout) == [
    (ABSENT, RIGHT, WRONG, ABSENT),
    (RIGHT, ABSENT, ABSENT, ABSENT),
    (ABSENT, ABSENT, WRONG, ABSENT),
  ]
  asked = [a for a in world.asked if a[0] != "policy"]
  assert asked == [(EXTRACTOR, (0,), 0)] + [
    (CHECKER, (0,), turn) for turn in range(5)
  ]
  assert world.prompts[0].splitlines()[1] == "2. The left digit is 3,"
  assert rollout.rewards["unread"] == rollout.rewards["unchecked"] == 0


def test_a_checker_that_decides_nothing_leaves_labels_unknown():
  says = lambda fact: None if "6" in fact else "perhaps, yes"
  world = World(extractor=LISTED, checker=says)
  (rollout,) = sampled(labels.by_models, world)
  assert found(rollout)[0] == (ABSENT, UNKNOWN, UNKNOWN, ABSENT)
  assert rollout.rewards["unchecked"] == 5


@pytest.mark.parametrize(
  ("said", "unread"),
  [
    (None, 0),
    ("", 0),
    ("I see a red ink.\nAnd a 3.", 2),
    ("9 | object | far\n0 | object | none\n2 | colour | x\n2 | object |", 4),
    ("<think>1 | object | not yet</think>", 0),
    ("{'1': __import__('os')}", 1),
  ],
)
def test_an_extractor_that_cannot_be_read_labels_nothing(said, unread):
  world = World(extractor=said)
  (rollout,) = sampled(labels.by_models, world)
  assert found(rollout) == [(UNKNOWN,) * 4] * 3
  assert rollout.rewards["unread"] == unread
  assert not [a for a in world.asked if a[0] == CHECKER]


def test_a_response_without_a_clause_asks_nobody():
  world = World(said=" ")
  (rollout,) = sampled(labels.by_models, world)
  assert found(rollout) == [()] * 3
  assert {role for role, *_ in world.asked} == {"policy"}


@given(st.text(max_size=300) | st.text("1|objectrelation \n", max_size=300))
def test_whatever_models_write_is_read_within_limits(text):
  said = rows.completion([1], text=text * 100)
  listed, unread = labels.read_facts(said, 5)
  assert len(listed) <= 64 and unread >= 0
  for clause, kind, fact in listed:
    assert 0 <= clause < 5 and kind in KINDS and 0 < len(fact) <= 400
  assert labels.read_verdict(said) in (True, False, None)
