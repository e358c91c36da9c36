"""Descriptions for images: consecutive frames are shown, texts take their place."""

import asyncio

import pytest

from sophia_jax.algorithms import describe
from sophia_jax.algorithms.registry import build
from sophia_jax.rollout import roles
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.types import FinishReason, Problem, SophiaError
from tests.algorithms import rows, words

PROMPTS = Prompts(first_view="First. {question}", next_view="Then. {question}")


def video(frames, name="p", **values):
  images = tuple(f"/{i}.png" for i in range(frames))
  return Problem(
    id=name, question="Which way?", answer="B", images=images, **values
  )


class World(words.World):
  """Describes the frame at each place; `absent` places have no answer."""

  def __init__(self, absent=(), text=lambda i: f"Frame\n {i}."):
    super().__init__()
    self._absent, self._text, self.shown = absent, text, {}

  async def ask(self, role, problem, path, prompt, turn=0):
    self.asked.append((role, path, turn))
    self.shown[path] = (prompt.text, prompt.images)
    if path in self._absent:
      return rows.completion((), text="none", reason=FinishReason.ABSENT)
    return rows.completion((), text=self._text(path[0]))

  def prompt(self, template, problem, **context):
    return roles.TEACHERS[template](None, PROMPTS)(problem, **context)


def sampled(world, problem, **config):
  return asyncio.run(build("describe", config).sample(world, problem))


def written(*groups):
  return build("describe", {}).files(groups, words.Letters())


def test_the_describer_sees_each_frame_with_the_one_before():
  world = World()
  group = sampled(world, video(3, choices=("up", "down")))
  question = "Which way?\nA. up\nB. down"
  assert world.shown == {
    (0,): (f"First. {question}", ("/0.png",)),
    (1,): (f"Then. {question}", ("/0.png", "/1.png")),
    (2,): (f"Then. {question}", ("/1.png", "/2.png")),
  }
  assert {role for role, *_ in world.asked} == {"describer"}
  assert [r.author for r in group.rollouts] == ["describer"] * 3


@pytest.mark.parametrize(
  ("before", "shown"), [(0, [1, 1, 1, 1]), (1, [1, 2, 2, 2]), (2, [1, 2, 3, 3])]
)
def test_as_many_frames_before_are_shown_as_the_config_says(before, shown):
  world = World()
  sampled(world, video(4), before=before)
  assert [len(images) for _, images in world.shown.values()] == shown


def test_descriptions_take_the_place_of_the_images():
  asked = video(2, choices=("up", "down"), hint="Look well.", source="motion")
  (found,) = written(sampled(World(), asked))["described.jsonl"]
  assert found.images == ()
  assert found.text == (
    "View 1: Frame 0.\nView 2: Frame 1.\nLook well.\nWhich way?\nA. up\nB. down"
  )
  # A reader is not shown the descriptions.
  assert found.bare == "Look well.\nWhich way?\nA. up\nB. down"
  kept = ("id", "answer", "choices", "source", "answer_type")
  assert all(getattr(found, k) == getattr(asked, k) for k in kept)


def test_a_problem_without_all_its_descriptions_is_left_out():
  groups = [
    sampled(World(), video(2, "whole")),
    sampled(World(absent=[(1,)]), video(2, "absent")),
    sampled(World(text=lambda i: " \n" * i), video(2, "empty")),
  ]
  found = written(*groups)
  assert [p.id for p in found["described.jsonl"]] == ["whole"]
  assert [p.id for p in found["left_out.jsonl"]] == ["absent", "empty"]
  assert found["left_out.jsonl"][0].images


def test_where_nothing_is_described_it_is_one_line():
  group = sampled(World(absent=[(0,)]), video(1))
  with pytest.raises(SophiaError, match="of 1 problems none has all"):
    written(group)


def test_a_problem_without_frames_is_refused():
  with pytest.raises(SophiaError, match="problem p: no frames to describe"):
    describe.check(video(0))
