"""The command line as a user types it."""

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from launch import cli
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.data.problems import load_problems
from sophia_jax.files import write_jsonl
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.rollout.store import Store
from sophia_jax.runs import policies
from sophia_jax.train import metrics, sharding
from sophia_jax.types import Request, Sampling, Status
from tests.launch.commands import (
  CONFIG,
  TINY,
  assert_refused,
  overrides,
  until,
)

OVERRIDES = overrides(TINY)
STAGES = [
  "data",
  "vision",
  "reasoner",
  "warmup",
  "before",
  "sophia/sample",
  "sophia",
  "after",
]


# ------------------------------------------------------ a run that is killed twice
class Killed:
  """A finished workdir, and the same workdir when it was killed."""

  workdir: Path
  stages: list[list[str]]
  """Done, at each of the two kills."""
  segment: bytes
  """The store at the first kill."""
  steps: int
  """Of the newest checkpoint at the second kill."""
  last: subprocess.CompletedProcess

  @property
  def report(self):
    return json.loads((self.workdir / "report.json").read_text())

  @property
  def command(self):
    return [CONFIG, f"--workdir={self.workdir}", *OVERRIDES]

  def done(self):
    path = self.workdir / "stages.json"
    return list(json.loads(path.read_text())) if path.exists() else []

  def segment_now(self):
    path = self.workdir / "trajectories" / "0.jsonl"
    return path.read_bytes() if path.exists() else b""

  def checkpoints(self):
    names = (p.name for p in self.workdir.glob("checkpoints/*"))
    return sorted(int(name) for name in names if name.isdigit())


def kill_when(process, reached):
  until(process, reached)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(tmp_path_factory, start, command):
  run = Killed()
  run.workdir = tmp_path_factory.mktemp("run") / "W"
  kill_when(
    start("launch.run", *run.command),
    lambda: run.segment_now().count(b'"length":') >= 10,
  )
  run.segment, run.stages = run.segment_now(), [run.done()]
  kill_when(start("launch.run", *run.command), run.checkpoints)
  run.steps = run.checkpoints()[-1]
  run.stages.append(run.done())
  run.last = command("launch.run", *run.command)
  assert run.last.returncode == 0, run.last.stderr
  return run


def test_it_was_killed_where_it_should_be(killed):
  assert killed.stages == [STAGES[:5], STAGES[:6]]
  assert 10 <= killed.segment.count(b'"length":') < 60
  assert killed.done() == STAGES


def test_samples_are_kept_and_not_sampled_again(killed):
  whole = killed.segment[: killed.segment.rfind(b"\n") + 1]
  segment = killed.segment_now()
  assert segment.startswith(whole) and len(segment) > len(whole)
  store = Store(killed.workdir / "trajectories", read_only=True)
  assert store.index.answers == 10 * (2 + 2 * 3)
  assert store.index.grades == 10 * 2 * 3
  assert segment.count(b"\n") == 20 + 60 + 60 + 10  # and the complete groups
  problems = load_problems(killed.workdir / "data/problems.jsonl")
  assert all(map(store.complete, problems)) and len(problems) == 10


def test_training_resumes_from_the_checkpoint(killed):
  rows = metrics.read(killed.workdir / "metrics.jsonl")
  assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
  assert killed.steps < len(rows) == killed.checkpoints()[-1]
  resumed = [
    line for line in killed.last.stderr.splitlines() if "resumed at" in line
  ]
  assert len(resumed) == 1
  assert int(resumed[0].rpartition(" ")[2]) >= killed.steps


def test_it_prints_the_result(killed):
  lines = killed.last.stdout.splitlines()
  assert lines[0].startswith("pass@1 before ")
  assert lines[1].startswith("pass@1 after ")
  assert f"report: {killed.workdir / 'report.html'}" in lines
  assert "10 problems, 20 captions, 60 trajectories, 30 selected" in "".join(
    lines
  )
  assert "Traceback" not in killed.last.stderr
  assert "<html" in (killed.workdir / "report.html").read_text()[:200]


def test_the_report_has_the_keys_that_scripts_read(killed):
  report = killed.report
  assert report["seed"] == 0
  for when in ("before", "after"):
    rate = report["pass_at_1"][when]
    assert rate.keys() == {"value", "low", "high", "n"}
    assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    assert rate["n"] == 5
    table = report["reading"][when]["table"]
    assert sum(sum(row.values()) for row in table.values()) == 5
  table = report["reading"]["learnt"]["table"]
  assert sum(sum(row.values()) for row in table.values()) == 30
  counts = report["counts"]
  assert counts.keys() == {
    "problems",
    "captions",
    "trajectories",
    "selected",
    "status",
  }
  numbers = [counts[k] for k in ("problems", "captions", "trajectories")]
  assert numbers == [10, 20, 60]
  assert counts["selected"] == 30
  assert counts["status"].keys() == {s.value for s in Status}
  assert sum(counts["status"].values()) == 60
  assert 0 <= report["caption_reward_mean"] <= 1
  assert list(report["seconds"]) == STAGES
  stages = {row["name"]: row for row in report["stages"]}
  assert list(stages) == ["reasoner", "warmup", "sophia"]
  assert stages["sophia"]["pass_at_1"] == report["pass_at_1"]["after"]
  assert stages["warmup"]["pass_at_1"] == report["pass_at_1"]["before"]
  assert stages["sophia"]["algorithm"] == "sophia"
  assert all(row["updates"] > 0 for row in stages.values())
  assert all(seconds > 0 for seconds in report["seconds"].values())
  assert {"jax", "flax"} <= report["versions"].keys()
  assert report["config"]["prepare"]["corpus"]["problems"] == 10
  assert report["config"]["stages"]["sophia"]["random"] is True


def test_evaluate_the_export(killed, command):
  """The same model, problems and seed: the same responses as in the run."""
  workdir = killed.workdir
  done = command(
    "launch.evaluate",
    *killed.command,
    f"--model={workdir / 'export'}",
    f"--data={workdir / 'data' / 'heldout.jsonl'}",
  )
  assert done.returncode == 0, done.stderr
  path = workdir / "evals" / "export-heldout.json"
  found = json.loads(path.read_text())
  assert found == json.loads((workdir / "evals" / "after.json").read_text())
  assert found["pass_at_1"] == killed.report["pass_at_1"]["after"]
  assert len(found["responses"]) == 5
  assert done.stdout.splitlines()[-1] == f"responses: {path}"
  assert "all " in done.stdout and "ordering" in done.stdout


def respoken(renderer, ids):
  """The longest beginning of `ids` that its own text is tokenised to."""
  for n in range(len(ids), 0, -1):
    text = renderer.decode(ids[:n])
    again = renderer.encode(text).tolist()
    if again == list(ids[:n]) and text.strip() and text.isprintable():
      return n, text
  return 0, "."


def test_score_agrees_with_the_engine(killed, command, tmp_path):
  """The log-probabilities that the engine reported of its own responses."""
  images = ImageConfig(tile_size=48, max_tiles=1)
  runtime = policies.RuntimeConfig(dtype="float32")
  policy = policies.load(killed.workdir / "export", runtime, images)
  renderer = policy.renderer
  engine = EmbeddedEngine(
    policy.module,
    policies.weights(policy, sharding.make_mesh(sharding.MeshConfig())),
    renderer,
    EngineConfig(slots=4, length=256, prefill_rows=2, chunk=4),
    TileCache(images),
  )
  rows, requests = {}, []
  for i, p in enumerate(load_problems(killed.workdir / "data/problems.jsonl")):
    shown = p.images if i % 4 else ()
    row = {"id": str(i), "images": list(shown), "question": p.text}
    if i % 3:
      row["system"] = ("", "Look.")[i % 2]
    prompt = renderer.prompt(p.text, shown, row.get("system"))
    how = Sampling(temperature=0.7, max_new_tokens=8, seed=i)
    rows[row["id"]] = row
    requests.append(Request(id=row["id"], prompt=prompt, sampling=how))
  want = {}
  for completion in engine.generate(requests):
    n, text = respoken(renderer, completion.token_ids)
    want[completion.request_id] = completion.token_ids[:n], completion.logps[:n]
    rows[completion.request_id]["response"] = text
  data, out = tmp_path / "examples.jsonl", tmp_path / "scores.jsonl"
  write_jsonl(data, rows.values())
  done = command(
    "launch.score",
    f"--model={killed.workdir / 'export'}",
    f"--data={data}",
    f"--out={out}",
    "--max_tiles=1",
    f"--system={renderer.default_system}",
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == f"{len(rows)} responses scored: {out}\n"
  scores = [json.loads(line) for line in out.read_text().splitlines()]
  assert [score["id"] for score in scores] == list(rows)
  for score in scores:
    ids, logps = want[score["id"]]
    assert len(score["token_ids"]) == len(score["logprobs"])
    assert score["token_ids"][: len(ids)] == list(ids)
    assert score["token_ids"][-1] == renderer.end_id
    np.testing.assert_allclose(score["logprobs"][: len(ids)], logps, atol=1e-4)
  assert sum(len(ids) for ids, _ in want.values()) >= 16


# ------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
  ("module", "flag"),
  [("launch.run", "--workdir"), ("launch.score", "--model")],
)
def test_help_shows_an_example_and_the_flags(command, module, flag):
  done = command(module, "--help")
  assert done.returncode == 0
  assert f"python -m {module} --" in done.stdout
  assert f"{flag}:" in done.stdout
  assert not done.stderr


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (
      [CONFIG, "--config.stages.sophia.train.lerning_rate=1"],
      [
        "config.stages.sophia.train.lerning_rate: no such key",
        "'learning_rate'",
      ],
    ),
    (
      ["--config=configs/quikstart.py"],
      ["quikstart.py: no such config", "configs/quickstart.py"],
    ),
    (["--config", "README.md"], ["README.md:", "a config is a Python file"]),
    (
      [CONFIG, "--config.stages.sophia.train.rows=many"],
      ["--config.stages.sophia.train.rows=many"],
    ),
  ],
  ids=["key", "config", "not a config", "value"],
)
def test_a_mistake_is_explained_in_one_line(command, tmp_path, arguments, said):
  workdir = tmp_path / "W"
  assert_refused(
    command("launch.run", *arguments, f"--workdir={workdir}"), *said
  )
  assert not workdir.exists()


def test_an_unknown_and_a_missing_flag(command):
  done = command("launch.score", "--model=M", "--data=D", "--otu=O")
  assert_refused(done, "'otu'", "Did you mean: out ?")
  done = command("launch.sample", CONFIG)
  assert_refused(
    done, "--workdir must be given", "Example: python -m launch.sample"
  )


def test_the_workdir_of_another_config(killed, command):
  own = killed.workdir / "config.json"
  before = own.read_bytes()
  done = command("launch.run", *killed.command, "--config.seed=1")
  assert_refused(
    done,
    f"{killed.workdir / 'reasoner' / 'checkpoints'}",
    "stage 'reasoner' was begun with config.seed = 0, now it is 1",
  )
  assert own.read_bytes() == before


def test_train_before_sample(command, tmp_path):
  done = command("launch.train", CONFIG, f"--workdir={tmp_path}")
  assert_refused(done, f"{tmp_path}: ", "run launch.sample first")
  assert os.listdir(tmp_path) == []


def test_a_missing_model(killed, command, tmp_path):
  nowhere = tmp_path / "nowhere"
  before = sorted(os.listdir(killed.workdir / "evals"))
  done = command("launch.evaluate", *killed.command, f"--model={nowhere}")
  assert_refused(done, f"{nowhere}: no such checkpoint", "launch.train")
  assert sorted(os.listdir(killed.workdir / "evals")) == before
  assert not os.listdir(tmp_path)


def test_bad_data(killed, command, tmp_path):
  data = tmp_path / "e.jsonl"
  data.write_text('{"id": "1", "question": "?", "respnse": "6"}\n')
  done = command(
    "launch.score",
    f"--model={killed.workdir / 'export'}",
    f"--data={data}",
    f"--out={tmp_path / 's.jsonl'}",
  )
  said = f"{data}:1: unknown key 'respnse'; did you mean 'response'?"
  assert_refused(done, said)
  assert os.listdir(tmp_path) == ["e.jsonl"]
  done = command("sophia_jax.datasets", "check", tmp_path / "none.jsonl")
  assert_refused(done, "none.jsonl: No such file or directory")


def test_ctrl_c_is_one_line(capsys):
  def work():
    raise KeyboardInterrupt

  assert cli._exit_code(work) == 130
  assert capsys.readouterr().err == "interrupted; the same command resumes\n"
