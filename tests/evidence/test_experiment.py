"""Experiments' files, the units they ask for, and tables of stored results."""

import sys
from pathlib import Path

import pytest

from sophia_jax.evidence import experiment, runner, tables
from sophia_jax.files import JsonLines
from sophia_jax.types import SophiaError

TOY = Path(__file__).with_name("toy.toml")
ROOT = Path(__file__).parents[2]
KNOWN = sorted((ROOT / "configs/evidence").glob("*.toml"))


@pytest.fixture(scope="module")
def toy():
  return experiment.read(TOY)


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.stem)
def test_the_projects_experiments_are_read(path):
  found = experiment.read(path)
  assert found.seeds >= 6, "five seeds cannot reach 0.05"
  # Rounds have no order of sequences that a repeat could change.
  noisy = found.repeats >= 2 or found.collapse
  assert noisy, "an arm against itself shows the noise"
  for arm in found.arms:
    assert (ROOT / (arm.config or found.config)).is_file()


def test_units_share_the_base_of_their_seed(toy, tmp_path):
  units = list(experiment.units(toy, (0, 1)))
  assert len({u.key for u in units}) == len(units) == 2 * 2 * 3
  assert units[0].key == (0, "full", 0)
  commands = {
    u.key: runner._command(toy, u, tmp_path / str(u.seed)) for u in units
  }
  place, command = commands[0, "full", 0]
  assert place == tmp_path / "0/base"
  assert command[:3] == [sys.executable, "-m", "launch.run"]
  assert f"--workdir={place}" in command and "--config.seed=0" in command
  assert not [flag for flag in command if flag.startswith("--name")]
  again, command = commands[1, "full", 1]
  assert again == tmp_path / "1/base/updates/full-1"
  assert {"--name=full-1", "--config.stages.sophia.train.order=1"} <= {*command}
  place, command = commands[1, "random", 0]
  assert place == tmp_path / "1/base/updates/random-0"
  assert "--config.stages.sophia.random=true" in command
  place, command = commands[0, "grpo", 0]
  assert place == tmp_path / "0/grpo-0"
  assert f"--config.base={tmp_path / '0/base'}" in command
  assert "--config=configs/digits/grpo.py" in command


# --------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
  ("old", "new", "said"),
  [
    ("title =", "titel =", "titel: no such key; did you mean 'title'?"),
    ('primary = "pass_at_1.after.value"', "", "primary is missing"),
    (
      'arms = ["full", "random"]',
      'arms = ["full", "randum"]',
      "no arm 'randum'",
    ),
    ('arms = ["full", "random"]', 'arms = ["full"]', "needs 2 arms"),
    ('kind = "above"', 'kind = "over"', "one of above, same, order, later"),
    ('stage = "sophia"', "", "repeats=2 needs a stage"),
    ("[arms.full]", '[arms.full]\nconfig = "c.py"', "the first is the base"),
    ("[arms.full]", "[arms.full", "toy.toml"),
  ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, old, new, said):
  path = tmp_path / "toy.toml"
  text = TOY.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(SophiaError) as e:
    experiment.read(path)
  assert said in str(e.value) and str(path) in str(e.value)


def stored(path, toy, values, digest=""):
  """Writes results: {arm: [measure of seed 0, ...]}, each twice."""
  with JsonLines(path, *runner.LINE) as lines:
    for arm, measures in values.items():
      for seed, value in enumerate(measures):
        for repeat in (0, 1):
          row = {
            "experiment": digest or toy.digest,
            "seed": seed,
            "arm": arm,
            "repeat": repeat,
            "measures": {"pass_at_1.after.value": value + 0.01 * repeat},
          }
          lines.append(row)
  return path


def test_results_of_another_version_are_refused(toy, tmp_path):
  path = stored(tmp_path / "r.jsonl", toy, {"full": [0.5]}, digest="other")
  with pytest.raises(
    SophiaError, match=r"r\.jsonl:1: of another version of toy"
  ):
    runner.read(toy, path)
  with pytest.raises(SophiaError, match="no such results; run the experiment"):
    runner.read(toy, tmp_path / "none.jsonl")


# ----------------------------------------------------------------------- tables
def test_the_table_says_what_was_found(toy, tmp_path):
  values = {
    "full": [0.50, 0.52, 0.48, 0.51, 0.49, 0.50],
    "random": [0.40, 0.43, 0.37, 0.41, 0.38, 0.41],
    "grpo": [0.51, 0.52, 0.49, 0.50, 0.49, 0.51],
  }
  path = stored(tmp_path / "r.jsonl", toy, values)
  text = "\n".join(tables.lines(toy, runner.read(toy, path)))
  assert "6 seeds of 3, 2 updates an arm" in text
  assert (
    "| full | 50.5 ± 1.4 | - | 50.5, 52.5, 48.5, 51.5, 49.5, 50.5 |" in text
  )
  found = [line for line in text.splitlines() if "**confirmed**" in line]
  assert [line.split("|")[1].strip() for line in found] == [
    "full > random",
    "full = grpo",
    "grpo > full > random",
  ]
  assert "| full > random | +10.0 [" in found[0]
  assert "another order of sequences): -1.0 [" in text
  assert "does not cover" in text


def test_a_claim_may_be_contradicted_or_not_shown(toy, tmp_path):
  values = {
    "full": [0.40, 0.43, 0.37, 0.41, 0.38, 0.41],
    "random": [0.50, 0.52, 0.48, 0.51, 0.49, 0.50],
  }
  path = stored(tmp_path / "r.jsonl", toy, values)
  lines = tables.lines(toy, runner.read(toy, path))
  rows = {line.split("|")[1].strip(): line for line in lines if line[:1] == "|"}
  assert "**contradicted**" in rows["full > random"]
  assert "not run" in rows["full = grpo"] and "-" in rows["grpo"]


def test_numbers_of_a_report():
  report = {
    "seed": 3,
    "pass_at_1": {"after": {"value": 0.5, "n": 40}},
    "reading": {"after": {"scene": None, "right": {"clear": 0.25}}},
    "seconds": {"data": 2},
  }
  assert dict(runner.numbers(report)) == {
    "pass_at_1.after.value": 0.5,
    "pass_at_1.after.n": 40,
    "reading.after.right.clear": 0.25,
  }
