"""--help of the commands that take a config."""

import importlib

import pytest

from launch import keys
from sophia_jax.types import SophiaError
from tests.launch.commands import assert_refused

CONFIG = "--config=configs/digits/grpo.py"


def config_of(name):
  return importlib.import_module(f"configs.{name}").get_config()


def flat(config, prefix=""):
  for key, value in config.items():
    if hasattr(value, "items"):
      yield from flat(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


@pytest.mark.parametrize(
  "name", ["quickstart", "digits.grpo", "digits.linvit", "internvl3_38b"]
)
def test_every_key_has_a_type_its_value_and_a_meaning(name):
  config = config_of(name)
  found = {k.name: k for s in keys.sections(config) for k in s.keys}
  values = dict(flat(config))
  inside = {k for k in values if not k.startswith("topologies.")}
  assert found.keys() == inside
  for key in found.values():
    assert key.value == values[key.name], key
    assert key.doc and key.type, key


def test_an_overview_names_every_key_once_in_few_lines():
  config = config_of("digits.grpo")
  text = keys.overview(config)
  assert max(map(len, text.splitlines())) <= keys.WIDTH
  assert "  config.answering, config.captioning, " in text
  words = set(text.replace(",", " ").replace(":", " ").split())
  assert {"n", "learning_rate", "config.stages.grpo.train"} <= words
  assert text.count("microbatches") == 1
  assert len(text.splitlines()) < 150


def test_a_section_is_explained_with_what_is_inside_it():
  text = keys.explained(config_of("digits.grpo"), "stages.grpo")
  lines = text.splitlines()
  at = next(
    i for i, s in enumerate(lines) if s.startswith("  --config.stages.grpo.n: ")
  )
  assert lines[at + 1 : at + 3] == ["    (default: 8)", "    (int)"]
  assert "--config.stages.grpo.rounds: " in text
  assert "--config.stages.grpo.train.rows: " in text
  assert "--config.stages.sophia" not in text


def test_one_key_and_all():
  config = config_of("digits.grpo")
  (line, *_) = keys.explained(config, "config.seed").splitlines()
  assert line == f"  --config.seed: {keys.PLAIN['seed']}"
  everything = keys.explained(config, keys.ALL)
  assert everything.count("  --config.") == sum(
    len(section.keys) for section in keys.sections(config)
  )


def test_a_misspelt_section_is_named():
  with pytest.raises(SophiaError, match=r"--help='enigne'.*'engine'"):
    keys.explained(config_of("digits.grpo"), "enigne")


def test_help_lists_the_flags_then_the_keys(command):
  done = command("launch.run", CONFIG, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  flags, _, listed = done.stdout.partition("keys of configs/digits/grpo.py")
  for name in ("--workdir:", "--name:", "--stage:"):
    assert flags.count(name) == 1
  assert "--help=SECTION" in listed
  assert "config.stages.grpo:" in listed


def test_help_explains_a_section_and_needs_a_config_for_it(command):
  done = command("launch.plan", CONFIG, "--help=mesh")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("  --config.mesh.")
  done = command("launch.plan", "--help=mesh")
  assert_refused(done, "--help=mesh: give --config=FILE as well")
