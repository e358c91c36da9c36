"""Experiments' files, the units they ask for, and tables of stored results."""

import dataclasses
import functools
import operator
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sophia_jax.evidence import (
  __main__ as evidence,
)
from sophia_jax.evidence import (
  costs,
  experiment,
  pages,
  runner,
  summary,
  tables,
)
from sophia_jax.files import JsonLines
from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError

TOY = Path(__file__).with_name("toy.toml")
ROOT = Path(__file__).parents[2]
KNOWN = sorted((ROOT / "configs/evidence").glob("*.toml"))
RESULTS = ROOT / "docs/results/evidence"
PUBLISHED = [path for path in KNOWN if (RESULTS / f"{path.stem}.md").exists()]


@pytest.fixture(scope="module")
def toy():
  return experiment.read(TOY)


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.stem)
def test_the_projects_experiments_are_read(path):
  found = experiment.read(path)
  assert found.seeds >= 6, "five seeds cannot reach 0.05"
  # The echo trap ran before rounds had an order that a repeat could change.
  noisy = found.repeats >= 2 or found.collapse
  # Three were shortened; the file has to say so, where claim and arms are.
  confessed = "no arm against itself" in path.read_text()
  assert noisy or confessed, "an arm against itself shows the noise"
  for arm in found.arms:
    assert (ROOT / (arm.config or found.config)).is_file()


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.stem)
def test_the_projects_arms_can_be_run(path, tmp_path):
  """Their keys are the config's, and every stage has something to start from."""
  what = experiment.read(path)
  shared = what.given and {**what.given.settings, "order": what.given.stages}
  for arm in [*what.arms, *([None] if shared else [])]:
    seeded = dict.fromkeys(what.seeded, 9)
    own = {**arm.settings, **seeded} if arm else shared
    config = arm.config if arm else ""
    get = runpy.run_path(str(ROOT / (config or what.config)))["get_config"]
    changed = get()
    for key, value in {**what.settings, **own}.items():
      *place, last = key.split(".")
      row = functools.reduce(operator.getitem, place, changed)
      assert last in row, key
      row[last] = tuple(value) if isinstance(value, list) else value
    run = Run(changed, str(tmp_path / "W"))
    run.check_order()
    for stage in run.stages():
      assert run.start(stage) and run.sampler(stage)


def test_units_share_the_base_of_their_seed(toy, tmp_path):
  units = list(experiment.units(toy, (0, 1)))
  assert len({u.key for u in units}) == len(units) == 2 * 2 * 3
  assert units[0].key == (0, "full", 0)
  commands = {
    u.key: runner._flags(toy, u, tmp_path / str(u.seed), tmp_path / "given")
    for u in units
  }
  place, command = commands[0, "full", 0]
  assert place == tmp_path / "0/base"
  assert f"--workdir={place}" in command and "--config.seed=0" in command
  assert not [flag for flag in command if flag.startswith("--config.base")]
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


SHARED = """
[given]
stages = ["reasoner", "warmup"]
settings = { "eval.limit" = 2 }

[arms.full]"""
FEWER = """
seeded = ["prepare.corpus.draw"]
repeated = ["full"]
seeds = 3"""


@pytest.fixture
def sharing(tmp_path):
  """The toy, with models that all seeds share."""
  path = tmp_path / "sharing.toml"
  text = TOY.read_text().replace("[arms.full]", SHARED, 1)
  path.write_text(text.replace("seeds = 3", FEWER, 1))
  return experiment.read(path)


def test_seeds_may_share_models_and_arms_have_fewer_updates(sharing, tmp_path):
  units = list(experiment.units(sharing, (0, 1)))
  assert [u.key for u in units if u.seed == 1] == [
    (1, "full", 0),
    (1, "random", 0),
    (1, "grpo", 0),
    (1, "full", 1),
  ]
  given = tmp_path / "given"
  _, command = runner._flags(sharing, units[-1], tmp_path / "1", given)
  assert f"--config.base={tmp_path / 'given'}" in command
  assert {"--config.seed=1", "--config.prepare.corpus.draw=1"} <= {*command}
  assert "--config.eval.limit=2" not in command
  apart = dataclasses.replace(
    units[2], arm=experiment.Arm(name="other", apart=True)
  )
  place, command = runner._flags(sharing, apart, tmp_path / "1", given)
  assert place == tmp_path / "1/other-0"
  assert {f"--workdir={place}", f"--config.base={given}"} <= {*command}
  assert "--config=configs/quickstart.py" in command


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
    ("[arms.random]", "[arms.start]", "arms.start: has another meaning"),
    ("seeds = 3", 'seeds = 3\nrepeated = ["ful"]', "did you mean 'full'?"),
    ("seeds = 3", 'seeds = 3\nrepeated = ["grpo"]', "repeated: add 'full'"),
    ("seeds = 3", "seeds = 3\ngiven = 1", "given: needs a table"),
    ("[arms.full]", "[given]\n[arms.full]", "given: stages is missing"),
    ("seeds = 3", "seeds = 3\nseeded = 'a'", "seeded='a': needs a list"),
    ("seeds = 3", "seeds = '3'", "seeds='3': needs a whole number"),
    (
      "[arms.grpo]",
      "[arms.grpo]\napart = true",
      "grpo.apart: needs a table [g",
    ),
    ("[arms.grpo]", "[arms.grpo]\napart = 1", "needs true or false"),
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


def stored(path, toy, values, digest="", learnt=None):
  """Writes results: {arm: [measure of seed 0, ...]}, each twice.

  Args:
    learnt: another measure, in the same form.
  """
  with JsonLines(path, *runner.LINE) as lines:
    for arm, measures in values.items():
      for seed, value in enumerate(measures):
        for repeat in (0, 1):
          row = {
            "experiment": digest or toy.digest,
            "seed": seed,
            "arm": arm,
            "repeat": repeat,
            "measures": {
              "pass_at_1.before.value": 0.02 + 0.002 * seed,
              "pass_at_1.after.value": value + 0.01 * repeat,
              "reading.after.tokens": 40 * value,
              **({"reading.learnt.scene": learnt[arm][seed]} if learnt else {}),
            },
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
  assert "| arm | pass@1, % | `reading.after.scene`, % | `reading" in text
  every = "50.5, 52.5, 48.5, 51.5, 49.5, 50.5"
  assert f"| full | 50.5 ± 1.4 | - | 20.0 ± 0.6 | {every} |" in text
  assert "| start | 2.5 ± 0.4 | - | - | 2.0, 2.2, 2.4, 2.6, 2.8, 3.0 |" in text
  found = [line for line in text.splitlines() if "**confirmed**" in line]
  assert [line.split("|")[1].strip() for line in found] == [
    "full > random",
    "full = grpo",
    "grpo > full > random",
    "random > start",
  ]
  assert "| full > random | pass@1 | +10.0 [" in found[0]
  assert "another order of sequences): -1.0 [" in text
  assert "does not cover" in text
  assert text.splitlines()[-3].endswith("| - | 1, -, 1 | not run |")


def test_one_seed_has_no_interval(toy, tmp_path):
  path = stored(tmp_path / "r.jsonl", toy, {"full": [0.5], "random": [0.4]})
  text = "\n".join(tables.lines(toy, runner.read(toy, path)))
  assert "| full > random | pass@1 | +10.0 (no interval) |" in text
  assert "another order of sequences): -1.0 (no interval): one seed." in text
  assert "inf" not in text


def test_a_measure_s_hypotheses_are_a_family(toy, tmp_path):
  """p is adjusted among four hypotheses, and among one."""
  values = {
    "full": [0.50, 0.52, 0.48, 0.51, 0.49, 0.50],
    "random": [0.40, 0.43, 0.37, 0.41, 0.38, 0.41],
    "grpo": [0.51, 0.52, 0.49, 0.50, 0.49, 0.51],
  }
  path = stored(tmp_path / "r.jsonl", toy, values, learnt=values)
  *family, other = tables.tested(toy, runner.read(toy, path))
  assert [one.title for one in family][-1] == "random > start"
  expected = tables.paired.holm([one.p for one in family])
  assert [one.adjusted for one in family] == expected
  assert other.hypothesis.measure == "reading.learnt.scene"
  assert other.adjusted == other.p == family[0].p < family[0].adjusted


def test_the_page_has_a_picture_of_every_seed(sharing, tmp_path):
  values = {
    "full": [0.50, 0.52, 0.48],
    "random": [0.40, 0.43, 0.37],
    "grpo": [0.51, 0.52, 0.49],
  }
  path = stored(tmp_path / "r.jsonl", sharing, values)
  made = pages.files(sharing, runner.read(sharing, path))
  assert "All seeds share the result of reasoner, warmup: " in made[".md"]
  assert "2 updates of full, 1 of each other arm" in made[".md"]
  assert made[".md"].startswith("<!-- Generated by `python -m")
  assert "(sharing.svg)" in made[".md"]
  root = ElementTree.fromstring(made[".svg"])
  name = "{http://www.w3.org/2000/svg}"
  # Of four hypotheses, since nothing is known of what is learnt.
  assert len(root.findall(f"{name}circle")) == 4 * 3
  texts = [element.text for element in root.findall(f"{name}text")]
  assert {"full > random: pass@1", "0", "+15"} <= {*texts}


def test_a_claim_may_be_contradicted_or_not_shown(toy, tmp_path):
  values = {
    "full": [0.40, 0.43, 0.37, 0.41, 0.38, 0.41],
    "random": [0.50, 0.52, 0.48, 0.51, 0.49, 0.50],
  }
  path = stored(tmp_path / "r.jsonl", toy, values)
  lines = tables.lines(toy, runner.read(toy, path))
  rows = {
    line.split("|")[1].strip(): line
    for line in lines
    if line[:1] == "|" and "learnt" not in line
  }
  assert "**contradicted**" in rows["full > random"]
  assert "not run" in rows["full = grpo"] and "-" in rows["grpo"]


@pytest.mark.parametrize(
  ("shift", "found"),
  [(0.0, "confirmed"), (0.04, "not shown"), (-0.12, "contradicted")],
)
def test_two_arms_are_the_same_within_the_smallest_effect(
  toy, tmp_path, shift, found
):
  """Contradicted where the whole interval is beyond it, to either side."""
  full = [0.50, 0.52, 0.48, 0.51, 0.49, 0.50]
  noise = [0.01, -0.02, 0.02, -0.01, 0.02, 0.00]
  moved = [a + b + shift for a, b in zip(full, noise, strict=True)]
  for arms in ((full, moved), (moved, full)):
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    stored(path, toy, dict(zip(("full", "grpo"), arms, strict=True)))
    made = tables.tested(toy, runner.read(toy, path))
    (same,) = (one for one in made if one.title == "full = grpo")
    assert same.found.strip("*") == found


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_pages_are_computed_from_the_results(path):
  """`python -m sophia_jax.evidence table NAME --write` makes them."""
  what = experiment.read(path)
  rows = runner.read(what, RESULTS / f"{path.stem}.jsonl")
  for suffix, text in pages.files(what, rows).items():
    assert (RESULTS / path.stem).with_suffix(suffix).read_text() == text


@pytest.mark.parametrize("command", ["list", "summary", "table keep"])
def test_outside_of_the_repository_is_one_line(
  command, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert evidence.main(command.split()) == 1
  said = capsys.readouterr()
  assert said.err.strip().endswith("no experiments; start in the repository")
  assert not said.out


def test_every_hypothesis_is_in_the_published_summary(monkeypatch):
  """`python -m sophia_jax.evidence summary --write` makes it."""
  monkeypatch.chdir(ROOT)
  made = summary.text(evidence.published())
  assert (RESULTS / "summary.md").read_text() == made
  table5 = experiment.read(ROOT / "configs/evidence/table5.toml")
  assert made.count("(table5.md)") == len(table5.hypotheses)
  assert "| table5 | full | pass@1 | +0.6 [" in made


def test_the_start_is_that_of_the_first_arm(toy):
  """Another arm may start from something else."""
  rows = [
    {
      "seed": 0,
      "arm": arm,
      "repeat": 0,
      "measures": {"pass_at_1.before.value": before},
    }
    for arm, before in (("full", 0.1), ("grpo", 0.5))
  ]
  found = tables.values(toy, rows, "pass_at_1.after.value")
  assert found == {experiment.START: {0: 0.1}}


def test_the_cost_is_of_what_is_left(toy):
  rows = [
    {"seed": 0, "arm": "full", "repeat": 0, "seconds": 100.0},
    {"seed": 0, "arm": "random", "repeat": 0, "seconds": 40.0},
  ]
  none = "toy: 0 of 6 units done, 6 left; no unit is timed yet"
  assert costs.said(toy, (0,), []) == none
  # full, random and twice grpo, which takes as long as the others do.
  some = "toy: 2 of 6 units done, 4 left, about 5 min by those that are done"
  assert costs.said(toy, (0,), rows) == some
  every = [
    {"seed": 0, "arm": arm, "repeat": n, "seconds": 1.0}
    for arm in ("full", "random", "grpo")
    for n in (0, 1)
  ]
  assert costs.said(toy, (0,), every).endswith("6 of 6 units done, 0 left")


def test_numbers_of_a_report():
  report = {
    "seed": 3,
    "pass_at_1": {"after": {"value": 0.5, "n": 40}},
    "pass_at_k": {"before": None, "after": {"64": {"value": 0.75}}},
    "reading": {"after": {"scene": None, "right": {"clear": 0.25}}},
    "seconds": {"data": 2},
    "stages": [{"name": "sft", "updates": 7}, {"name": "grpo", "base": True}],
  }
  assert dict(runner.numbers(report)) == {
    "pass_at_1.after.value": 0.5,
    "pass_at_1.after.n": 40,
    "pass_at_k.after.64.value": 0.75,
    "reading.after.right.clear": 0.25,
    "stages.sft.updates": 7,
  }
