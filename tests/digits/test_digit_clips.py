"""Clips of digits: frames, questions, options, levels, and what follows."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.digits import clip_files, clips, language, measures, scenes
from sophia_jax.types import Status

digits = st.lists(st.integers(0, 9), min_size=3, max_size=4, unique=True)


@pytest.fixture(scope="module")
def scans():
  return clip_files.Scanned(*scenes.load_scans(0, 0.2))


@given(st.sampled_from(list(clips.KINDS)), digits, st.integers(0, 1 << 30))
def test_a_question_has_one_right_option_of_four(kind, shown, seed):
  rng = np.random.default_rng(seed)
  question = clips.ask(rng, kind, tuple(shown))
  assert len(set(question.choices)) == 4
  assert question.answer in question.choices
  again = clips.ask_again(kind, question.text, tuple(shown))
  assert again == dataclasses.replace(question, choices=())
  text = language.worked(rng, question, tuple(shown), picture="clip")
  assert measures.stated(text).digits == tuple(shown)
  assert text.endswith(f"\\boxed{{{question.answer}}}")


@pytest.mark.parametrize(
  ("kind", "text", "answer"),
  [
    ("clip-order", "Which digit comes right after 8?", "1"),
    ("clip-before", "Which digit comes right before 8?", "3"),
    ("clip-count", "How many digits are larger than 2?", "2"),
    ("clip-change", "By how much do the first and the last digit differ?", "2"),
    ("clip-sum", "What is the first digit plus the last digit?", "4"),
  ],
)
def test_the_kinds(kind, text, answer):
  assert clips.ask_again(kind, text, (3, 8, 1)).answer == answer


def test_a_question_about_a_digit_that_is_not_there_makes_no_sense():
  text = "Which digit comes right after 8?"
  for shown in ((3, 1), (3, 1, 8), ()):
    assert clips.ask_again("clip-order", text, shown) is None


def test_frames_show_one_digit_each(scans):
  rng = np.random.default_rng(0)
  clip = clips.sample_clip(rng, scans.train)
  frames = clips.draw(rng, scans.train, clip)
  assert len(frames) == len(clip.digits) in clips.LENGTHS
  assert all(f.shape == (scenes.SIDE, scenes.SIDE, 3) for f in frames)
  assert [scans.train.labels[i] for i in clip.scans] == list(clip.digits)


def test_other_hands_write_the_same_digits_in_another_way(scans):
  other = clips.other_hands(scans.held_out)
  assert other.pixels.shape == scans.held_out.pixels.shape
  assert other.pixels.min() >= 0 and other.pixels.max() <= 1
  np.testing.assert_array_equal(other.labels, scans.held_out.labels)
  assert np.abs(other.pixels - scans.held_out.pixels).mean() > 0.05


@pytest.fixture(scope="module")
def files(scans, tmp_path_factory):
  directory = tmp_path_factory.mktemp("clips")
  config = clip_files.ClipConfig(warmup=6, problems=9, heldout=6)
  clip_files.write(directory, config, scans, "Think.", 0)
  return directory


def test_the_files_load_and_name_their_frames(files):
  problems = load_problems(files / "clips.jsonl")
  assert len(problems) == 9
  for problem in problems:
    assert problem.source in clips.TRAINED and not problem.tags
    assert problem.question.count("<image>") == len(problem.images)
    assert problem.question.startswith("Frame-1: <image>\nFrame-2: <image>\n")
  solutions = load_examples(files / "clips_solutions.jsonl")
  assert [s.id for s in solutions] == [p.id for p in problems]
  for problem, solution in zip(problems, solutions):
    assert solution.question == problem.text
    assert solution.images == problem.images
  # Six clips are read, every third of them is asked about.
  assert len(load_examples(files / "clips_warmup.jsonl")) == 8


def test_levels_are_tags_and_the_last_has_other_questions(files):
  found = {level: set() for level in clips.LEVELS}
  for problem in load_problems(files / "clips_heldout.jsonl"):
    found[problem.tags["level"]].add(problem.source)
  assert found["L1"] == found["L2"] == set(clips.TRAINED)
  assert found["L3"] == set(clips.UNSEEN)


def test_what_an_answer_states_is_measured(files):
  problems = {p.id: p for p in load_problems(files / "clips_heldout.jsonl")}
  rows = map(json.loads, (files / "clips_scenes.jsonl").open())
  seen = {r["id"]: tuple(r["digits"]) for r in rows if r["id"] in problems}
  assert seen.keys() == problems.keys()
  rng = np.random.default_rng(0)
  responses = []
  for name, problem in problems.items():
    text = problem.question.rpartition("\n")[2]
    question = clips.ask_again(problem.source, text, seen[name])
    worked = language.worked(rng, question, seen[name], picture="clip")
    responses.append(
      {
        "id": name,
        "response": worked,
        "extracted": question.answer,
        "status": Status.RIGHT.value,
        "tokens": 9,
      }
    )
  found = measures.measure(responses, problems, seen)
  assert found["scene"] == found["follows"] == found["digit"] == 1
  wrong = [{**r, "extracted": "19"} for r in responses]
  assert measures.measure(wrong, problems, seen)["follows"] == 0
