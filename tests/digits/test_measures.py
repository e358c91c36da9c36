"""What answers say about their images, measured; and the world with unclear digits."""

import collections
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.digits import unclear
from sophia_jax.config import section
from sophia_jax.data import problems
from sophia_jax.digits import corpus, language, measures, scenes
from sophia_jax.rewards.verify import compare
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.types import Problem, Status

digits = st.lists(st.integers(0, 9), min_size=2, max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(sorted(language.KINDS))


def posed(question, kind):
  return Problem(
    id="1",
    question=question.text,
    answer=corpus._letter(question),
    answer_type=question.answer_type,
    choices=question.choices,
    source=kind,
  )


# -------------------------------------------------------------------- readings
@given(kinds, seeds, digits, st.booleans())
def test_worked_solutions_state_and_follow_their_reading(
  kind, seed, shown, options
):
  rng = np.random.default_rng(seed)
  question = language.ask(rng, kind, shown)
  if options:
    question = language.with_options(rng, kind, question, shown)
  text = language.worked(rng, question, shown)
  reading = measures.stated(text)
  assert reading == (shown, shown)
  assert measures.follows(posed(question, kind), reading, question.answer)
  assert not measures.follows(posed(question, kind), reading, None)
  assert not measures.follows(posed(question, kind), reading, "99")


@given(kinds, seeds, digits, st.integers(0, 1), st.integers(0, 9))
def test_a_guess_is_stated_and_reckoned_with(kind, seed, shown, at, guess):
  rng = np.random.default_rng(seed)
  asked = language.with_options(
    rng, kind, language.ask(rng, kind, shown), shown
  )
  assert len(asked.choices) == len(set(asked.choices)) == 4
  seen = (*shown[:at], None, *shown[at + 1 :])
  taken = (*shown[:at], guess, *shown[at + 1 :])
  solved = language.solved(rng, kind, asked.text, asked.choices, taken)
  text = language.worked(rng, solved, taken, seen)
  reading = measures.stated(text)
  assert reading == (seen, taken)
  own = language.ask_again(kind, asked.text, taken)
  fits = bool(own.choices) or own.answer in asked.choices
  assert measures.follows(posed(asked, kind), reading, solved.answer) == fits
  if taken == shown:
    assert solved.answer == asked.answer


@given(kinds, seeds, digits)
def test_one_option_is_right_by_its_text_and_by_its_letter(kind, seed, shown):
  rng = np.random.default_rng(seed)
  asked = language.with_options(
    rng, kind, language.ask(rng, kind, shown), shown
  )
  gold = corpus._letter(asked)
  for letter, option in zip("ABCD", asked.choices, strict=True):
    for answer in (letter, option):
      status = compare("choice", gold, answer, asked.choices)
      assert (status is Status.RIGHT) == (letter == gold)


@pytest.mark.parametrize(
  ("text", "reading"),
  [
    ("The image shows 3, 8.", ((3, 8), (3, 8))),
    ("The image shows unclear, 8.", ((None, 8), (8,))),
    ("The image shows .", None),
    ("The image shows 3, eight.", None),
    ("It is 5.", None),
    ("The image shows " + "1, " * 50000, None),
  ],
)
def test_readings_of_odd_answers(text, reading):
  assert measures.stated(text) == reading


def test_a_reading_of_another_length_follows_from_nothing():
  problem = posed(language.KINDS["sum"]((3, 8), 0), "sum")
  for said in ((3,), (3, 8, 1, 1), (3, None)):
    reading = measures.Reading(said, tuple(d for d in said if d is not None))
    assert not measures.follows(problem, reading, "11")


def test_shares_and_table():
  """By hand: right from a right reading, lucky, inconsistent, none stated."""
  problem = posed(language.KINDS["sum"]((3, 8), 0), "sum")
  row = lambda text, extracted, status: {
    "id": "1",
    "response": text,
    "extracted": extracted,
    "status": status,
    "tokens": 10,
  }
  found = measures.measure(
    [
      row("The image shows 3, 8. 3 + 8 = 11.", "11", "right"),
      row("The image shows 4, 7. 4 + 7 = 11.", "11", "right"),
      row("The image shows 3, 9. 3 + 9 = 11.", "11", "right"),
      row("The image shows 3, 8. 3 + 8 = 12.", "12", "wrong"),
      row("Hm.", None, "unparseable"),
    ],
    {"1": problem},
    {"1": (3, 8)},
  )
  assert found == {
    "stated": 0.8,
    "scene": 0.4,
    "digit": 0.5,
    "follows": 0.4,
    "invented": None,
    "tokens": 10,
    "right": {"clear": 0.6, "unclear": None},
    "table": {
      "right": {"right": 1, "wrong": 2, "none": 0},
      "wrong": {"right": 1, "wrong": 0, "none": 1},
    },
  }


def test_a_name_for_an_unclear_digit_is_invented():
  problem = posed(language.KINDS["sum"]((3, 8), 0), "sum")
  row = {"id": "1", "extracted": "11", "status": "right", "tokens": 1}
  texts = ("The image shows 3, unclear.", "The image shows 3, 8.")
  found = measures.measure(
    [row | {"response": text} for text in texts],
    {"1": problem},
    {"1": (3, None)},
  )
  assert found["invented"] == found["scene"] == 0.5
  assert found["right"] == {"clear": None, "unclear": 1.0}


# ----------------------------------------------------------- the unclear world
@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("unclear")
  made = unclear.get_config()
  sizes = dict(problems=60, heldout=60, warmup_scenes=60, reasoner_examples=200)
  made.prepare.corpus.update(sizes)
  config = section(corpus.CorpusConfig, made.prepare.corpus.to_dict(), "corpus")
  prompts = section(Prompts, made.prompts.to_dict(), "prompts")
  corpus.write(directory, config, prompts, seed=0)
  return directory


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_of_the_unclear_world(written):
  for name in ("problems", "solutions", "heldout", "warmup", "reasoner"):
    examples = name in ("solutions", "warmup", "reasoner")
    assert not problems.check(written / f"{name}.jsonl", examples=examples)
  seen = [row["digits"] for row in rows(written / "scenes.jsonl")]
  assert 0.12 < sum(None in digits for digits in seen) / len(seen) < 0.38
  assert all(digits.count(None) < 2 for digits in seen)
  for problem in rows(written / "heldout.jsonl"):
    assert len(problem["choices"]) == 4 and problem["answer_type"] == "choice"
  letters = collections.Counter(
    p["answer"] for p in rows(written / "problems.jsonl")
  )
  assert set(letters) <= set("ABCD") and len(letters) > 2
  captions = [
    r["response"] for r in rows(written / "warmup.jsonl") if "cap" in r["id"]
  ]
  assert 0.2 < sum("unclear" in c for c in captions) / len(captions) < 0.6


def test_the_reasoner_guesses_an_unclear_digit(written):
  guesses = collections.Counter()
  for row in rows(written / "reasoner.jsonl"):
    taken = re.search(r"for (\d)\.", row["response"])
    assert ("unclear" in row["question"]) == bool(taken)
    if taken:
      guesses[taken[1]] += 1
  assert len(guesses) > 7


def test_an_unclear_digit_cannot_be_told():
  """Two scans of different digits, blurred, are alike; clear, they are not."""
  scans, _ = scenes.load_scans(0, 0.2)

  def mean(digit, blurred):
    rng = np.random.default_rng(0)
    cells = [
      scenes._stamp(rng, scans.pixels[i])
      for i in np.flatnonzero(scans.labels == digit)
    ]
    return np.mean([scenes._blur(c) if blurred else c for c in cells], axis=0)

  apart = lambda blurred: np.abs(mean(3, blurred) - mean(7, blurred)).mean()
  assert apart(True) < 0.5 * apart(False)


def test_labels_say_which_cells_are_unclear():
  scans, _ = scenes.load_scans(0, 0.2)
  rng = np.random.default_rng(1)
  labels = np.concatenate(
    [scenes.sample_dense(rng, scans, unclear=0.5)[1] for _ in range(20)]
  )
  shown = labels[:, 0][labels[:, 0] > 0]
  assert 0.4 < np.mean(shown == 11) < 0.6
