"""Clauses: spans partition a response, and end where tokens end."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import clauses
from sophia_jax.digits import language
from sophia_jax.types import FinishReason
from tests.algorithms import rows
from tests.rollout import little

PIECES = (
  *("The left digit is 3", " red", "a", ", ", "; ", ".", "! ", "?", "\n", " "),
  *(" one two three four five", "e.g. ", "Dr. Who", '."', "3.5", "é", "。"),
  *("\ufffd", "\U0001f600", "</think>", "\x00"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text(
  max_size=40
)


def spans(text):
  return [text[c.start : c.stop] for c in clauses.split(text)]


@given(texts)
def test_spans_partition_the_response(text):
  found = clauses.split(text)
  assert "".join(spans(text)) == (text if text.strip() else "")
  for clause in found:
    said = text[clause.start : clause.end]
    assert said.strip() and said == said.rstrip()
    assert not text[clause.end : clause.stop].strip()
  for one, other in itertools.pairwise(found):
    assert one.stop == other.start


@given(texts)
def test_a_sentence_is_cut_where_both_sides_have_five_words(text):
  sentence = text.replace("\n", " ").translate(dict.fromkeys(map(ord, ".。!?")))
  count = lambda said: len(clauses._WORD.findall(said))
  parts = spans(sentence)
  if len(parts) > 1:
    assert all(count(part) >= clauses.LEAST for part in parts)


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("", []),
    (" \n ", []),
    ("Red.", ["Red."]),
    (
      "The left digit is 3, the right digit is 5. It is red.",
      ["The left digit is 3,", " the right digit is 5.", " It is red."],
    ),
    (
      "Two dogs, and a red cat sit here.",
      ["Two dogs, and a red cat sit here."],
    ),
    ("Dr. Who is at 3.5 m.\n- a cat", ["Dr. Who is at 3.5 m.", "\n- a cat"]),
    ('He says "no!" Then he goes.  ', ['He says "no!"', " Then he goes.  "]),
  ],
)
def test_clauses_of_known_texts(text, want):
  assert spans(text) == want


def test_a_long_response_has_a_last_clause_with_the_rest():
  text = "A b. " * 500
  found = clauses.split(text)
  assert len(found) == clauses.MOST and found[-1].stop == len(text)


def test_a_clause_that_was_cut_off_is_none():
  said = lambda reason: rows.completion([1], reason=reason, text="A b. C d")
  assert len(clauses.finished(said(FinishReason.STOP))) == 2
  assert clauses.texts(said(FinishReason.LENGTH)) == ["A b."]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  return little.renderer(str(tmp_path_factory.mktemp("words")), True)


def test_ends_are_the_tokens_that_complete_a_clause(words):
  @given(texts)
  def check(text):
    ids = [int(i) for i in words.response_ids(text)]
    text = words.decode(ids)
    found = clauses.split(text)
    ends = clauses.token_ends(text, found, ids, words.decode)
    assert len(ends) == len(found) and ends == sorted(ends)
    for clause, end in zip(found, ends):
      assert words.decode(ids[: end + 1])[: clause.end] == text[: clause.end]
      assert words.decode(ids[:end])[: clause.end] != text[: clause.end]

  check()


def test_ends_of_a_description_are_its_marks(words):
  text = language.description((3, 8, 5), "red", "white")
  ids = words.response_ids(text)
  ends = clauses.token_ends(text, clauses.split(text), ids, words.decode)
  assert [words.decode(ids[[i]]) for i in ends] == [
    ".",
    ".",
    ",",
    ",",
    ".",
    ".",
  ]
  assert ends[-1] == len(ids) - 2  # the end of the turn is of no clause


def test_ids_that_decode_to_another_text_still_have_ends(words):
  ids = np.append(words.encode("It is red. It is ink."), words.end_id)
  other = "It is red.. It is ink...."
  ends = clauses.token_ends(other, clauses.split(other), ids, words.decode)
  assert len(ends) == 2 and 0 <= ends[0] <= ends[1] < len(ids)
