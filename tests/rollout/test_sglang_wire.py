"""Whatever a server sends, reading it ends in a value, Trouble or SophiaError."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.rollout import wire
from sophia_jax.types import FinishReason, Sampling, SophiaError

HOW = Sampling(max_new_tokens=4)
GENERATED = {
  "text": "a",
  "meta_info": {
    "prompt_tokens": 3,
    "finish_reason": {"type": "length", "length": 2},
    "output_token_logprobs": [[-0.5, 7, None], [0, 9, "b"]],
  },
}
CHATTED = {
  "choices": [
    {
      "message": {"content": "a", "reasoning_content": None},
      "finish_reason": "stop",
    }
  ],
  "usage": {"completion_tokens": 1},
}

JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(max_size=5)
  | st.sampled_from(["stop", "length", "abort"]),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
  max_leaves=6,
)


def places(value, path=()):
  """The path of everything in a JSON value."""
  yield path
  items = value.items() if isinstance(value, dict) else ()
  items = enumerate(value) if isinstance(value, list) else items
  for key, inner in items:
    yield from places(inner, (*path, key))


def replaced(value, path, new):
  if not path:
    return new
  copy = json.loads(json.dumps(value))
  *front, last = path
  inner = copy
  for key in front:
    inner = inner[key]
  inner[last] = new
  return copy


def read_generated(answer):
  return wire.read_generated(answer, 3, HOW, 20, "request a: http://b")


def test_good_answers():
  ids, logps, reason, _ = read_generated(GENERATED)
  assert ids == (7, 9)
  assert logps == (-0.5, 0.0)
  assert reason is FinishReason.LENGTH
  assert wire.read_chat(CHATTED) == ("a", FinishReason.STOP)


@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_one_thing_is_something_else(data):
  answer, read = data.draw(
    st.sampled_from([(GENERATED, read_generated), (CHATTED, wire.read_chat)])
  )
  path = data.draw(st.sampled_from(list(places(answer))))
  spoilt = replaced(answer, path, data.draw(JSON))
  with contextlib.suppress(wire.Trouble, SophiaError):
    read(spoilt)


@given(info=JSON, models=JSON)
@settings(deadline=None)
def test_names_and_lengths_of_nonsense(info, models):
  for found in (models, {"data": models}, {"data": [models]}):
    assert all(isinstance(n, str) for n in wire.model_names(info, found))
    assert isinstance(wire.context_length(found), int | None)
    with pytest.raises(wire.Trouble):
      wire.prompt_tokens(found)


def test_a_number_no_float_holds_is_trouble():
  triples = [[-(10**400), 7, None]]
  path = ("meta_info", "output_token_logprobs")
  with pytest.raises(wire.Trouble):
    read_generated(replaced(GENERATED, path, triples))
