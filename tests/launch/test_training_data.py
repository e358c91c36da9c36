"""Training data of `launch.train`: sources, system prompts, shapes."""

import importlib.util
import json
from pathlib import Path

import pytest

from sophia_jax.runs import sampling, sources, training
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import sharding
from sophia_jax.types import Role, SophiaError, Status
from tests.launch.commands import export
from tests.rollout import little
from tests.sampled import completion
from tests.sampled import store as store_group

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"
THINK = "Think slowly, then answer."


def config():
  spec = importlib.util.spec_from_file_location("quickstart", QUICKSTART)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  made = module.get_config()
  made.stages.sophia.update(captions=1, trajectories=1)
  return made


def write(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def run(tmp_path):
  """A workdir in which one problem is sampled, with all three sources."""
  c = config()
  c.images.tile_size = little.SIDE
  c.data.text, c.data.general = "text.jsonl", "general.jsonl"
  write(
    tmp_path / "data/problems.jsonl",
    {"id": "p", "question": "How many?", "answer": "6"},
  )
  asked = {"question": "What?"}
  write(
    tmp_path / "text.jsonl",
    {"id": "t0", **asked, "response": "<think>hm</think> 5"},
    {"id": "t1", **asked, "response": "<think>hm</think> 5", "system": ""},
    {"id": "t2", **asked, "response": "5", "weight": 0.5},
  )
  write(tmp_path / "general.jsonl", {"id": "g", **asked, "response": "A cat."})
  run = Run(c, str(tmp_path))
  export(tmp_path / "warmup/export", tmp_path / "models/words", vision=True)
  export(
    tmp_path / "models/reasoner", tmp_path / "models/r_words", vision=False
  )
  stage = stages.read(c, "sophia")
  [problem] = sampling.problems(run, stage)
  row = [("<think>six</think> 6", Status.RIGHT, 3)]
  with sampling.open_store(run, stage) as store:
    store_group(store, problem, [completion("six apples")], [row])
  return run


def learnt(run, **amounts):
  run.config.mixture.update(amounts)
  stage = stages.read(run.config, "sophia")
  model = training.opened(run, stage)
  return sources.of_stage(run, stage, model), model.renderer


def test_three_sources_and_how_each_is_asked(run):
  sources, words = learnt(run)
  assert list(sources) == ["visual", "text", "general"]
  found = {s.id: s for own in sources.values() for s in own}
  assert len(found) == 5
  for name, question, system, weight in (
    ("p/0/0", "How many?", THINK, 1.0),
    ("t0", "What?", THINK, 1.0),
    ("t1", "What?", "", 1.0),
    ("t2", "What?", None, 0.5),
    ("g", "What?", None, 1.0),
  ):
    asked = words.prompt(question, system=system).token_ids
    assert found[name].token_ids[: len(asked)].tolist() == asked.tolist()
    assert found[name].roles[len(asked)] == Role.RESPONSE
    assert max(found[name].streams["weights"]) == weight


def test_a_source_of_no_amount_is_not_even_read(run):
  (run.workdir / "text.jsonl").unlink()
  assert list(learnt(run, text=0.0)[0]) == ["visual", "general"]


def test_nothing_selected_says_what_was_sampled(run):
  run.config.stages.sophia.alpha = 1.0
  with pytest.raises(
    SophiaError, match=r"no trajectory is selected \(1 right, 0 wrong"
  ):
    learnt(run)


def test_the_quickstart_has_the_visual_source_alone(run):
  run.config.data.text = run.config.data.general = ""
  assert list(learnt(run)[0]) == ["visual"]


def test_the_packing_is_the_stage_s_shape_filled_as_the_run_says(run):
  train = run.config.stages.sophia.train
  train.update(rows=4, length=64, microbatches=3, tiles=8)

  def shape():
    stage = stages.read(run.config, "sophia")
    mesh = sharding.make_mesh(sharding.MeshConfig())
    return training.packing(run, stage, training.opened(run, stage), mesh)

  run.config.packing.shards = 2
  found = shape()
  assert (found.rows, found.length, found.tile_budget) == (4, 64, 8)
  assert (found.microbatches, found.shards, found.open_rows) == (3, 2, 64)
  run.config.packing = {"shard": 2}
  with pytest.raises(SophiaError, match=r"config\.packing\.shard: .*'shards'"):
    shape()
  run.config.packing = {"shards": 3}
  with pytest.raises(SophiaError, match=r"config\.packing: rows 4 does not"):
    shape()
