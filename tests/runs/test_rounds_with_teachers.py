"""Teachers of a run: two rounds with stored answers, and what is refused."""

import asyncio
import json

import pytest

from sophia_jax.config import defaults
from sophia_jax.files import write_jsonl
from sophia_jax.runs import preflight, teachers
from sophia_jax.runs import rounds as driver
from sophia_jax.runs import stage as stages
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import (
  Chat,
  FinishReason,
  Request,
  Sampling,
  SophiaError,
)
from tests.launch import rounds, rounds_config
from tests.rollout.fake_server import Fake


def responses(workdir, texts):
  """Writes the teacher's file: responses by the ids of problems."""
  rows = [
    {"id": name, "question": "?", "response": text}
    for name, text in texts.items()
  ]
  write_jsonl(workdir / "data" / "responses.jsonl", rows)


def prepared(workdir, **teacher):
  """A run of two rounds of RL-PLUS, all problems in each."""
  config = rounds_config.get_config()
  config.stages.rl_plus = stages.stage(
    "rl_plus",
    n=3,
    longest=4,
    think=False,
    rounds=2,
    groups=10,
    train=rounds_config.TRAIN,
  )
  config.order = ("rl_plus",)
  config.client.update(ready_s=0.1, retries=0, give_up_s=0.1)
  if teacher:
    config.teachers = {"teacher": defaults(TeacherConfig, **teacher)}
  return Run(config, str(workdir))


def learnt(run):
  preflight.check(run)
  run.begin()
  driver.learn(run, stages.read(run.config, "rl_plus"))
  return metrics.read(run.workdir / "metrics.jsonl")


@pytest.fixture
def workdir(tmp_path):
  return rounds.ready(tmp_path / "W")


def test_two_rounds_with_stored_answers(workdir):
  texts = {f"p{i}": "A" for i in range(7)} | {"p7": "B", "p8": "<think>A"}
  responses(workdir, texts)
  run = prepared(workdir, file="data/responses.jsonl")
  rows = learnt(run)
  assert [row["round"] for row in rows] == [0, 1]
  for row in rows:
    # 8 of 10 problems have an answer; the place of the others is the policy's.
    assert row["source/teacher/share"] == pytest.approx(8 / 30)
    assert row["source/teacher/reward"] == pytest.approx(7 / 8)
    assert row["source/teacher/none"] == row["source/teacher/cut"] == 1
    assert row["training/rollout_probs_diff_max"] < 1e-4
  # What the teacher writes becomes likelier.
  assert rows[1]["actor/teacher_prob"] > rows[0]["actor/teacher_prob"]
  assert (workdir / "export/model.safetensors").is_file()
  # A resumed run may not have other answers.
  responses(workdir, {**texts, "p0": "B"})
  again = prepared(workdir, file="data/responses.jsonl")
  with pytest.raises(
    SophiaError, match=r"begun with config\.teachers\.teacher"
  ):
    preflight.check(again)


def asked(run):
  """What the teacher of a run answers to one request."""
  prompt = Chat(text="?", images=run.problems("data/problems.jsonl")[1].images)
  request = Request(id="p1/2:teacher", prompt=prompt, sampling=Sampling())
  with teachers.opened(run, "teacher") as engine:
    return asyncio.run(engine.ask(request))


DOWN = {"engine": "sglang", "urls": "http://127.0.0.1:9", "served": "big"}


def test_a_server_that_is_down_is_done_without(workdir):
  answer = asked(prepared(workdir, **DOWN))
  assert answer.finish_reason is FinishReason.ABSENT
  assert answer.text == "down"


def test_a_server_that_is_down_stops_the_run_where_it_must_not_be(workdir):
  with pytest.raises(SophiaError, match="no rollout server at http"):
    asked(prepared(workdir, absent="stop", **DOWN))


def test_a_live_teacher_is_asked_as_the_policy_is(workdir):
  server = Fake(end_id=1)
  server.text, server.info = "A", {"model_path": "/models/big"}
  server.models = {"data": [{"id": "big"}]}
  try:
    run = prepared(workdir, **{**DOWN, "urls": server.url})
    assert asked(run).text == "A"
  finally:
    server.stop()
  stage = stages.read(run.config, "rl_plus")
  assert teachers.identity(run, stage) == {
    "teachers": {"teacher": {"absent": "skip", "model": "big"}}
  }
  assert "image_url" in json.dumps(server.asked[-1]["messages"])


# --------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (['{"question": "?", "response": "A"}'], ":1: id is missing"),
    (['{"id": "p0", "question": "?"}'], ":1: response is missing"),
    (
      ['{"id": "q0", "question": "?", "response": "A"}'],
      "(teacher 'teacher'): answers none of the 10 problems",
    ),
  ],
)
def test_a_bad_file_of_responses_is_one_line(workdir, lines, message):
  path = workdir / "data" / "responses.jsonl"
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  run = prepared(workdir, file="data/responses.jsonl")
  with pytest.raises(SophiaError) as error:
    preflight.check(run)
  assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("teacher", "message"),
  [
    ({}, "config.teachers: no teacher 'teacher', which the method asks; there"),
    ({"absent": "no"}, "config.teachers.teacher: absent is 'no'; use skip or"),
    ({"served": "x"}, "config.teachers.teacher: nothing given; give one of"),
    ({"file": "a", "path": "b"}, "file and path given; give one of file, path"),
    (
      {"engine": "sglang", "urls": "http://h:1"},
      "config.teachers.teacher: urls without served; give the servers' model",
    ),
    ({"file": "data/none.jsonl"}, "none.jsonl: No such file or directory"),
    ({"path": "/none"}, "config.teachers.teacher.path: /none: no such directo"),
  ],
)
def test_a_mistake_in_the_config_is_found_first(workdir, teacher, message):
  with pytest.raises(SophiaError) as error:
    preflight.check(prepared(workdir, **teacher))
  assert message in str(error.value) and "\n" not in str(error.value)
  assert not (workdir / "config.json").exists()
