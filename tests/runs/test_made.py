"""A run that makes its own data, and two rounds of each method that reads it."""

import dataclasses
import json
import math
import shutil

import pytest

from sophia_jax.config import defaults
from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.files import write_jsonl
from sophia_jax.runs import made, pipeline
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import stage
from sophia_jax.train import metrics
from sophia_jax.types import Example, SophiaError
from tests.launch import rounds, rounds_config

ORDER = ("rate", "chains", "sft", "grpo", "vlaa", "ekipl")
ROUNDS = {"rounds": 2, "groups": 2, "train": rounds_config.TRAIN}


def config():
  c = rounds_config.get_config()
  c.stages = {
    "rate": stage("buckets", names=("easy", "hard"), start="base"),
    "chains": stage("chains", captions=0, trajectories=3),
    "sft": stage(
      "sft",
      start="base",
      data="chains/chains.jsonl",
      train={**rounds_config.TRAIN, "schedule": "constant"},
    ),
    "grpo": stage("openvlthinker", data="rate/hard.jsonl", n=4, **ROUNDS),
    "vlaa": stage(
      "vlaa",
      n=6,
      kl_horizon=48.0,
      data="data/open.jsonl",
      **{**ROUNDS, "groups": 4},
    ),
    "ekipl": stage(
      "vision_ekipl", n=3, keep=2, data="data/problems.jsonl", **ROUNDS
    ),
  }
  c.teachers = {"teacher": defaults(TeacherConfig, file="chains/chains.jsonl")}
  c.order = ORDER
  return c


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  """A workdir of two sources: "A" is right in one, what nobody says in the other."""
  workdir = rounds.ready(tmp_path_factory.mktemp("fresh") / "W")
  path = workdir / "data" / "problems.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for i, row in enumerate(lines):
    row["source"] = ("sure", "never")[i % 2]
    row["answer"] = ("A", "B")[i % 2] if i < 8 else row["answer"]
  write_jsonl(path, lines)
  # "A" has a word more in common with what is accepted than the reference has.
  asked = {"answer_type": "open", "answer": "B", "accepted": ["A"]}
  write_jsonl(path.with_name("open.jsonl"), [row | asked for row in lines[:4]])
  return workdir


@pytest.fixture(scope="module")
def whole(fresh, tmp_path_factory):
  workdir = shutil.copytree(fresh, tmp_path_factory.mktemp("whole") / "W")
  run = Run(config(), str(workdir))
  pipeline.start(run)
  for one in run.stages():
    pipeline.learn(run, one)
  return workdir


def test_a_run_writes_its_data_and_learns_from_it(whole):
  workdir = whole
  buckets = [
    load_problems(workdir / f"rate/{n}.jsonl") for n in ("easy", "hard")
  ]
  assert sorted(len({p.source for p in b}) for b in buckets) == [1, 1]
  assert sum(map(len, buckets)) == 10
  chains = load_examples(workdir / "chains" / "chains.jsonl")
  assert chains and {e.response for e in chains} <= {"A", "B"}
  given = {p.id: p for p in load_problems(workdir / "data/problems.jsonl")}
  for example in chains:
    problem = given[example.id]
    assert example.images == problem.images
    assert example.question == problem.text
  assert len(metrics.read(workdir / "grpo" / "metrics.jsonl")) == 2
  record = json.loads((workdir / "chains" / made.RECORD).read_text())
  assert record["files"]["chains.jsonl"] == {"lines": len(chains), "unfit": 0}


def test_open_answers_are_scored_and_the_kl_is_steered(whole):
  first, second = metrics.read(whole / "vlaa" / "metrics.jsonl")
  assert 0 < first["rewards/score/mean"] <= 1
  assert first["rewards/reference/mean"] == 0 == first["rewards/unscored/mean"]
  earned = first["rewards/score/mean"] * (1 - math.exp(-1))
  assert 0 < first["critic/score/mean"] <= earned + 1e-6
  assert first["kl_coefficient"] == pytest.approx(1e-3)
  # Far below the target at first: 24 samples of a horizon of 48.
  assert second["kl_coefficient"] == pytest.approx(1e-3 * (1 - 0.2 * 24 / 48))


def test_stored_answers_join_the_pool(whole):
  chains = load_examples(whole / "chains" / "chains.jsonl")
  rows = metrics.read(whole / "metrics.jsonl")
  assert len(rows) == 2 and len(chains) < 10
  shares = [row.get("source/teacher/share", 0) for row in rows]
  absent = [row.get("source/teacher/none", 0) for row in rows]
  assert all(0 <= share <= 0.5 for share in shares)
  assert sum(shares) + sum(absent) > 0


def test_a_stage_in_between_is_evaluated(whole):
  run = Run(config(), str(whole))
  (sft,) = (s for s in run.stages() if s.name == "sft")
  pipeline._evaluate_after(run, sft, run.last())
  assert run.done("sft/eval")
  assert (whole / "evals" / "sft.json").exists()


def test_a_finished_run_makes_nothing_again(whole):
  path = whole / "chains" / "chains.jsonl"
  before = path.stat().st_mtime_ns
  run = Run(config(), str(whole))
  for one in run.stages():
    pipeline.learn(run, one)
  assert path.stat().st_mtime_ns == before


def test_a_later_stage_starts_from_the_last_that_learns(whole):
  run = Run(config(), str(whole))
  starts = {s.name: run.start(s) for s in run.stages()}
  assert starts["chains"] == starts["sft"] == whole / "models" / "policy"
  assert starts["grpo"] == whole / "sft" / "export"


def changed(c, **values):
  for key, value in values.items():
    c.stages.chains[key] = value
  return c


@pytest.mark.parametrize(
  ("workdir", "make", "said"),
  [
    ("whole", lambda: changed(config(), keep_n=2), r"chains.*keep_n = 1.*2"),
    ("fresh", lambda: ended("chains"), "'chains', learns nothing"),
    ("fresh", lambda: ended("sft", start="chains"), "no earlier stage"),
  ],
)
def test_what_cannot_work_is_refused_before_it_writes(
  workdir, make, said, request
):
  place = request.getfixturevalue(workdir)
  files = sorted(place.rglob("*"))
  with pytest.raises(SophiaError, match=said):
    pipeline.run_all(Run(make(), str(place)))
  assert sorted(place.rglob("*")) == files


def ended(name, **values):
  """The config whose order ends with the stage `name`."""
  c = config()
  c.stages[name].update(values)
  c.order = ORDER[: ORDER.index(name) + 1]
  return c


def test_what_no_file_may_hold_is_left_out_and_counted(tmp_path):
  fit = Example(id="a", question="Q", response="fine", images=("/data/1.png",))
  bad = dataclasses.replace(fit, id="b", response="<img> \ud800")
  lines = made._written(tmp_path / "x" / "c.jsonl", [fit, bad])
  assert lines == {"lines": 1, "unfit": 1}
  (row,) = map(
    json.loads, (tmp_path / "x" / "c.jsonl").read_text().splitlines()
  )
  assert row["id"] == "a" and not row["images"][0].startswith("/")
