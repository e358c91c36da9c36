"""State files, model directories and problems: damaged, and of other types."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from sophia_jax.checkpoints import load_params, read_config
from sophia_jax.checkpoints.config import added_tokens
from sophia_jax.checkpoints.tiling import read_tiling
from sophia_jax.config import section
from sophia_jax.data.problems import check, load_problems
from sophia_jax.data.vocabulary import Vocabulary, open_tokenizer
from sophia_jax.evals.compare import read_scores
from sophia_jax.evals.responses import Responses
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.rollout.store import Store
from sophia_jax.runs.run import Base, Run
from sophia_jax.train import metrics
from sophia_jax.train.session import TrainConfig
from sophia_jax.types import SophiaError
from tests.fuzz.fuzzing import examples, one_line
from tests.fuzz.hostile import DEEP, HUGE, VALUES, changed, damaged
from tests.launch import commands
from tests.rollout import little

CONFIG = {"order": ["a"], "stages": {"a": {}}, "seed": 1}
SECONDS = {"a": 1.5, "a/sample": 2}
ROW = {"step": 1, "loss": 0.5}
SETTINGS = {"model": "ab", "temperature": 1.0}
STATE = {
  "config.json": CONFIG,
  "stages.json": SECONDS,
  "metrics.jsonl": ROW,
  "x.settings.json": SETTINGS,
  "store.json": {"format": 2, "meta": {"seed": 1}},
  "scores.json": {"responses": [{"id": "1", "status": "right"}]},
}
ODD = ["", "null", "3", '"x"', "[]", "{", "{}", DEEP, "\ufeff{}", "9" * 5000]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("state")


def read_state(place, name):
  """Reads one state file as the command does that needs it."""
  path = place / name
  if name in ("config.json", "stages.json"):
    base = one_line(lambda: Base(place))
    if base is not None:
      base.done("a")
      base.directory("a")
    config = ConfigDict({"seed": 1, "order": ["a"]})
    one_line(lambda: Run(config, str(place)).done("a"))
  elif name == "metrics.jsonl":
    one_line(lambda: metrics.read(path))
  elif name == "x.settings.json":
    lines = place / "x.responses.jsonl"
    lines.write_text('{"id": "1", "sample": 0, "asked": "a"}\n')
    one_line(lambda: Responses(lines, SETTINGS).__exit__())
  elif name == "store.json":
    one_line(lambda: Store(place, read_only=True).close())
  else:
    one_line(lambda: read_scores(path))


def lay_out(place):
  for name, value in STATE.items():
    (place / name).write_text(json.dumps(value) + "\n")


@pytest.mark.parametrize("name", STATE)
def test_state_of_another_type(name, place):
  lay_out(place)
  for text in ODD:
    (place / name).write_text(text + "\n", encoding="utf-8")
    read_state(place, name)
  (place / name).unlink()
  (place / name).mkdir()
  one_line(lambda: Base(place))
  (place / name).rmdir()


@examples(60)
@given(data=st.data())
def test_damaged_state(data, place):
  lay_out(place)
  name = data.draw(st.sampled_from(sorted(STATE)))
  value = STATE[name]
  if data.draw(st.booleans()):
    content = data.draw(damaged(json.dumps(value).encode() + b"\n"))
  else:
    content = json.dumps(data.draw(changed(value))).encode() + b"\n"
  (place / name).write_bytes(content)
  read_state(place, name)


# ------------------------------------------------------------------ configs, seeds
@pytest.mark.parametrize("seed", [-1, HUGE, 1 << 32, "1", None, 1.5])
def test_seeds_out_of_range(seed, tmp_path):
  with pytest.raises(SophiaError, match=r"config\.seed=.*2\*\*32 - 1"):
    Run(ConfigDict({"seed": seed}), str(tmp_path))


@examples(80)
@given(data=st.data())
def test_settings_of_another_type(data):
  kind = data.draw(st.sampled_from([TrainConfig, EngineConfig]))
  known = sorted(kind.__dataclass_fields__)
  values = data.draw(
    st.dictionaries(st.sampled_from(known), VALUES, max_size=2)
  )
  one_line(lambda: section(kind, values, "x"))


def test_a_negative_count_is_refused():
  with pytest.raises(SophiaError, match=r"config\.x\.rows=-1: is negative"):
    section(TrainConfig, {"rows": -1}, "x")
  with pytest.raises(SophiaError, match=r"epochs=.*must be a whole number"):
    section(TrainConfig, {"epochs": 1.5}, "x")


# --------------------------------------------------------------- model directories
@pytest.fixture(scope="module")
def model(tmp_path_factory):
  root = tmp_path_factory.mktemp("model")
  words = str(root / "words")
  little.renderer(words, True)
  return commands.export(root / "model", root / "words", True)


def open_model(directory):
  cfg = one_line(lambda: read_config(directory))
  one_line(lambda: added_tokens(directory))
  one_line(lambda: read_tiling(directory))
  one_line(lambda: Vocabulary(open_tokenizer(str(directory)), "here"))
  if cfg is not None and cfg.decoder.width <= 64 and cfg.decoder.depth < 8:
    one_line(lambda: load_params(directory, cfg))


@examples(8)
@given(data=st.data())
def test_damaged_model_directories(data, model, tmp_path_factory):
  place = tmp_path_factory.mktemp("damaged") / "m"
  shutil.copytree(model, place)
  names = sorted(p.name for p in place.iterdir() if p.is_file())
  path = place / data.draw(st.sampled_from(names))
  whole = path.read_bytes()
  if path.suffix == ".json" and data.draw(st.booleans()):
    path.write_text(json.dumps(data.draw(changed(json.loads(whole)))))
  else:
    path.write_bytes(data.draw(damaged(whole)))
  open_model(place)
  shutil.rmtree(place)


# ------------------------------------------------------------------------ problems
PROBLEM = {
  "id": "a/1",
  "question": "How many?",
  "answer": "6",
  "choices": ["5", "6"],
  "tolerance": [0.1],
  "tags": {"level": "1"},
}


@examples(60)
@given(data=st.data())
def test_problems(data, place):
  path = place / "p.jsonl"
  if data.draw(st.booleans()):
    content = data.draw(damaged(json.dumps(PROBLEM).encode() + b"\n"))
  else:
    content = json.dumps(data.draw(changed(PROBLEM))).encode() + b"\n"
  path.write_bytes(content)
  for error in check(path):
    assert "\n" not in str(error)
  one_line(lambda: load_problems(path))
