"""Two evaluations of the same problems, and the paper's."""

import json

import pytest

from sophia_jax.evals import paper
from sophia_jax.evals.benchmarks import dynamath
from sophia_jax.evals.compare import compare
from sophia_jax.evals.stats import mcnemar, paired_bootstrap
from sophia_jax.evals.summary import PLAIN, row, summarise, write
from sophia_jax.types import SophiaError
from tests.evals.answering import scored


def written(path, all_scored):
  rows = [
    row(s.problem, i, grade)
    for s in all_scored
    for i, grade in enumerate(s.grades)
  ]
  write(path, summarise(all_scored, PLAIN), rows)
  return path


def test_one_answer_each_is_mcnemars(tmp_path):
  before, after = "1100110000", "1111111001"
  old = [scored(str(i), r) for i, r in enumerate(before)]
  new = [scored(str(i), r) for i, r in enumerate(after)]
  found = compare(written(tmp_path / "old.json", old), new, PLAIN)
  gained, lost, p = mcnemar(
    [r == "1" for r in before], [r == "1" for r in after]
  )
  assert (found["test"], found["gained"], found["lost"]) == (
    "McNemar",
    gained,
    lost,
  )
  assert found["p"] == p and (gained, lost) == (4, 0)
  assert (found["before"], found["after"], found["n"]) == (0.4, 0.8, 10)


def test_several_samples_are_a_paired_bootstrap(tmp_path):
  old = [scored(str(i), r) for i, r in enumerate(["10", "00", "11"] * 20)]
  new = [scored(str(i), r) for i, r in enumerate(["1110", "1000", "1111"] * 20)]
  found = compare(written(tmp_path / "old.json", old), new, PLAIN)
  low, high, p = paired_bootstrap([0.5, 0, 1] * 20, [0.75, 0.25, 1] * 20)
  assert (found["low"], found["high"], found["p"]) == (low, high, p)
  assert found["test"] == "paired bootstrap" and p < 0.001
  assert found["after"] - found["before"] == pytest.approx(1 / 6)


def test_variants_are_one_unit(tmp_path):
  """Ten variants of one question that change together are no ten questions."""
  names = [f"dynamath/trial{t}/{q}" for q in range(2) for t in range(10)]
  old = [scored(name, "0") for name in names]
  new = [scored(name, "1" if name.endswith("/0") else "0") for name in names]
  path = written(tmp_path / "old.json", old)
  found = compare(path, new, dynamath.BENCHMARK)
  assert found["test"] == "paired bootstrap" and found["p"] > 0.4
  assert compare(path, new, PLAIN)["p"] < 0.01


def test_only_common_problems_are_compared(tmp_path):
  path = written(tmp_path / "old.json", [scored("1", "0"), scored("2", "1")])
  found = compare(path, [scored("2", "1"), scored("3", "1")], PLAIN)
  assert found["n"] == 1 and found["p"] == 1.0
  with pytest.raises(SophiaError, match="none of these problems is in it"):
    compare(path, [scored("3", "1")], PLAIN)


def test_a_file_that_is_no_evaluation_is_refused(tmp_path):
  path = tmp_path / "x.json"
  for text in ("{", "[]", '{"responses": [{}]}'):
    path.write_text(text)
    with pytest.raises(SophiaError, match=r"x\.json: not an evaluation"):
      compare(path, [scored("3", "1")], PLAIN)
  with pytest.raises(SophiaError, match="No such file"):
    compare(tmp_path / "none.json", [scored("3", "1")], PLAIN)


def test_a_summary_is_written_row_by_row(tmp_path):
  path = written(
    tmp_path / "a" / "b.json", [scored("1", "10"), scored("2", "11")]
  )
  found = json.loads(path.read_text())
  assert found["pass_at_1"]["value"] == 0.75
  assert [(r["id"], r["sample"]) for r in found["responses"]] == [
    ("1", 0), ("1", 1), ("2", 0), ("2", 1)
  ]  # fmt: skip
  assert [p.name for p in path.parent.iterdir()] == ["b.json"]
  write(path, {"n": 0}, [])
  assert json.loads(path.read_text()) == {"n": 0, "responses": []}


# ---------------------------------------------------------------------- the paper
@pytest.mark.parametrize(
  ("directory", "model"),
  [
    ("InternVL2_5-38B", "InternVL2.5-38B"),
    ("InternVL3-8B-Instruct", "InternVL3-8B"),
    ("internvl3-38b-hf", "InternVL3-38B"),
    ("InternVL3.0-8B", "InternVL3-8B"),
    ("InternVL2_5-38B-MPO", None),
    ("InternVL3-1B", None),
    ("my-InternVL3-8B", None),
    ("export", None),
  ],
)
def test_the_same_model(directory, model):
  assert paper.known(directory) == model
  same = [r.model for r in paper.rows("mathvision", directory) if r.same]
  assert same == ([model] if model else [])


def test_rows_of_the_paper():
  found = {r.model: r.value for r in paper.rows("olympiadbench", "export")}
  assert found["InternVL3-38B + SOPHIA + GRPO"] == pytest.approx(0.5179)
  assert paper.rows("mathvision_testmini", "export") == []
  averages = {name: sum(v) / 8 for name, v in paper.RESULTS.items()}
  # The paper's own averages, rounded there to two places.
  assert averages["InternVL2.5-38B + SOPHIA"] == pytest.approx(54.03, abs=0.006)
  assert averages["InternVL3-38B"] == pytest.approx(47.01, abs=0.006)
  assert averages["InternVL3-8B + SOPHIA"] == pytest.approx(44.71, abs=0.006)


def test_other_settings_than_the_papers():
  same = dict(paper.SETTINGS, top_k=0)
  assert paper.differences(same) == []
  greedy = {**same, "temperature": 0.0}
  assert paper.differences(greedy) == ["temperature 0 (paper: 1)"]
