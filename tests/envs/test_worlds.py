"""Files of starts: readable, different, held out, and the command that makes
them."""

import json

import numpy as np
import pytest
from PIL import Image

from sophia_jax.data.problems import check, load_examples, load_problems
from sophia_jax.envs import registry
from sophia_jax.envs.__main__ import main
from sophia_jax.envs.episode import Episode, Limits, parse, said
from sophia_jax.envs.worlds import WorldConfig, write

ENVS = ("bandit", "frozen_lake", "sokoban")


@pytest.mark.parametrize("env", ENVS)
def test_starts_are_problems_and_none_is_held_out_and_trained(env, tmp_path):
  size = 6 if env == "sokoban" else 3
  config = WorldConfig(
    env=env, problems=40, heldout=20, examples=15, size=size, noise=0.0
  )
  write(tmp_path, config, "Play.", 0)
  train, held_out = (
    load_problems(tmp_path / f"{name}.jsonl")
    for name in (env, f"{env}_heldout")
  )
  assert (len(train), len(held_out)) == (40, 20)
  assert len({p.answer for p in (*train, *held_out)}) == 60
  for p in train:
    start = registry.of(p)
    assert p.question == f"{start.rules()}\n{start.text(start.start())}"
  examples = load_examples(tmp_path / f"{env}_expert.jsonl")
  assert {e.system for e in examples} == {"Play."}
  names = registry.of(train[0]).actions
  for e in examples:
    found = parse(e.response, e.question.split() if env == "bandit" else names)
    assert found.valid and found.actions


def test_an_expert_without_noise_solves(tmp_path):
  config = WorldConfig(env="sokoban", problems=10, heldout=0, size=6)
  write(tmp_path, config, "", 1)
  for problem in load_problems(tmp_path / "sokoban.jsonl"):
    env = registry.of(problem)
    episode = Episode(env, Limits(turns=20, actions=20), 0)
    while episode.end is None:
      episode.answer(said([env.actions[env.advice(episode.state)]]))
    assert episode.solved


def test_boards_are_shown_as_pictures(tmp_path):
  config = WorldConfig(problems=3, heldout=0, pictures=True, rules=False)
  write(tmp_path, config, "", 0)
  assert not check(tmp_path / "frozen_lake.jsonl")
  for problem in load_problems(tmp_path / "frozen_lake.jsonl"):
    env = registry.of(problem)
    pixels = np.asarray(Image.open(problem.images[0]))
    assert np.array_equal(pixels, env.picture(env.start()))
    assert problem.question == "The board is in the image."


def test_the_command_writes_and_refuses(tmp_path, capsys):
  out = str(tmp_path / "d")
  few = ["--problems=4", "--heldout=2", "--no-rules"]
  assert main(["frozen_lake", out, *few, "--examples=3"]) == 0
  assert "4 problems" in capsys.readouterr().out
  again = str(tmp_path / "e")
  assert main(["frozen_lake", again, *few]) == 0
  one, two = (
    (tmp_path / d / "frozen_lake.jsonl").read_text().splitlines() for d in "de"
  )
  assert one == two and json.loads(one[0])["source"] == "frozen_lake"
  for bad, want in (
    (["bandit", out, "--problems=400"], "288 different starts"),
    (["bandit", out, "--pictures"], "a bandit has none"),
    (["sokoban", out, "--size=4"], "no room to push"),
  ):
    capsys.readouterr()
    assert main(bad) == 1
    said = capsys.readouterr().err
    assert want in said and said.count("\n") == 1
