"""Reward models of clauses, and two rounds that learn from them."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from sophia_jax.checkpoints import heads, save_params
from sophia_jax.data.chat import Renderer
from sophia_jax.digits import tokenizer
from sophia_jax.files import write_jsonl
from sophia_jax.models import abstract_params
from sophia_jax.rewards.facts import KINDS
from sophia_jax.runs import pipeline, preflight, rounds, trials
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import SophiaError
from tests.launch import rounds_config
from tests.rollout import little

# What follows a word: "The left digit is 5. The right digit is 3."
CHAIN = {
  "\n": ("The",),
  "The": (" left", " right"),
  " The": (" left", " right"),
  " left": (" digit",),
  " right": (" digit",),
  " digit": (" is",),
  " is": (" 3", " 5"),
  " 3": (".",),
  " 5": (".",),
  ".": (" The", None),
}
TRUE = "The left digit is 3. The right digit is 3."
TEXTS = [f"{TRUE} The digit is 5.", "user system Look."]


def describing(words, module):
  """Weights of a policy that says the words of CHAIN, each equally often."""
  zeros = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_params(module.cfg)
  )
  language = zeros["language"]
  for norm in ("norm", *language["layers"]):
    tree = language[norm] if norm == "norm" else language["layers"][norm]
    if "scale" in tree:
      tree["scale"][:] = 1
  rng = np.random.default_rng(0)
  for part in ("attn", "mlp"):  # they add nothing before the first update
    for name, tree in language["layers"][part].items():
      if "kernel" in tree and name not in ("o", "down"):
        tree["kernel"][:] = rng.normal(0, 0.3, tree["kernel"].shape)
      if "scale" in tree:
        tree["scale"][:] = 1
  width = len(language["head"])
  for i, (word, followers) in enumerate(CHAIN.items()):
    (token,) = words.encode(word)
    language["embedding"][token, i] = 1
    for follower in followers:
      after = words.end_id if follower is None else words.encode(follower)[0]
      language["head"][i, after] = 40 / np.sqrt(width)
  return zeros


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
  """A policy that describes at random, and problems of one scene."""
  workdir = tmp_path_factory.mktemp("fresh") / "W"
  start = workdir / "models" / "words"
  tokenizer.save(tokenizer.build(TEXTS * 9, True), start)
  words = Renderer(str(start), little.IMAGES, 4, "Look.")
  module = little.model(words)
  save_params(
    describing(words, module), module.cfg, workdir / "models" / "policy", start
  )
  images = workdir / "data" / "images"
  images.mkdir(parents=True)
  path, *_ = little.pictures(images)
  rows = [
    {
      "id": f"p{i}",
      "question": "Look" + " Look" * (i % 3),
      "answer": TRUE,
      "images": [path.rpartition("data/")[2]],
    }
    for i in range(8)
  ]
  for name in ("problems", "heldout"):
    write_jsonl(workdir / "data" / f"{name}.jsonl", rows)
  return workdir


def prepared(workdir, models=None, **settings):
  """A run that trains reward models, then learns two rounds from them."""
  config = rounds_config.get_config()
  config.answering.max_new_tokens = config.eval.max_new_tokens = 24
  config.engine.update(length=64)
  train = {**rounds_config.TRAIN, "checkpoint_every": 500}
  row = {
    "algorithm": "clause_rewards",
    "start": "base",
    "n": 8,
    "labels": "reference",
    "train": {**train, "learning_rate": 5e-3, "warmup_steps": 4, "epochs": 12},
  }
  config.stages.rewards = stages.stage(**{**row, **(models or {})})
  row = {
    "algorithm": "fgaif",
    "start": "base",
    "n": 2,
    "known": True,
    "trials": "data/heldout.jsonl",
    "length_cost": 1.0,
    "rounds": 2,
    "groups": 4,
    "train": train,
  }
  config.stages.fgaif = stages.stage(**{**row, **settings})
  config.order = ("rewards", "fgaif")
  return Run(config, str(workdir))


@pytest.fixture(scope="module")
def taught(fresh, tmp_path_factory):
  """A workdir whose reward models are trained, and the metrics of that."""
  workdir = shutil.copytree(fresh, tmp_path_factory.mktemp("taught") / "W")
  run = prepared(workdir)
  preflight.check(run)
  run.begin()
  pipeline.learn(run, stages.read(run.config, "rewards"))
  return workdir, metrics.read(workdir / "rewards" / "metrics.jsonl")


@pytest.fixture
def workdir(taught, tmp_path):
  return shutil.copytree(taught[0], tmp_path / "W")


def test_reward_models_learn_which_clauses_are_wrong(taught):
  workdir, rows = taught
  first, last = rows[0], rows[-1]
  # The heads start at zero: all classes are alike.
  for kind in KINDS:
    assert first[f"{kind}_loss"] == pytest.approx(np.log(3), abs=1e-5)
    assert last[f"{kind}_loss"] < 0.1
  assert last["object_accuracy"] > 0.9 and last["object_recall"] > 0.9
  assert {p.name for p in (workdir / "rewards").iterdir()} > {
    heads.FILE,
    "export",
  }


def test_two_rounds_learn_from_the_reward_models(workdir):
  run = prepared(workdir)
  preflight.check(run)
  stage = stages.read(run.config, "fgaif")
  policy = run.path(run.config.policy.path)
  trials.measure(run, stage, "before", policy)
  pipeline.learn(run, stage)
  rows = metrics.read(workdir / "metrics.jsonl")
  assert {row["round"] for row in rows if "round" in row} == {0, 1}
  first = rows[0]
  assert first["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
  assert first["training/rollout_probs_diff_max"] < 1e-4
  # The reward models find what the scene says, to which they were taught.
  clauses, wrong = (
    first[f"rewards/{k}/mean"] for k in ("clauses", "wrong_object")
  )
  assert first["rewards/object_found"] == pytest.approx(
    wrong / clauses, abs=0.1
  )
  assert first["rewards/attribute_found"] == 0
  # The critic has the reward model's weights and a head that is zero.
  assert first["critic/values/mean"] == 0
  learnt = metrics.read(workdir / "critic" / "metrics.jsonl")
  assert np.isfinite(learnt[-1]["critic/vf_loss"])
  found = trials.read(run, "before")
  assert found["n"] == 8 and found["clauses"] >= 1
  assert 0 < found["wrong_object"] <= found["wrong"] <= found["clauses"]
  assert found["wrong_attribute"] == 0 < found["tokens"]


# --------------------------------------------------------------------- bad input
def swapped(workdir):
  """The reward model's tokenizer with two words in each other's place."""
  path = workdir / "rewards" / "export" / "tokenizer.json"
  found = json.loads(path.read_text("utf-8"))
  vocab = found["model"]["vocab"]
  one, two = "\u0120digit", "\u0120right"  # with their spaces
  vocab[one], vocab[two] = vocab[two], vocab[one]
  path.write_text(json.dumps(found), "utf-8")


def broken(workdir):
  path = workdir / "rewards" / heads.FILE
  found = safetensors.load(path.read_bytes())
  found["object.bias"] = np.full_like(found["object.bias"], np.nan)
  path.write_bytes(safetensors.save(found))


def removed(workdir):
  (workdir / "rewards" / heads.FILE).unlink()


def truncated(workdir):
  path = workdir / "rewards" / heads.FILE
  path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
  ("damage", "want"),
  [
    (swapped, "the reward model's tokenizer is not that of the policy"),
    (broken, r"object\.bias is not finite"),
    (removed, r"no heads\.safetensors"),
    (truncated, "truncated"),
  ],
)
def test_a_reward_model_that_does_not_fit_is_refused(workdir, damage, want):
  damage(workdir)
  run = prepared(workdir)
  with pytest.raises(SophiaError, match=want) as error:
    preflight.check(run)
    rounds.learn(run, stages.read(run.config, "fgaif"))
  assert "\n" not in str(error.value)
  assert not (workdir / "rounds").exists()


@pytest.mark.parametrize(
  ("models", "settings", "want"),
  [
    ({}, {"rewards": ("fgaif",)}, "'fgaif' is no stage before 'fgaif'"),
    ({"kinds": ("object",)}, {}, "trains no head 'attribute'"),
    ({}, {"data": "data/plain.jsonl"}, "problem q: its answer 'red'"),
    ({}, {"trials": "data/plain.jsonl"}, "problem q: its answer 'red'"),
    ({"labels": "models"}, {}, "no teacher 'checker'"),
  ],
)
def test_mistakes_are_found_first(fresh, tmp_path, models, settings, want):
  workdir = shutil.copytree(fresh, tmp_path / "W")
  row = {"id": "q", "question": "Look", "answer": "red"}
  write_jsonl(workdir / "data" / "plain.jsonl", [row])
  if "data" in settings:
    settings = {**settings, "groups": 1}
  with pytest.raises(SophiaError, match=want) as error:
    preflight.check(prepared(workdir, models, **settings))
  assert "\n" not in str(error.value)


def test_a_run_ends_with_a_policy(fresh):
  run = prepared(fresh)
  run.config.order = ("rewards",)
  with pytest.raises(SophiaError, match="'rewards', is a reward model"):
    preflight.check(run)


def test_a_file_labels_nothing(fresh):
  run = prepared(fresh, {"labels": "models"})
  run.config.teachers = {
    name: {"file": "labels.jsonl"} for name in ("extractor", "checker")
  }
  with pytest.raises(SophiaError, match=r"checker\.file: .*give path") as error:
    preflight.check(run)
  assert "\n" not in str(error.value)


def test_a_stage_starts_from_a_policy_and_not_from_a_reward_model(fresh):
  run = prepared(fresh, start="previous")
  assert run.start(run.last()) == run.path(run.config.policy.path)
  named = prepared(fresh, start="rewards")
  assert named.start(named.last()).parent.name == "rewards"


@pytest.mark.slow
def test_labels_of_models_that_say_nothing_are_learnt_by_none(fresh, tmp_path):
  """Both teachers are the policy: it lists no facts, and all is unknown."""
  workdir = shutil.copytree(fresh, tmp_path / "W")
  run = prepared(workdir, {"labels": "models", "n": 1})
  run.config.teaching.max_new_tokens = 8
  run.config.engine.length = 1536
  run.config.teachers = {
    name: {"path": "models/policy"} for name in ("extractor", "checker")
  }
  preflight.check(run)
  run.begin()
  with pytest.raises(SophiaError, match="no trajectory is selected") as error:
    pipeline.learn(run, stages.read(run.config, "rewards"))
  assert "\n" not in str(error.value)
