"""A world of pans: motion, order and direction are known exactly."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.digits import embodied_r
from sophia_jax.data import problems
from sophia_jax.digits import measures, pan_corpus, pans, scenes, views
from sophia_jax.files import write_jsonl
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import digits
from sophia_jax.runs import pans as preparation
from sophia_jax.runs.run import Run
from sophia_jax.videos.keyframes import key_frames

pytest.importorskip("cv2")
PROMPTS = Prompts(slow_thinking="Think.", reading="{question}\n{reasoning}")
CONFIG = pan_corpus.PansConfig(videos=5, heldout=3, examples=200, noise=0.0)
UNIT = {way: np.array(move) for way, move in views.WAYS.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("pans")
  pan_corpus.write(directory, CONFIG, PROMPTS, seed=0)
  return directory


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------- videos
@pytest.fixture(params=["mosaic", *pans.PHOTOGRAPHS])
def drawn(request):
  rng = np.random.default_rng(3)
  if request.param == "mosaic":
    scans, _ = scenes.load_scans(0, 0.2)
    return [pans.over_mosaic(rng, scans) for _ in range(3)]
  return [pans.over_photograph(rng, request.param) for _ in range(3)]


def test_a_frame_shows_what_the_one_before_shows_but_for_a_cell(drawn):
  for pan in drawn:
    for i in range(1, len(pan.frames)):
      dx, dy = np.subtract(pan.places[i], pan.places[i - 1]) * pans.CELL
      assert abs(dx) + abs(dy) == pans.CELL
      side = pans.WINDOW * pans.CELL
      before = pan.frames[i - 1][
        max(dy, 0) : side + min(dy, 0), max(dx, 0) : side + min(dx, 0)
      ]
      after = pan.frames[i][
        max(-dy, 0) : side + min(-dy, 0), max(-dx, 0) : side + min(-dx, 0)
      ]
      np.testing.assert_array_equal(before, after)


def test_no_place_is_seen_twice_and_no_digit(drawn):
  for pan in drawn:
    assert len(set(pan.places)) == len(pan.places)
    assert len(set(pan.digits)) == len(pan.digits)


def test_what_key_frames_show_adds_up(drawn):
  for pan in drawn:
    chosen = key_frames(pan.frames)
    seen = pan.seen(chosen)
    assert chosen[0] == 0 and len(seen.moves) == len(chosen) - 1
    total = np.sum(seen.moves, axis=0) if seen.moves else np.zeros(2)
    there = np.subtract(pan.places[chosen[-1]], pan.places[0])
    np.testing.assert_array_equal(total, there)


def test_most_key_frames_of_mosaics_are_the_ends_of_moves():
  scans, _ = scenes.load_scans(0, 0.2)
  rng = np.random.default_rng(0)
  drawn = [pans.over_mosaic(rng, scans) for _ in range(8)]
  exact = sum(
    key_frames(pan.frames) == list(range(0, len(pan.frames), pans.STRIDE))
    for pan in drawn
  )
  assert exact >= 6


# ------------------------------------------------------------------- questions
moves = st.tuples(st.integers(-4, 4), st.integers(-4, 4)).filter(any)
seen = st.builds(
  lambda m, d, photo: views.Seen(
    tuple(m), () if photo else tuple(d[: len(m) + 1])
  ),
  st.lists(moves, min_size=1, max_size=5),
  st.permutations(range(10)),
  st.booleans(),
)


@given(seen, st.sampled_from(views.KINDS), st.integers(0, 99))
def test_an_answer_follows_from_the_thought_and_is_an_option(seen, kind, seed):
  question = views.ask(np.random.default_rng(seed), kind, seen)
  if question is None:
    return
  assert len(set(question.choices)) == 4 and question.answer in question.choices
  stated = views.stated(f"<think>{views.thought(question)}</think>")
  assert stated == question.facts
  assert views.solved(kind, question.text, stated) == question.answer


@given(seen, st.sampled_from(views.KINDS), st.integers(0, 99))
def test_from_a_slip_another_option_follows(seen, kind, seed):
  rng = np.random.default_rng(seed)
  question = views.ask(rng, kind, seen)
  slip = question and views.slipped(rng, question)
  if not slip:
    return
  stated = views.stated(views.thought(question, slip))
  found = views.solved(kind, question.text, stated)
  assert found != question.answer and found in question.choices


@pytest.mark.parametrize(
  ("kind", "text", "facts", "answer"),
  [
    ("motion", "?", views.Seen(((0, -2),), ()), "up"),
    ("order", "in the middle right after 7?", views.Seen((), (4, 7, 1)), "1"),
    ("order", "in the middle right after 1?", views.Seen((), (4, 7, 1)), None),
    (
      "direction",
      "?",
      views.Seen(((2, 0), (0, 2), (-1, 0)), ()),
      "right and down",
    ),
    ("direction", "?", views.Seen(((2, 0), (-2, 0)), ()), "the same place"),
    ("count", "How many moves go up?", views.Seen(((0, -1), (1, -1)), ()), "2"),
    ("count", "How many moves go up?", views.Seen((), ()), None),
  ],
)
def test_answers_by_hand(kind, text, facts, answer):
  assert views.solved(kind, text, facts) == answer


@given(st.text("It moves right 2,and .The middles are 37", max_size=80))
def test_any_response_states_facts_or_none(text):
  facts = views.stated(text)
  for kind in views.KINDS:
    for asked in ("right after 3?", "moves go up?", ""):
      assert facts is None or isinstance(
        views.solved(kind, asked, facts), str | None
      )


# ------------------------------------------------------------------------ files
def test_the_files_pass_the_check(written):
  for name in ("pans", "pans_heldout"):
    assert problems.check(written / f"{name}.jsonl") == []
  for name in ("pans_views", "pans_worked"):
    assert problems.check(written / f"{name}.jsonl", examples=True) == []


def test_every_frame_has_its_description_and_they_tell_the_truth(written):
  told = {r["id"]: r["response"] for r in rows(written / "pans_views.jsonl")}
  for name in ("pans", "pans_heldout"):
    for row in rows(written / f"{name}.jsonl"):
      texts = [told.pop(f"{row['id']}/{i}") for i in range(len(row["images"]))]
      moved = np.zeros(2, int)
      for text in texts[1:]:
        (move,) = views.stated(text).moves
        moved += move
      answer = row["choices"][ord(row["answer"]) - ord("A")]
      if row["question"] == "Where is the last view from the first?":
        assert views.where([tuple(moved)]) == answer
      if row["source"] == "motion":
        view = int(row["question"].split("to view ")[1].rstrip("?"))
        assert views.where(views.stated(texts[view - 1]).moves) == answer
  assert not told


def test_a_noisy_describer_errs_about_as_often_as_it_should():
  rng = np.random.default_rng(0)
  true = views.Seen(((2, 0),) * 1000, (3,) * 1000)
  seen = views.misread(rng, true, 0.2)
  for part, truth in ((seen.moves, (2, 0)), (seen.middles, 3)):
    assert 150 < sum(p != truth for p in part) < 250
  assert views.misread(rng, true, 0.0) == true


def test_worked_answers_are_right_and_their_reasoning_slips_at_times(written):
  kinds = {"reading": 0, "bare": 0, "slip": 0, "sound": 0}
  for row in rows(written / "pans_worked.jsonl"):
    if "system" not in row:
      assert "View" not in row["question"] and "\\boxed" in row["response"]
      kinds["reading"] += 1
      continue
    thought, _, answer = row["response"].rpartition("\\boxed{")
    if not thought:
      kinds["bare"] += 1
      continue
    text = row["question"].splitlines()
    asked = next(line for line in text if line.endswith("?"))
    kind = next(
      kind
      for kind, word in zip(views.KINDS, ("way", "digit is", "Where", "many"))
      if word in asked
    )
    found = views.solved(kind, asked, views.stated(thought))
    kinds["sound" if f"{found}}}" == answer else "slip"] += 1
  assert all(count > 5 for count in kinds.values())


def test_the_same_seed_writes_the_same_files(written, tmp_path):
  pan_corpus.write(tmp_path, CONFIG, PROMPTS, seed=0)
  for path in (p for p in written.rglob("*.*")):
    assert (
      tmp_path / path.relative_to(written)
    ).read_bytes() == path.read_bytes()


# --------------------------------------------------------------------- measures
ASKED = problems.Problem(
  id="p",
  question="Which way does the camera move from view 1 to view 2?",
  answer="B",
  answer_type="choice",
  choices=("left", "right", "up", "down"),
  source="motion",
)
RESPONSES = [
  {
    "id": "p",
    "response": text,
    "extracted": found,
    "status": status,
    "tokens": 4,
  }
  for text, found, status in (
    ("<think>It moves right 2.</think>", "right", "right"),
    ("<think>It moves up 2.</think>", "B", "right"),
    ("<think>It moves up 2.</think>", "up", "wrong"),
    ("", None, "unparseable"),
  )
]
SHARES = {"stated": 0.75, "follows": 0.5, "tokens": 4, "right_follows": 0.5}


def test_measures_of_responses():
  assert measures.of_views(RESPONSES, {"p": ASKED}) == SHARES


def test_a_report_has_the_measures_of_this_world(tmp_path):
  run = Run(embodied_r.get_config(), str(tmp_path))
  row = dataclasses.asdict(ASKED)
  kept = ("id", "question", "answer", "answer_type", "choices", "source")
  heldout = run.config.data.heldout
  write_jsonl(run.path(heldout), [{key: row[key] for key in kept}])
  found = preparation.measured(run, {"before": RESPONSES, "after": RESPONSES})
  assert found == {k: {"before": v, "after": v} for k, v in SHARES.items()}
  assert preparation.measured(run, {}) == {}
  assert digits.readings(run, {"before": RESPONSES}, heldout) == {}
