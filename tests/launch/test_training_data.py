"""What `launch.train` learns: streams, system prompts, shapes."""

import importlib.util
import json
from pathlib import Path

import pytest

from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.runs import sampling, stages, training
from sophia_jax.runs.run import Run
from sophia_jax.train.loop import TrainConfig
from sophia_jax.types import SophiaError, Status
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
  made.rollout.captions = made.rollout.trajectories = 1
  return made


def write(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def run(tmp_path):
  """A workdir in which one problem is sampled, with all three streams."""
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
  export(tmp_path / "models/warm", tmp_path / "models/words", vision=True)
  [problem] = sampling.problems(run)
  row = [("<think>six</think> 6", Status.RIGHT, 3)]
  with sampling.open_store(run) as store:
    store_group(store, problem, [completion("six apples")], [row])
  return run


def test_three_streams_and_how_each_is_asked(run):
  streams = stages._learnt(run, MixtureConfig())
  assert list(streams) == ["visual", "text", "general"]
  found = {e.id: (e.system, e.weight) for own in streams.values() for e in own}
  assert found == {
    "p/0/0": (THINK, 1.0),
    "t0": (THINK, 1.0),
    "t1": ("", 1.0),
    "t2": (None, 0.5),
    "g": (None, 1.0),
  }


def test_a_stream_of_no_amount_is_not_even_read(run):
  (run.workdir / "text.jsonl").unlink()
  assert list(stages._learnt(run, MixtureConfig(text=0))) == [
    "visual",
    "general",
  ]
  (run.workdir / "trajectories" / "0.jsonl").unlink()
  assert list(stages._learnt(run, MixtureConfig(text=0, visual=0))) == [
    "general"
  ]
  with pytest.raises(SophiaError, match="no trajectory is selected"):
    stages._learnt(run, MixtureConfig())


def test_the_quickstart_has_the_visual_stream_alone(run):
  run.config.data.text = run.config.data.general = ""
  assert list(stages._learnt(run, MixtureConfig())) == ["visual"]


def test_the_packing_is_the_stage_s_shape_filled_as_the_run_says(run):
  train = TrainConfig(rows=4, length=64, microbatches=3)
  run.config.packing.shards = 2
  shape = training._packing(run, train, 8)
  assert (shape.rows, shape.length, shape.tile_budget) == (4, 64, 8)
  assert (shape.microbatches, shape.shards, shape.open_rows) == (3, 2, 64)
  del run.config["packing"]
  assert training._packing(run, train, 8).shards == 1
  run.config.packing = {"shard": 2}
  with pytest.raises(SophiaError, match=r"config\.packing\.shard: .*'shards'"):
    training._packing(run, train, 8)
  run.config.packing = {"shards": 3}
  with pytest.raises(SophiaError, match=r"config\.packing: rows 4 does not"):
    training._packing(run, train, 8)
