"""From examples to weighted sequences: filters, cuts, reductions, counts."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from sophia_jax.algorithms import sft, sophia
from sophia_jax.algorithms.contract import Forward
from sophia_jax.algorithms.reductions import REDUCTIONS, sequence, square, token
from sophia_jax.data.chat import Renderer
from sophia_jax.data.filters import FilterConfig
from sophia_jax.train.sequences import prepare, truncated
from sophia_jax.types import Example, Role
from tests.data.data_samples import MARKS, SMALL, TURNS, byte_level


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer")
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=byte_level(TURNS), eos_token="<|im_end|>"
  )
  tokenizer.add_tokens(MARKS, special_tokens=True)
  tokenizer.save_pretrained(path)
  return Renderer(str(path), SMALL, tokens_per_tile=4, default_system="Look.")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  paths = [tmp_path_factory.mktemp("images") / f"{i}.png" for i in range(2)]
  for path in paths:
    Image.new("RGB", (56, 56)).save(path)
  return tuple(map(str, paths))


def example(i, response, images=(), **kw):
  return Example(
    id=str(i), question=f"q{i}", response=response, images=images, **kw
  )


SFT = sft.sft(sft.Config())
SOPHIA = sophia.sophia(sophia.Config())


def render(examples, renderer, reduction):
  return prepare(examples, renderer, reduction, FilterConfig(), 999)[0]


def loss(sequences, algorithm, logp=-2.0):
  """The loss of a batch whose every token has log-probability `logp`."""
  (term,) = algorithm.terms
  streams = {
    name: np.concatenate([s.streams[name] for s in sequences])
    for name in sequences[0].streams
  }
  out = Forward(logps=np.full_like(streams["count"], logp))
  batch = types.SimpleNamespace(streams=streams)
  value = streams[term.weights] * term.loss(out, batch)
  return float(value.sum() / streams[term.normaliser].sum())


# ------------------------------------------------------------------------ weights
@pytest.mark.parametrize("algorithm", [SOPHIA, SFT])
@pytest.mark.parametrize("reduction", REDUCTIONS.values())
def test_an_example_weighs_what_it_says(renderer, algorithm, reduction):
  """Twice the weight is twice the gradient, in whatever algorithm."""
  examples = [example(0, "yyyy"), example(1, "yyyyyyyyy")]
  double = [dataclasses.replace(e, weight=2.0) for e in examples]
  one = loss(render(examples, renderer, reduction), algorithm)
  two = loss(render(double, renderer, reduction), algorithm)
  assert two == pytest.approx(2 * one)


@pytest.mark.parametrize("algorithm", [SOPHIA, SFT])
def test_only_the_weighted_one_is_learnt(renderer, algorithm):
  examples = [example(0, "yyyy", weight=0.0), example(1, "yy", weight=0.5)]
  out, into = render(examples, renderer, token)
  assert set(algorithm.streams) <= set(out.streams)
  assert not out.streams["weights"].any()
  response = into.roles == Role.RESPONSE
  np.testing.assert_array_equal(into.streams["weights"], 0.5 * response)
  np.testing.assert_array_equal(into.streams["count"], response)


@pytest.mark.parametrize(
  ("reduction", "want"),
  # Responses of 4 and 9 tokens, each of loss 2.
  [("sum", 2 * 13 / 2), ("token", 2), ("sequence", 2), ("square", 2)],
)
def test_reductions(renderer, reduction, want):
  examples = [example(0, "yyy"), example(1, "y" * 8)]
  sequences = render(examples, renderer, REDUCTIONS[reduction])
  assert [(s.roles == Role.RESPONSE).sum() for s in sequences] == [4, 9]
  assert loss(sequences, SOPHIA) == pytest.approx(want)
  share = sequences[0].streams["weights"].sum()
  other = sequences[1].streams["weights"].sum()
  ratio = {"sum": 4 / 9, "token": 4 / 9, "sequence": 1, "square": 2 / 3}
  assert share / other == pytest.approx(ratio[reduction])


# --------------------------------------------------------------------- truncation
def test_a_cut_keeps_the_images_whole(renderer, images):
  """At every length: whole images and a piece of the response, or nothing."""
  (whole,) = render([example(0, "y" * 20, images)], renderer, token)
  last_image = np.flatnonzero(whole.roles == Role.IMAGE)[-1]
  first_answer = np.flatnonzero(whole.roles == Role.RESPONSE)[0]
  assert last_image < first_answer
  for length in range(1, len(whole) + 3):
    cut = truncated(whole, length)
    if length <= first_answer:
      assert cut is None
      continue
    assert len(cut) == min(length, len(whole))
    assert (cut.roles == Role.IMAGE).sum() == 4 * sum(cut.tiles) == 8
    assert cut.images == images
    np.testing.assert_array_equal(cut.token_ids, whole.token_ids[:length])
    assert all(len(s) == len(cut) for s in cut.streams.values())


def test_an_image_after_the_cut_is_not_lost(renderer, images):
  (whole,) = render([example(0, "y" * 20, images)], renderer, token)
  roles = whole.roles.copy()
  roles[-2:] = Role.IMAGE
  shown_later = dataclasses.replace(whole, roles=roles)
  assert truncated(shown_later, len(whole) - 1) is None


# --------------------------------------------------------------------- preparation
def test_nothing_is_filtered_or_cut_unless_asked(renderer, images):
  examples = [example(i, "y" * i, images[: i % 3]) for i in range(6)]
  made, counts = prepare(examples, renderer, square, FilterConfig(), 9)
  assert [s.id for s in made] == [e.id for e in examples]
  assert max(len(s) for s in made) > 9
  assert counts["kept"] == counts["examples"] == len(made) == 6
  assert counts["truncated"] == 0
  assert [size.length for size in made.sizes] == [len(s) for s in made]


def test_cuts_are_counted_and_reduced_over_what_is_left(renderer, images):
  (short,) = render([example(0, "yy", images)], renderer, sequence)
  length = len(short)
  examples = [
    example(0, "yy", images),
    example(1, "y" * 30, images),
    example(2, "y" * 30, images * 3),
  ]
  config = FilterConfig(truncate=True)
  made, counts = prepare(examples, renderer, sequence, config, length)
  assert (counts["truncated"], counts["kept"]) == (1, 3)
  assert [len(s) <= length for s in made] == [True, True, False]
  for s in made:
    assert s.streams["weights"].sum() == pytest.approx(1)
  assert made[1].token_ids[-1] != renderer.end_id, "it does not end there"


def test_filters_count_tokens_of_the_response(renderer):
  examples = [example(i, "y " * i) for i in range(1, 6)]
  tokens = renderer.counts([e.response for e in examples])
  config = FilterConfig(max_tokens=tokens[2])
  made, counts = prepare(examples, renderer, token, config, 99)
  assert [s.id for s in made] == ["1", "2", "3"]
  assert (counts["long"], counts["kept"]) == (2, 3)
