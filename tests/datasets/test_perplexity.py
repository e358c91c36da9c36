"""The examples that models find hardest to say."""

import json
import math

import pytest

from sophia_jax.data.problems import load_examples
from sophia_jax.datasets.__main__ import main
from sophia_jax.datasets.perplexity import perplexities
from tests.rollout import little

SCORES = {"a": [0.1, 0.3], "b": [2.0], "c": [1.0, 1.0, 1.0], "d": [0.1]}


def lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


@pytest.fixture
def files(tmp_path):
  images = tmp_path / "images"
  images.mkdir()
  (image, *_) = little.pictures(images)
  examples = [
    {"id": i, "question": "Q", "response": i, "images": ["images/0.png"]}
    for i in SCORES
  ]
  scores = [
    {"id": i, "token_ids": [1], "logprobs": [-p for p in logps]}
    for i, logps in SCORES.items()
  ]
  flat = [{"id": i, "logprobs": [-0.5]} for i in SCORES]
  return (
    lines(tmp_path / "examples.jsonl", examples),
    lines(tmp_path / "one.jsonl", scores),
    lines(tmp_path / "two.jsonl", flat),
    image,
  )


def test_the_hardest_stay_in_their_order(files, tmp_path, capsys):
  examples, one, two, image = files
  found = perplexities(one)
  assert found["a"] == pytest.approx(math.exp(0.2))
  assert found["c"] == pytest.approx(math.e)
  out = tmp_path / "hard" / "h.jsonl"
  arguments = ["--keep", "2", "--out", str(out)]
  assert not main(
    ["hardest", str(examples), "--scores", str(one), str(two), *arguments]
  )
  kept = load_examples(out)
  assert [e.id for e in kept] == ["b", "c"]
  assert kept[0].images == (image,)
  assert "2 of 4 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("row", "said"),
  [
    ({"id": "a", "logprobs": [math.nan]}, "one.jsonl:1: no id and logprobs"),
    ({"id": "a", "logprobs": []}, "no id and logprobs"),
    ({"id": "a"}, "write it with python -m launch.score"),
    ({"id": "a", "logprobs": [-1]}, "no score of example 'b'"),
  ],
)
def test_scores_that_do_not_fit_are_one_line(
  files, tmp_path, capsys, row, said
):
  examples, one, *_ = files
  lines(one, [row])
  out = tmp_path / "h.jsonl"
  assert main(f"hardest {examples} --scores {one} --keep 1 --out {out}".split())
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and said in error
  assert not out.exists()
