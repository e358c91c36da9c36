"""Embodied-R from videos to a report: described, learnt in rounds, refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sophia_jax.checkpoints import save_params
from sophia_jax.config import defaults
from sophia_jax.files import write_jsonl
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.teachers import Traces
from sophia_jax.rollout.world import World
from sophia_jax.runs import pipeline, preflight
from sophia_jax.runs import stage as stages
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import Example, Problem, Sampling, SophiaError
from tests.launch import rounds_config
from tests.rollout import little, lives

CHOICES = ["red", "ink", "paper"]


def saved(workdir, name, vision):
  """Saves a model that says A, B or, if it only reads, nothing."""
  words = little.renderer(str(workdir / "words" / name), vision)
  model = little.model(words)
  favourites = [words.encode(w)[0] for w in ("A", "B")]
  favourites += [] if vision else [words.end_id]
  weights = little.indifferent(model, favourites)
  where = workdir / "models" / name
  save_params(weights, model.cfg, where, workdir / "words" / name)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  """A policy that only reads, a describer that sees, and problems about videos."""
  workdir = tmp_path_factory.mktemp("fresh") / "W"
  saved(workdir, "policy", vision=False)
  saved(workdir, "describer", vision=True)
  frames = workdir / "data" / "frames"
  frames.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for i in range(3):
    pixels = rng.integers(0, 256, (little.SIDE, little.SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(frames / f"{i}.png")
  rows = [
    {
      "id": f"v{i}",
      "question": "What do you see",
      "answer": "A",
      "answer_type": "choice",
      "choices": CHOICES,
      "images": [f"frames/{j}.png" for j in range(1 + i % 3)],
    }
    for i in range(6)
  ]
  write_jsonl(workdir / "data" / "videos.jsonl", rows)
  write_jsonl(workdir / "data" / "heldout.jsonl", rows[:2])
  return workdir


@pytest.fixture
def workdir(fresh, tmp_path):
  return shutil.copytree(fresh, tmp_path / "W")


def prepared(workdir, describer="models/describer", **settings):
  config = rounds_config.get_config()
  config.prompts.update(
    first_view="Look. {question}",
    next_view="What do you see {question}",
    reading="{reasoning} {question}",
  )
  config.describing.max_new_tokens = config.reading.max_new_tokens = 3
  config.engine.update(length=128)
  config.data.update(
    problems="data/videos.jsonl", heldout="held/described.jsonl"
  )
  config.teachers = {
    "describer": defaults(TeacherConfig, path=describer, cache="answers"),
    "reader": defaults(TeacherConfig, path="models/policy", absent="stop"),
  }
  row = {
    "data": "describe/described.jsonl",
    "n": 4,
    "kl": 0.0,
    "begins": (0, 1),
    "format": (0.5, 0.1),
    "accuracy": (0.5, 0.7),
    "consistency": (0.0, 0.2),
    "rounds": 2,
    "groups": 2,
    "train": {**rounds_config.TRAIN, "length": 128, "tiles": 0},
  }
  config.stages = {
    "describe": stages.stage("describe", data="data/videos.jsonl"),
    "held": stages.stage("describe", data="data/heldout.jsonl"),
    "embodied_r": stages.stage("embodied_r", **{**row, **settings}),
  }
  config.order = ("describe", "held", "embodied_r")
  return Run(config, str(workdir))


def answers(workdir):
  """Number of stored descriptions by problem."""
  found = {}
  for line in (workdir / "trajectories" / "0.jsonl").read_bytes().splitlines():
    record = json.loads(line)["record"]
    if record.get("role") == "describer":
      found[record["id"]] = found.get(record["id"], 0) + 1
  return found


def test_two_rounds_from_videos_to_a_report(workdir):
  run = prepared(workdir)
  report = pipeline.run_all(run)
  assert answers(workdir) == {f"v{i}": 1 + i % 3 for i in range(6)}
  described = run.problems("describe/described.jsonl")
  assert len(described) == 6
  for problem in described:
    assert not problem.images and problem.text.startswith("View 1: ")
  rows = metrics.read(workdir / "metrics.jsonl")
  assert [row["round"] for row in rows] == [0, 1]
  for row, weights in zip(rows, ((0.5, 0.5), (0.1, 0.7))):
    earned = (row["rewards/format/mean"], row["rewards/accuracy/mean"])
    assert row["rewards/reward/mean"] == pytest.approx(np.dot(weights, earned))
    # It never thinks in tags, so the reader is not asked.
    assert row.get("rewards/consistency/mean", 0) == 0
    assert row["training/rollout_probs_diff_max"] < 1e-4
  assert report["pass_at_1"]["after"]["n"] == 2
  # Answers are kept by content: the held-out frames are some of the others'.
  assert len(list((workdir / "answers").rglob("*.json"))) == 3


def test_a_stage_that_was_killed_asks_only_for_what_is_missing(workdir):
  run = prepared(workdir)
  run.config.teachers.describer.cache = ""
  pipeline.learn(run, stages.read(run.config, "describe"))
  store = workdir / "trajectories" / "0.jsonl"
  lines = store.read_bytes().splitlines(keepends=True)
  # As a kill in the middle of a line leaves it.
  store.write_bytes(b"".join(lines[:5]) + lines[5][:20])
  shutil.rmtree(workdir / "describe")
  (workdir / "stages.json").unlink()
  pipeline.learn(prepared(workdir), stages.read(run.config, "describe"))
  assert store.read_bytes().startswith(b"".join(lines[:5]))
  assert answers(workdir) == {f"v{i}": 1 + i % 3 for i in range(6)}


# ------------------------------------------------------------------- the reader
def test_a_reader_in_this_process_is_asked_once_and_stored(tmp_path, fresh):
  """The policy's answers are recorded; a text-only model reads them."""
  words = little.renderer(str(tmp_path / "words"), False)
  model = little.model(words)
  favourite = words.encode("A")[0]
  reader = little.engine(model, words, little.indifferent(model, [favourite]))
  texts = {
    "v/0": "<think>The ink, so A.</think>\\boxed{A}",
    "v/1": "<think>Red.</think>\\boxed{B}",
    "v/2": "\\boxed{A}",
  }
  policy = Traces(
    [Example(id=k, question="", response=v) for k, v in texts.items()], "", True
  )
  problem = Problem(
    id="v", question="?", answer="A", answer_type="choice", choices=("a", "b")
  )
  method = stages.read(prepared(fresh, n=3).config, "embodied_r").algorithm
  prompts = Prompts(reading="What do you see {reasoning} {question}")
  found = []
  for engines in ({"policy": {"": policy}, "reader": {"": reader}}, {}):
    seats = roles.seats(
      words,
      prompts,
      {"reader": Sampling(max_new_tokens=1)},
      engines,
      method.roles,
    )
    with Store(tmp_path / "store", {}) as store, Verifier(workers=1) as judge:
      world = World(store, seats, words, judge)
      found += collect([problem], method.sample, world)
      assert world.sampled["reader"] == (1 if engines else 0)
  assert lives.bare(found[:1]) == lives.bare(found[1:])
  rewards = [r.rewards for r in found[0].rollouts]
  assert [r["accuracy"] for r in rewards] == [1, 0, 1]
  assert [r["format"] for r in rewards] == [1, 1, 0]
  assert [r.get("consistency") for r in rewards] == [1, None, 0]


# --------------------------------------------------------------------- refusals
def test_a_policy_that_only_reads_is_not_given_images(workdir):
  run = prepared(workdir, data="data/videos.jsonl")
  with pytest.raises(SophiaError) as error:
    preflight.check(run)
  assert "problem v0 has images (6 of 6 do), and the policy is a text-only" in (
    str(error.value)
  )
  assert 'a stage "describe"' in str(error.value)
  assert "\n" not in str(error.value)


def test_a_describer_that_cannot_see_is_refused_first(workdir):
  with pytest.raises(SophiaError) as error:
    preflight.check(prepared(workdir, describer="models/policy"))
  assert "models/policy is a text-only model and is shown images" in (
    str(error.value)
  )
  assert not (workdir / "config.json").exists()


def test_a_video_without_frames_is_refused_first(workdir):
  path = workdir / "data" / "videos.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  rows[2]["images"] = []
  write_jsonl(path, rows)
  with pytest.raises(SophiaError, match="problem v2: no frames to describe"):
    preflight.check(prepared(workdir))


@pytest.mark.parametrize(
  ("teacher", "message"),
  [
    (
      {"file": "a", "cache": "b"},
      "cache and file given; a file needs no cache",
    ),
    ({}, "nothing given; give one of file, path, urls"),
  ],
)
def test_a_mistake_in_a_teacher_is_found_first(workdir, teacher, message):
  run = prepared(workdir)
  run.config.teachers.reader = defaults(TeacherConfig, **teacher)
  with pytest.raises(SophiaError, match=message):
    preflight.check(run)
