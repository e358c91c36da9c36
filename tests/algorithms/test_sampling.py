"""Recipes: what is asked of whom, at which place of the tree."""

import asyncio
import dataclasses

from sophia_jax.algorithms import sampling
from sophia_jax.types import Chat, FinishReason, Problem, Prompt
from tests.algorithms.words import World

PROBLEM = Problem(id="p", question="How many?", answer="6", images=("a.png",))


def sampled(recipe, world=None):
  world = world or World()
  return asyncio.run(recipe(world, PROBLEM)), world


def test_attempts_are_of_the_policy_and_graded():
  group, world = sampled(
    sampling.attempts(3), World(right=lambda path: path == (1,))
  )
  assert [r.path for r in group.rollouts] == [(0,), (1,), (2,)]
  assert [r.rewards["accuracy"] for r in group.rollouts] == [0, 1, 0]
  assert {r.author for r in group.rollouts} == {"policy"}
  assert world.asked == [("policy", (i,), 0) for i in range(3)]
  for r in group.rollouts:
    assert isinstance(r.turns[0].prompt, Prompt)
    assert r.length == len(r.completion.token_ids)


def test_captions_are_the_policys_and_trajectories_the_reasoners():
  right = {(0, 0), (0, 2), (1, 1)}
  group, world = sampled(
    sampling.described(2, 3), World(right=lambda path: path in right)
  )
  paths = [r.path for r in group.rollouts]
  assert paths == sorted(paths) and len(paths) == 8
  captions, thoughts = group.depth(1), group.depth(2)
  assert [c.rewards["accuracy"] for c in captions] == [2 / 3, 1 / 3]
  assert {c.author for c in captions} == {"policy"}
  assert {t.author for t in thoughts} == {"reasoner"}
  assert [t for t in world.asked if len(t[1]) == 1] == [
    ("caption", (0,), 0),
    ("caption", (1,), 0),
  ]
  for t in thoughts:  # each is built on its own caption, and sees no image
    asked = t.turns[0].prompt
    assert isinstance(asked, Chat)
    assert asked.text == f"How many? caption{t.path[0]}"
    assert t.length == len(t.completion.text)


# --------------------------------------------------------------------- teachers
class Taught(World):
  """A world in which some teachers do not answer."""

  def __init__(self, ends):
    super().__init__()
    self._ends = ends

  async def ask(self, role, problem, path, prompt, turn=0):
    answer = await super().ask(role, problem, path, prompt, turn)
    end = self._ends.get(role, FinishReason.STOP)
    text = "down" if end is FinishReason.ABSENT else answer.text
    return dataclasses.replace(answer, finish_reason=end, text=text)


def authors(group):
  return [(r.path[0], r.author) for r in group.rollouts]


def test_a_teacher_s_caption_takes_the_place_of_the_policy_s():
  group, world = sampled(sampling.described(1, 2, sampling.CAPTIONER))
  (caption,) = group.depth(1)
  assert caption.author == "captioner"
  assert world.asked[0] == ("captioner", (0,), 0)
  (first, _) = group.depth(2)
  assert first.turns[0].prompt.text == "How many? captioner0"
  absent = Taught({"captioner": FinishReason.ABSENT})
  group, world = sampled(sampling.described(1, 2, "captioner"), absent)
  assert group.rollouts == () and len(world.asked) == 1


def test_teachers_take_the_places_after_the_policys():
  group, _ = sampled(sampling.with_teachers(2, ("big", "small", "big")))
  own = [(0, "policy"), (1, "policy")]
  assert authors(group) == [*own, (2, "big"), (3, "small"), (4, "big")]
  assert [r.rewards["accuracy"] for r in group.rollouts] == [1.0] * 5
  assert group.absent == ()
  alone, world = sampled(sampling.with_teachers(2, ()))
  assert authors(alone) == own
  assert world.asked == sampled(sampling.attempts(2))[1].asked


def test_an_absent_teachers_place_is_the_policys_or_nobodys():
  ends = {"big": FinishReason.ABSENT, "small": FinishReason.LENGTH}
  roles = ("big", "small", "other")
  group, world = sampled(sampling.with_teachers(1, roles), Taught(ends))
  assert authors(group) == [
    (0, "policy"),
    (1, "policy"),
    (2, "policy"),
    (3, "other"),
  ]
  assert group.absent == ("big/down", "small/cut")
  assert ("policy", (2,), 0) in world.asked
  left, _ = sampled(sampling.with_teachers(1, roles, False), Taught(ends))
  assert authors(left) == [(0, "policy"), (3, "other")]
  assert left.absent == group.absent
