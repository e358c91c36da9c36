"""The mistakes of a first hour: one line, and nothing is written."""

import logging
import shutil

import pytest
from huggingface_hub import constants

from sophia_jax.checkpoints import hub
from sophia_jax.files import write_jsonl
from sophia_jax.runs import pipeline, sampling
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run, completed
from sophia_jax.types import SophiaError
from tests.launch import own, own_config
from tests.launch.commands import assert_refused

TRAIN = "stages.sophia.train"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
  return own.make(tmp_path_factory.mktemp("mine"))


@pytest.fixture
def workdir(tmp_path):
  return tmp_path / "W"


def run_of(mine, workdir, changes):
  """The run that the flags of `mine` and further overrides name."""
  config = own_config.get_config()
  given = dict(flag.split("=", 1) for flag in mine.flags[1:])
  named = {key.removeprefix("--config."): v for key, v in given.items()}
  config.update_from_flattened_dict({**named, **changes})
  return Run(config, str(workdir))


def with_problems(mine, path, **changes):
  """A copy of the user's problems with other values."""
  rows = [
    {
      "id": f"p{i}",
      "question": "What?",
      "answer": "A",
      "images": [f"{mine.folder}/images/{i % 2}.png"],
      **changes,
    }
    for i in range(3)
  ]
  write_jsonl(path, rows)
  return str(path)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (
      {"images.tile_size": 448},
      r"takes tiles of 28 pixels.*448; give --config.images.tile_size=28",
    ),
    ({"policy.path": "/none"}, r"config.policy.path: /none is no directory"),
    ({"policy.path": "{reasoner}"}, r"p0 has images \(8 of 8 do\).*text-only"),
    (
      {"reasoners.easy.path": "{policy}"},
      r"config.reasoners.easy.path: .*vl is a vision-language model; a reas",
    ),
    ({"reasoners.easy.path": "/none"}, r"easy.path: /none: no such directory"),
    ({"engine.length": 16}, r"8 of 8 problems do not fit config.engine.length"),
    ({"eval.max_new_tokens": 90}, r"eval.max_new_tokens = 90.*length=\d+, or"),
    ({f"{TRAIN}.schedule": "linear"}, r"sophia.train: schedule is 'linear'"),
    ({f"{TRAIN}.learning_rate": -1.0}, r"train: learning_rate is -1.0; use 0"),
    ({f"{TRAIN}.log_every": 0}, r"sophia.train: log_every is 0; use 1 or more"),
    ({f"{TRAIN}.trained": ("eyes",)}, r"train.trained: no part 'eyes'.*vision"),
    (
      {f"{TRAIN}.lora_rank": 2, f"{TRAIN}.lora_targets": ("qq",)},
      r"sophia.train.lora_targets: no linear map of language .*'qq'.*known",
    ),
    ({f"{TRAIN}.length": 8}, r"sophia.train: length=8 .* no prompt: p0 needs"),
    ({"eval.temperature": -1.0}, r"config.eval: temperature is -1.0; use 0"),
    ({"captioning.top_p": 2.0}, r"config.captioning: top_p is 2.0; use more"),
    ({"reasoning.max_new_tokens": 0}, r"reasoning: max_new_tokens is 0; use 1"),
    ({"data.text": "/none.jsonl"}, r"/none.jsonl: No such file or directory"),
    (
      {"prompts.reasoning": "Look."},
      r"config.prompts: reasoning has no .caption",
    ),
    ({"engine.slots": 0}, r"config.engine: slots is 0; use 1 or more"),
    ({"reward.workers": 0}, r"config.reward.workers=0: must be more than 0"),
    ({"reward.memory_mb": 31}, r"config.reward.memory_mb=31: .* needs 32 or"),
    ({"stages.sophia.captions": 0}, r"stages.sophia: captions is 0; use 1 or"),
    ({"packing.shards": 3}, r"config.packing: rows 2 does not divide among 3"),
    ({"mesh.fsdp": 7}, r"config.mesh: data=1 x fsdp=7 .* is not \d+ devices"),
    ({"topology": "h100:9"}, r"config.topology=h100:9: not in .*topologies"),
  ],
)
def test_a_mistake_leaves_the_workdir_free(mine, workdir, changes, said):
  changes = {
    key: value.format(policy=mine.policy, reasoner=mine.reasoner)
    if isinstance(value, str)
    else value
    for key, value in changes.items()
  }
  with pytest.raises(SophiaError, match=said):
    pipeline.start(run_of(mine, workdir, changes))
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("data", "said"),
  [
    ("/none.jsonl", r"/none.jsonl: No such file or directory; check the path"),
    ("", r"config.stages.warmup.data: no file of examples; give --config"),
  ],
)
def test_examples_of_every_stage_are_read_first(mine, workdir, data, said):
  run = run_of(mine, workdir, {})
  run.config.stages.warmup = stages.stage("sft", data=data)
  run.config.order = ("sophia", "warmup")
  with pytest.raises(SophiaError, match=said):
    pipeline.start(run)
  assert not workdir.exists()


def test_no_reasoner_at_all(mine, workdir):
  run = run_of(mine, workdir, {})
  run.config.reasoners = {}
  with pytest.raises(SophiaError, match=r"config.reasoners: none.*easy"):
    pipeline.start(run)
  assert not workdir.exists()


@pytest.mark.parametrize("name", ["captioning", "images", "stages"])
def test_a_section_that_is_absent(mine, workdir, name):
  config = run_of(mine, workdir, {}).config
  del config[name]
  with pytest.raises(SophiaError, match=rf"config.{name}: absent.*base.get_c"):
    completed(config)


def test_absent_reasoners_are_none(mine, workdir, tmp_path, command):
  path = tmp_path / "mine.py"
  path.write_text(
    "from tests.launch import own_config\n"
    "def get_config():\n"
    "  c = own_config.get_config()\n"
    "  del c['reasoners']\n"
    "  return c\n"
  )
  named = [f for f in mine.flags[1:] if "reasoners" not in f]
  flags = [f"--config={path}", *named, f"--workdir={workdir}"]
  done = command("launch.run", *flags)
  assert_refused(done, "config.reasoners: none, and the method asks one")
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("platform", "said"),
  [("tpu", 'pip install "jax[tpu]=='), ("cuda", 'pip install "jax[cuda12]==')],
)
def test_a_platform_that_is_not_installed(start, tmp_path, platform, said):
  flags = [own.CONFIG, f"--workdir={tmp_path / 'W'}"]
  process = start("launch.run", *flags, JAX_PLATFORMS=platform)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 1
  assert err.startswith(f"error: JAX_PLATFORMS={platform}: ") and said in err
  assert len(err.splitlines()) == 1 and not out


# ------------------------------------------------------------------ Hub's names
def test_a_name_on_the_hub_says_how_to_fetch_it(mine, workdir, command):
  done = command(
    "launch.run",
    *mine.flags,
    "--config.policy.path=OpenGVLab/InternVL0-1B",
    f"--workdir={workdir}",
  )
  assert_refused(done, "hf download OpenGVLab/InternVL0-1B")
  assert not workdir.exists()


def test_the_hubs_cache_serves_without_a_network(
  mine, workdir, tmp_path, monkeypatch
):
  cache = tmp_path / "cache"
  there = cache / "models--us--tiny" / "snapshots" / ("0" * 40)
  shutil.copytree(mine.policy, there)
  (there.parents[1] / "refs").mkdir()
  (there.parents[1] / "refs" / "main").write_text("0" * 40)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
  run = run_of(mine, workdir, {"policy.path": "us/tiny"})
  pipeline.start(run)
  assert run.path("us/tiny") == hub.local("us/tiny") == there
  assert hub.cached("us/other") is None and not hub.is_name("data/p.jsonl")


@pytest.mark.parametrize("module", ["launch.run", "launch.sample"])
def test_the_first_mistake_of_every_user(mine, workdir, command, module):
  flags = ["--config.images.tile_size=448", f"--workdir={workdir}"]
  done = command(module, *mine.flags, *flags)
  assert_refused(done, "config.images.tile_size=28")
  assert not workdir.exists()


def test_an_evaluation_that_cannot_be(mine, workdir, command):
  flags = [f"--model={mine.reasoner}", f"--workdir={workdir}"]
  done = command("launch.evaluate", *mine.flags, *flags)
  assert_refused(done, "test.jsonl", "hp0 has images", "text-only")
  assert not workdir.exists()


# ------------------------------------------------------------------- difficulty
def test_a_sole_reasoner_takes_every_problem(mine, workdir, tmp_path):
  data = with_problems(mine, tmp_path / "3.jsonl", difficulty=3)
  run = run_of(mine, workdir, {"data.problems": data})
  pipeline.start(run)
  assert {p.difficulty for p in run.problems(data)} == {"3"}


def test_a_difficulty_names_one_of_several_reasoners(mine, workdir, tmp_path):
  data = with_problems(mine, tmp_path / "3.jsonl", difficulty=3)
  run = run_of(mine, workdir, {"data.problems": data})
  run.config.reasoners["4"] = run.config.reasoners.easy
  said = r"3.jsonl: problem p0: difficulty '3' names no reasoner.*3 of 3"
  with pytest.raises(SophiaError, match=said):
    pipeline.start(run)
  assert not workdir.exists()
  run.config.reasoners["3"] = run.config.reasoners.easy
  pipeline.start(run)


# --------------------------------------------------------------------- held out
def test_held_out_problems_that_are_learned_from_are_named(
  mine, workdir, monkeypatch, caplog
):
  monkeypatch.setattr(logging.getLogger("sophia_jax"), "propagate", True)
  pipeline.start(run_of(mine, workdir, {}))
  assert "pass@1 is measured" not in caplog.text
  pipeline.start(run_of(mine, workdir, {"data.heldout": str(mine.problems)}))
  assert "data.heldout: 8 of 8 problems are in" in caplog.text
  assert "(p0, p1, p2, p3, p4, ...): pass@1 is measured on" in caplog.text


# ---------------------------------------------------------------------- lengths
def test_a_prompt_that_is_too_long_is_set_aside(
  mine, workdir, tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(logging.getLogger("sophia_jax"), "propagate", True)
  path = tmp_path / "long.jsonl"
  rows = [
    {"id": f"p{i}", "question": "see " * (200 * (i == 1) + 1), "answer": "A"}
    for i in range(3)
  ]
  write_jsonl(path, rows)
  run = run_of(mine, workdir, {"data.problems": str(path)})
  pipeline.start(run)
  assert "1 of 3 problems do not fit config.engine.length=96: p1" in caplog.text
  stage = stages.read(run.config, "sophia")
  assert [p.id for p in sampling.fitting(run, stage)] == ["p0", "p2"]
  run.config.engine.drop_oversize = False
  with pytest.raises(SophiaError, match=r"1 of 3 problems do not fit.*give --"):
    pipeline.start(run)


def test_answers_that_the_model_or_its_prompt_does_not_provide_for(
  mine, workdir, monkeypatch, caplog
):
  monkeypatch.setattr(logging.getLogger("sophia_jax"), "propagate", True)
  changes = {
    "captioning.max_new_tokens": 40000,
    "engine.length": 50000,
    "prompts.slow_thinking": "You may use up to 9 tokens in total.",
  }
  pipeline.start(run_of(mine, workdir, changes))
  assert "captioning.max_new_tokens=40000 is more than the 32768" in caplog.text
  assert "promises 9 tokens, config.eval.max_new_tokens is 4" in caplog.text
