"""Digests of problems: whatever was asked or graded changes them."""

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sophia_jax.data.problems import asked_digest, problem_digest
from sophia_jax.types import Problem, SophiaError

ASKED = Problem(
  id="mv-17",
  question="How many?",
  answer="B",
  answer_type="choice",
  choices=("5", "6"),
  hint="Count.",
)
GRADED = {
  "answer": "A",
  "accepted": ("A",),
  "answer_type": "auto",
  "tolerance": (0.1,),
}
WORDED = {
  "question": "How many apples?",
  "choices": ("5", "7"),
  "hint": "Look.",
}
LABELS = {
  "id": "mv-18",
  "difficulty": "hard",
  "source": "mv",
  "tags": {"level": "3"},
}
TEXTS = st.text(st.characters(), max_size=8)
PROBLEMS = st.builds(
  Problem,
  id=st.just("x"),
  question=TEXTS,
  answer=TEXTS,
  hint=TEXTS,
  choices=st.lists(TEXTS, max_size=3).map(tuple),
  tolerance=st.lists(st.floats(0, 1), max_size=2).map(tuple),
)


def test_every_field_is_decided():
  fields = {field.name for field in dataclasses.fields(Problem)}
  assert fields == {*GRADED, *WORDED, *LABELS, "images"}


@pytest.mark.parametrize("field", [*WORDED, *GRADED])
def test_what_is_asked_or_graded_changes_the_digest(field):
  changed = dataclasses.replace(ASKED, **{field: {**WORDED, **GRADED}[field]})
  assert problem_digest(changed) != problem_digest(ASKED)
  # A response stays when only its grading changes.
  assert (asked_digest(changed) == asked_digest(ASKED)) == (field in GRADED)


@pytest.mark.parametrize("field", LABELS)
def test_labels_do_not(field):
  changed = dataclasses.replace(ASKED, **{field: LABELS[field]})
  assert problem_digest(changed) == problem_digest(ASKED)


@given(PROBLEMS, PROBLEMS)
def test_equal_only_where_everything_is(one, other):
  """Text never moves unnoticed from one field to the next."""
  assert (problem_digest(one) == problem_digest(other)) == (one == other)


def test_images_count_by_content_and_order(picture, tmp_path):
  one, other = picture(20, 10), picture(20, 10, seed=1)
  copy = tmp_path / "renamed.png"
  shutil.copyfile(one, copy)

  def both(*images):
    shown = dataclasses.replace(ASKED, images=images)
    return asked_digest(shown), problem_digest(shown)

  kept = both(one, other)
  assert kept == both(str(copy), other) != both(other, one)
  os.utime(copy, ns=(1, 1))
  assert kept == both(str(copy), other)
  Image.new("RGB", (20, 10), "red").save(copy)
  assert not set(kept) & set(both(str(copy), other))


def test_two_processes_agree():
  code = (
    "from tests.data.test_identity import *;"
    "print(asked_digest(ASKED), problem_digest(ASKED))"
  )
  said = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert said.stdout.split() == [asked_digest(ASKED), problem_digest(ASKED)]


def test_an_image_that_cannot_be_read(tmp_path):
  os.mkfifo(tmp_path / "pipe.png")
  for name, why in (("no.png", "no such image"), ("pipe.png", "it is a FIFO")):
    shown = dataclasses.replace(ASKED, images=(str(tmp_path / name),))
    with pytest.raises(SophiaError, match=why):
      problem_digest(shown)
