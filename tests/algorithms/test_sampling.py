"""Recipes: what is asked of whom, at which place of the tree."""

import asyncio

import numpy as np

from sophia_jax.algorithms import sampling
from sophia_jax.types import Chat, Problem, Prompt
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


def test_a_teacher_takes_the_place_after_the_last():
  group, _ = sampled(sampling.with_teacher(sampling.attempts(2)))
  assert [r.author for r in group.rollouts] == ["policy", "policy", "teacher"]
  assert [r.path for r in group.rollouts] == [(0,), (1,), (2,)]
  np.testing.assert_equal(group.rollouts[2].rewards["accuracy"], 1.0)
