"""A run that plans: its report, its resumption, its model."""

import json

import pytest

from configs import linvit
from sophia_jax.checkpoints.directories import save_params
from sophia_jax.files import write_jsonl
from sophia_jax.planning.lookahead import ContextExceeded
from sophia_jax.runs import pipeline, planning, scoring
from sophia_jax.runs.likelihoods import Model, PriorConfig
from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError
from tests.rollout import little


def config():
  c = linvit.get_config()
  c.mesh.fsdp = 1
  c.planning.prior.model = ""
  small = {"episodes": 20, "seeds": 2, "rhos": (0.1, 0.5), "per_step": False}
  c.planning.sweep_lake.update(horizon=6, **small)
  c.planning.sweep_blocks.update(horizon=4, blocks=3, steps=4, **small)
  c.planning.episodes.update(problems=3, plan_blocks=3, plan_steps=4)
  return c


def lake_alone():
  c = config()
  del c.planning["sweep_blocks"]  # a world is a program to compile
  return c


def test_a_run_reports_and_resumes(tmp_path):
  first = pipeline.run_all(Run(lake_alone(), str(tmp_path)))
  written = json.loads((tmp_path / "report.json").read_text())
  assert written == json.loads(json.dumps(first))
  before, after = (first["pass_at_1"][when] for when in ("before", "after"))
  assert before["n"] == after["n"] == 3 and after["value"] == 1
  assert set(first["measures"]) >= {
    "success/blocksworld",
    "success/frozen_lake",
    "success/sql",
  }
  arms = first["linvit"]["frozen_lake"]["arms"]
  assert [arm["arm"] for arm in arms][:2] == ["UCBVI", "uniform"]
  assert all(len(arm["samples"]) == 2 for arm in arms)
  known = [arm["kl"] for arm in arms if arm["rho"]]
  assert known == sorted(known)
  page = (tmp_path / "report.html").read_text()
  assert "Log-log slope" in page and "SLINVIT" in page

  # Killed while the last result was written: all others are still there.
  results = tmp_path.joinpath(*planning.RESULTS)
  lines = results.read_text().splitlines(keepends=True)
  results.write_text("".join(lines[:-1]) + lines[-1][:40])
  again = pipeline.run_all(Run(lake_alone(), str(tmp_path)))
  assert results.read_text() == "".join(lines)
  assert again | {"seconds": 0} == first | {"seconds": 0}


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"prior": {"model": "nobody"}}, "model=nobody: use one of policy"),
    ({"prior": {"model": "policy"}}, "no checkpoint"),
    ({"sweep_lake": {"world": "moon"}}, "planning.sweep_lake: world='moon'"),
    ({"sweep_lake": {"rhos": (0.1,)}}, "a slope needs two"),
    ({"sweep_blocks": {"horizon": 3}}, "a plan has steps=4"),
    ({"episodes": {"plan_steps": 5}}, "no such problem"),
    ({"search": {"depth": 0}}, "depth=0"),
  ],
)
def test_mistakes_are_found_first(tmp_path, changes, said):
  c = config()
  for name, values in changes.items():
    c.planning[name].update(values)
  with pytest.raises(SophiaError, match=said):
    pipeline.run_all(Run(c, str(tmp_path / "W")))
  assert not (tmp_path / "W").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run whose policy is a tiny text-only model."""
  place = tmp_path_factory.mktemp("planning")
  words = little.renderer(str(place / "words"), vision=False)
  module = little.model(words)
  directory = place / "model"
  save_params(little.params(module), module.cfg, directory, place / "words")
  c = config()
  c.policy.update(path=str(directory), dtype="float32")
  c.prompts.system = ""
  return Run(c, str(place / "W"))


def test_likelihoods_are_the_trainers(run, tmp_path):
  model = Model(run, PriorConfig(context=64))
  texts = ["red", "red ink on paper", "you"]
  found = model.of("What do you see", texts)
  write_jsonl(
    tmp_path / "E.jsonl",
    (
      {
        "id": text,
        "images": [],
        "question": "What do you see",
        "response": text,
      }
      for text in texts
    ),
  )
  scoring.score(
    model.directory,
    tmp_path / "E.jsonl",
    tmp_path / "S.jsonl",
    "float32",
    None,
    "",
  )
  lines = (tmp_path / "S.jsonl").read_text().splitlines()
  expected = [sum(json.loads(line)["logprobs"]) for line in lines]
  assert found == pytest.approx(expected, abs=1e-3)
  assert model.of("What do you see", texts[:1]) == found[:1]
  with pytest.raises(ContextExceeded):
    model.of("red " * 100, texts)


def test_the_embedded_engine_answers_a_critics_question(run):
  model = Model(run, PriorConfig(context=64, samples=2))
  with pytest.raises(ContextExceeded):
    model.ask("red " * 100)
  (answer,) = model.ask("What do you see")
  assert len(answer.token_ids) <= 12 and model.ask("What do you see") == [
    answer
  ]
