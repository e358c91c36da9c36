"""Marking other people's outputs, as a user types it."""

import json

import pytest

from sophia_jax.evals import score
from tests.evals import official
from tests.evals.official import BUILDERS


@pytest.fixture
def run(tmp_path, capsys):
  """run(benchmark, rows) -> exit code, verdicts, standard output, error."""

  def score_rows(name, rows, *more, data=None):
    BUILDERS[name](tmp_path / name)
    responses, out = tmp_path / "R.jsonl", tmp_path / "V.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    responses.write_text("\n".join(lines) + "\n")
    code = score.main(
      [
        f"--benchmark={name}",
        f"--data={data or tmp_path / name}",
        f"--responses={responses}",
        f"--out={out}",
        "--workers=1",
        *more,
      ]
    )
    printed = capsys.readouterr()
    verdicts = []
    if out.exists():
      verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    return code, verdicts, printed.out.splitlines(), printed.err

  return score_rows


RESPONSES = {
  "mmmu": {"validation_Art_Theory_1": "B", "validation_Art_Theory_2": "24/7"},
  "mmmu_pro": {"test_Art_Theory_1": "Answer: J"},
  "mathvista": {"1": "\\boxed{1.2}", "2": "B", "3": "7", "4": "[1, 2]"},
  "mathverse": {"1": "(B)", "2": "\\boxed{5\\sqrt2}"},
  "dynamath": {
    f"trial{trial}/{number}": answer
    for trial in (1, 2)
    for number, answer in enumerate(
      ("2.0944", "B", "3:00", "\\boxed{(3.966, 0.519)}"), start=1
    )
  },
  "mathvision": {"1": "60", "2": "B", "3": "\\boxed{D}", "4": "A"},
  "mv_math": {
    "1": "B",
    "2": "\\boxed{7 m}",
    "3": "\\boxed{(1) B (3, 5); (2) (3, 4); (3) 7.5}",
  },
  "olympiadbench": {
    "OE_TO_physics_en_COMP/1": "So the final answer is \\boxed{9.8}.",
    "OE_TO_physics_en_COMP/2": "So the final answer is \\boxed{2, 1}.",
    "OE_TO_maths_zh_CEE/3": "所以最终答案是\\boxed{(1,2)}。",
  },
}


@pytest.mark.parametrize("name", BUILDERS)
def test_right_answers_to_every_benchmark(run, name):
  wanted = RESPONSES[name]
  code, verdicts, out, err = run(
    name, [{"id": key, "response": text} for key, text in wanted.items()]
  )
  assert code == 0 and not err
  assert [v["id"] for v in verdicts] == list(wanted)
  assert all(
    v.keys() == {"id", "extracted", "correct", "status"} for v in verdicts
  )
  assert all(v["correct"] is True and v["status"] == "right" for v in verdicts)
  summary = json.loads(out[-1])
  assert summary["pass_at_1"]["value"] == 1.0
  assert summary["missing"] == summary["unknown"] == summary["twice"] == 0


def test_the_verdicts_and_the_scores(run):
  code, verdicts, out, _ = run(
    "mathvision",
    [
      {"id": "1", "response": "\\boxed{61}"},
      {"id": "mathvision/2", "response": "I think \\boxed{B}"},
      {"id": "99", "response": "\\boxed{B}"},
      {"id": "1", "response": "\\boxed{60}"},
    ],
  )
  assert code == 0
  assert verdicts == [
    {"id": "1", "extracted": "61", "correct": False, "status": "wrong"},
    {
      "id": "mathvision/2",
      "extracted": "B",
      "correct": True,
      "status": "right",
    },
    {"id": "1", "extracted": "60", "correct": True, "status": "right"},
  ]
  text = "\n".join(out)
  assert "MathVision, 4 of 3,040" in text and "subject: counting" in text
  assert "2 ids have no response and count as wrong: mathvision/3" in text
  assert "1 ids are not in the benchmark and were left out: 99" in text
  assert "1 ids are repeated; the first counts: 1" in text
  summary = json.loads(out[-1])
  assert summary["pass_at_1"]["value"] == 0.25
  assert summary["answered"]["value"] == 0.5
  assert summary["status"]["wrong"] == 1
  levels = summary["splits"]["level"]
  assert levels["2"]["n"] == 4


def test_samples_of_our_own_file_of_responses(run):
  rows = [
    {"id": "1", "sample": 0, "response": "60", "finish": "stop", "tokens": 1},
    {"id": "1", "sample": 1, "response": "60", "finish": "length"},
  ]
  _, verdicts, out, _ = run("mathvision", rows)
  assert [v["status"] for v in verdicts] == ["right", "truncated"]
  summary = json.loads(out[-1])
  assert summary["samples"] == 2 and summary["twice"] == 0
  assert summary["pass_at_k"]["2"]["value"] == 0.25


def test_the_official_file_itself(run, tmp_path):
  data = tmp_path / "mathvision" / "data" / "test.jsonl"
  code, verdicts, _, _ = run(
    "mathvision", [{"id": "1", "response": "60"}], data=data
  )
  assert code == 0 and verdicts[0]["correct"]


def test_the_published_rule(run):
  rows = [{"id": "2", "response": "It must be \\boxed{0.333}"}]
  assert run("mathvision", rows)[1][0]["correct"] is False
  assert run("mathvision", rows, "--upstream")[1][0]["correct"] is True
  code, _, _, err = run("mmmu", rows, "--upstream")
  assert code == 1 and "--upstream: mmmu has no rule of its own" in err


@pytest.mark.parametrize(
  ("row", "said"),
  [
    ("{", "R.jsonl:2: bad JSON"),
    ("[1]", "R.jsonl:2: must be an object"),
    ({"response": "6"}, "R.jsonl:2: id is missing"),
    ({"id": "1"}, "R.jsonl:2: response is missing"),
    ({"id": "1", "response": None}, "R.jsonl:2: response must be a string"),
    ({"id": ["1"], "response": "6"}, "R.jsonl:2: id must be a string"),
    ({"id": "1", "response": "6", "sample": -1}, "R.jsonl:2: sample must be"),
    ({"id": "1", "response": "6", "finish": "x"}, "R.jsonl:2: finish must be"),
  ],
)
def test_a_broken_line_is_named(run, row, said):
  code, verdicts, out, err = run(
    "mathvision", [{"id": 1, "response": "60"}, row]
  )
  assert code == 1 and not verdicts and not out
  assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_mistakes(run, tmp_path):
  rows = [{"id": "x", "response": "60"}]
  code, verdicts, _, err = run("mathvision", rows)
  assert code == 1 and not verdicts
  assert "none of its 1 ids is in mathvision, such as 'x'" in err
  assert "the first of the benchmark is '1'" in err
  assert "the file holds no line" in run("mathvision", [""])[3]
  code, _, _, err = run("mathvision", rows, data=tmp_path / "nowhere")
  assert code == 1 and "nowhere: no such file or folder" in err
  official.jsonl(tmp_path / "other.jsonl", [{"id": "1", "question": "?"}])
  code, _, _, err = run("mathvision", rows, data=tmp_path / "other.jsonl")
  assert code == 1 and "no row can be used" in err
