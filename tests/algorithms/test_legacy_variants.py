"""The variants of Table A2: DI learns captions too, H writes them first."""

import dataclasses

import pytest

from sophia_jax.algorithms.legacy.sophia import (
  SophiaConfig,
  credit,
  system_prompt,
)
from sophia_jax.types import FinishReason, Problem
from tests import sampled

THINK = "Think slowly."
DESCRIBE = "Describe the image."


def group(rows, images=("apples.png",), cut=()):
  """Statuses [k][n] -> a group; captions `cut` were ended by length."""
  reason = lambda k: FinishReason.LENGTH if k in cut else FinishReason.STOP
  return sampled.tree(
    Problem(id="p", question="How many?", answer="6", images=images),
    [sampled.completion(f"seen {k}\n", reason(k)) for k in range(len(rows))],
    [
      [
        (f"<think>{k}{n}</think> 6", sampled.status(right), 10 * k + n)
        for n, right in enumerate(row)
      ]
      for k, row in enumerate(rows)
    ],
  )


# Captions 0 and 2 are perfect, 1 is good, 3 is bad.
TOY = group([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]])


def learnt(toy=TOY, **config):
  return credit(toy, SophiaConfig(**config), THINK, DESCRIBE)


def test_both_are_off_by_default():
  (only,) = learnt()
  assert only.response == "<think>00</think> 6"
  assert only == credit(TOY, SophiaConfig(), THINK)[0]


def test_di_adds_every_perfect_caption():
  """(x_d, v, c) with R(c) = 1, whatever alpha is."""
  first, *captions = learnt(describe=True, alpha=0.5)
  assert [first] == learnt(alpha=0.5)
  assert [e.id for e in captions] == ["p/0", "p/2"]
  for e, k in zip(captions, (0, 2)):
    assert e.question == DESCRIBE
    assert e.response == f"seen {k}\n"
    assert e.images == ("apples.png",)
    assert e.system is None, "captions are sampled under the default"
    assert e.weight == 1.0


def test_di_has_captions_where_no_trajectory_is_selected():
  examples = learnt(describe=True, alpha=1.0)
  assert [e.id for e in examples] == ["p/0", "p/2"]


def test_di_leaves_out_what_has_no_end_and_what_shows_nothing():
  rows = [[1, 1], [1, 1]]
  cut = learnt(group(rows, cut=(0,)), describe=True)
  assert [e.id for e in cut] == ["p/0/0", "p/1"]
  text = learnt(group(rows, images=()), describe=True)
  assert [e.id for e in text] == ["p/0/0"]


def test_h_puts_the_caption_before_the_trajectory():
  """The caption it was built on, with the trajectory's own system prompt."""
  two = learnt(caption_first=True, keep_n=5)
  assert [e.response for e in two] == [
    f"seen {k}\n\n<think>{k}{n}</think> 6"
    for k, n in [(0, 0), (0, 1), (0, 2), (0, 3), (2, 0)]
  ]
  assert {e.system for e in two} == {THINK}
  assert {e.question for e in two} == {"How many?"}


def test_h_finds_the_caption_by_its_number():
  mixed = dataclasses.replace(TOY, captions=TOY.captions[::-1])
  assert learnt(mixed, caption_first=True) == learnt(caption_first=True)


def test_h_does_not_think_because_the_caption_shows_a_tag():
  """The system prompt is the trajectory's affair."""
  shown = dataclasses.replace(
    TOY.captions[0], completion=sampled.completion("a page with <think> on it")
  )
  plain = dataclasses.replace(
    TOY.trajectories[0][0], completion=sampled.completion("plain")
  )
  toy = dataclasses.replace(TOY, captions=(shown,), trajectories=((plain,),))
  (only,) = learnt(toy, caption_first=True)
  assert only.response == "a page with <think> on it\n\nplain"
  assert only.system is None


@pytest.mark.parametrize(
  ("response", "system"),
  [("<think>a</think> b", THINK), ("a", None), ("think", None)],
)
def test_what_thinks_in_tags_is_told_to(response, system):
  assert system_prompt(response, THINK) == system
