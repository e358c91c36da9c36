"""`launch.evaluate` on a benchmark: killed, resumed, graded again."""

import base64
import io
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sophia_jax.runs.evaluation import fingerprint
from tests.evals import official
from tests.launch.commands import (
  CONFIG,
  ROOT,
  assert_refused,
  export,
  overrides,
  until,
)
from tests.rollout import little

MATHVISION = ROOT.parent / "shared" / "data" / "mathvision"
SIZES = {
  "images.tile_size": little.SIDE,
  "images.max_tiles": 4,
  "engine.slots": 2,
  "engine.length": 2048,
  "engine.prefill_rows": 2,
  "engine.chunk": 1,
  "eval.temperature": 1.0,
  "eval.top_p": 0.9,
  "eval.max_new_tokens": 24,
}
PROBLEMS, SAMPLES = 10, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """An exported checkpoint of random weights."""
  new = tmp_path_factory.mktemp
  return export(new("models") / "InternVL3-8B", new("words"), True)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
  """A text-only model, which is asked to read answers."""
  new = tmp_path_factory.mktemp
  return export(new("models") / "judge", new("words"), False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A folder with a MathVision of ten problems, pictures and all."""
  folder = tmp_path_factory.mktemp("official") / "mathvision"
  rng = np.random.default_rng(0)
  rows = []
  for i in range(1, PROBLEMS + 1):
    size = (int(rng.integers(20, 90)), int(rng.integers(20, 90)), 3)
    path = folder / "images" / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    options = ["red", "blue"] if i % 2 else []
    rows.append(
      {
        "id": str(i),
        "question": "What do you see on paper?\n<image1>",
        "options": options,
        "answer": "A" if options else str(i),
        "image": f"images/{i}.png",
        "level": 1 + i % 3,
        "subject": "counting",
      }
    )
  official.jsonl(folder / "data" / "test.jsonl", rows)
  return folder.parent


@pytest.fixture(scope="module")
def arguments(model, judge):
  """Arguments of every evaluation."""
  sizes = {**SIZES, "reasoners.easy.path": judge}
  return ["launch.evaluate", CONFIG, *overrides(sizes), f"--model={model}"]


@pytest.fixture(scope="module")
def evaluate(command, arguments):
  """evaluate(workdir, "--flag=...") -> the finished process."""
  return lambda workdir, *flags: command(
    *arguments, f"--workdir={workdir}", *flags
  )


@pytest.fixture(scope="module")
def flags(data):
  return (
    "--benchmarks=mathvision",
    f"--benchmark_data={data}",
    f"--samples={SAMPLES}",
  )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, evaluate, flags):
  workdir = tmp_path_factory.mktemp("undisturbed")
  done = evaluate(workdir, *flags)
  assert done.returncode == 0, done.stderr
  return workdir, done


def found(workdir, name="InternVL3-8B-mathvision"):
  return json.loads((workdir / "evals" / f"{name}.json").read_text())


def segment(workdir):
  path = workdir / "evals" / "InternVL3-8B-mathvision.responses.jsonl"
  return path.read_bytes() if path.exists() else b""


# --------------------------------------------------------------------- results
def test_scores_table_and_page(undisturbed):
  workdir, done = undisturbed
  result = found(workdir)
  assert result["samples"] == SAMPLES and result["part"] == "10 of 3,040"
  assert result["pass_at_1"]["n"] == PROBLEMS
  assert set(result["pass_at_k"]) == {"1", "2"}
  assert set(result["splits"]) == {"subject", "level"}
  assert sum(result["status"].values()) == PROBLEMS * SAMPLES
  rows = [(row["id"], row["sample"]) for row in result["responses"]]
  assert rows == [
    (f"mathvision/{i}", sample)
    for i in range(1, PROBLEMS + 1)
    for sample in range(SAMPLES)
  ]
  assert len({row["response"] for row in result["responses"]}) > PROBLEMS
  lines = done.stdout.splitlines()
  assert lines[0].startswith("MathVision, 10 of 3,040 ")
  assert "  InternVL3-8B                    25.7%  the same model" in lines
  page = workdir / "evals" / "InternVL3-8B-mathvision.html"
  assert f"page: {page}" in lines
  assert "<h1" in page.read_text() and "Traceback" not in done.stderr


def test_the_page_pairs_a_response_with_its_own_problem(
  undisturbed, model, data
):
  workdir, _ = undisturbed
  page = workdir / "evals" / "InternVL3-8B-mathvision.html"
  text = page.read_text()
  assert f">{model}<" in text and f">{data / 'mathvision'}<" in text
  assert "Date: " in text and "<td>max_new_tokens</td><td>24</td>" in text
  rows = iter(found(workdir)["responses"])
  cards = text.split("<article")[1:]
  assert len(cards) > 2 * SAMPLES
  for card, row in zip(cards, rows):
    number = row["id"].partition("/")[2]
    named = f"{row['id']}, sample {row['sample'] + 1}<"
    gold = f'<span dir="auto">{row["answer"]}</span>'
    assert named in card and gold in card
    (uri,) = re.findall(r'src="data:image/png;base64,([^"]+)"', card)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
    image = Image.open(data / "mathvision" / "images" / f"{number}.png")
    np.testing.assert_array_equal(shown, np.asarray(image))


def test_a_killed_evaluation_resumes(
  start, arguments, evaluate, flags, undisturbed, tmp_path
):
  """Nothing is lost, nothing asked twice, and the responses are the same."""
  process = start(*arguments, f"--workdir={tmp_path}", *flags)
  until(process, lambda: segment(tmp_path).count(b"\n") >= 5)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  killed = segment(tmp_path)
  whole = killed[: killed.rfind(b"\n") + 1]
  assert 5 <= whole.count(b"\n") < PROBLEMS * SAMPLES
  assert not (tmp_path / "evals" / "InternVL3-8B-mathvision.json").exists()
  # A kill in the middle of a line looks like this.
  with (tmp_path / "evals/InternVL3-8B-mathvision.responses.jsonl").open(
    "ab"
  ) as f:
    f.write(b'{"id": "mathvision/1", "sam')

  done = evaluate(tmp_path, *flags)
  assert done.returncode == 0, done.stderr
  after = segment(tmp_path)
  assert after.startswith(whole)
  assert after.count(b"\n") == PROBLEMS * SAMPLES
  assert found(tmp_path) == found(undisturbed[0])


def test_graded_again_without_a_model(evaluate, flags, undisturbed, tmp_path):
  workdir = tmp_path / "W"
  shutil.copytree(undisturbed[0], workdir)
  before = found(workdir)
  # A right answer, which no model of random weights gives.
  path = workdir / "evals" / "InternVL3-8B-mathvision.responses.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    del row["crc"]  # of the line as it was
    if row["id"] == "mathvision/1":
      row |= {"response": "It must be (A).", "finish": "stop"}
  official.jsonl(path, rows)
  (workdir / "evals" / "InternVL3-8B-mathvision.json").unlink()
  nowhere = f"--model={tmp_path}/gone/InternVL3-8B"
  done = evaluate(workdir, *flags, nowhere, "--rescore", "--upstream")
  assert done.returncode == 0, done.stderr
  after = found(workdir)
  assert after["rule"] == "upstream" and before["rule"] == "ours"
  assert after["settings"] == before["settings"]
  assert after["responses"][0]["status"] == "right"
  assert after["status"]["right"] == before["status"]["right"] + SAMPLES

  # A random judge says nothing that can be read, and is asked all the same.
  done = evaluate(
    workdir, *flags, nowhere, "--rescore", "--judge=easy", "--limit=1"
  )
  assert done.returncode == 0, done.stderr
  read = found(workdir)
  assert read["judge"] == "easy" and not read["status"]["right"]
  assert sum(read["status"].values()) == SAMPLES
  assert (workdir / "evals" / "judge.jsonl").read_bytes().count(b"\n") >= 1

  against = f"--against={undisturbed[0]}/evals/InternVL3-8B-mathvision.json"
  done = evaluate(workdir, *flags, "--limit=4", against)
  assert done.returncode == 0, done.stderr
  result = found(workdir)
  assert result["part"] == "4 of 3,040" and result["comparison"]["n"] == 4
  assert "paired bootstrap, n = 4)" in done.stdout
  assert segment(workdir).count(b"\n") == PROBLEMS * SAMPLES


def test_the_files_have_the_given_name(evaluate, flags, tmp_path):
  """--name is of an evaluation here; of an update, which has a place, elsewhere."""
  done = evaluate(tmp_path, *flags, "--limit=1", "--samples=1", "--name=x")
  assert done.returncode == 0, done.stderr
  assert {path.name for path in (tmp_path / "evals").glob("[!.]*")} == {
    "data",
    "x-mathvision.html",
    "x-mathvision.json",
    "x-mathvision.responses.jsonl",
    "x-mathvision.settings.json",
  }
  assert not (tmp_path / "updates").exists()


def test_the_real_mathvision(evaluate, tmp_path):
  if not MATHVISION.is_dir():
    pytest.skip("shared/data/mathvision is not here")
  done = evaluate(
    tmp_path,
    "--benchmarks=mathvision",
    f"--benchmark_data={MATHVISION}",
    "--limit=4",
    "--greedy",
    "--name=x",
  )
  assert done.returncode == 0, done.stderr
  result = found(tmp_path, "x-mathvision")
  assert [row["id"] for row in result["responses"]] == [
    f"mathvision/{i}" for i in (4, 5, 6, 7)
  ]
  assert result["settings"]["temperature"] == 0.0


# --------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
  ("more", "said"),
  [
    (
      ["--judge=hard"],
      "--judge=hard: no such reasoner in config.reasoners; known: easy",
    ),
    (["--greedy"], "--samples=2: greedy samples are all the same"),
    (
      ["--config.eval.top_p=0.5"],
      "were made with top_p=0.9, not 0.5; give ano",
    ),
    (["--rescore", "--limit=0", "--samples=3"], "10 responses are missing"),
  ],
)
def test_a_mistake_is_one_line(evaluate, undisturbed, flags, more, said):
  before = segment(undisturbed[0])
  done = evaluate(undisturbed[0], *flags, *more)
  assert_refused(done, said)
  assert segment(undisturbed[0]) == before


@pytest.mark.parametrize(
  ("more", "said"),
  [
    (
      ["--judge=esay"],
      "--judge=esay: no such reasoner in config.reasoners; did",
    ),
    (
      ["--against=none.json"],
      "none.json: No such file or directory; give a W/",
    ),
  ],
)
def test_what_grading_needs_is_found_before_sampling(
  evaluate, flags, tmp_path, more, said
):
  assert_refused(evaluate(tmp_path, *flags, *more), said)
  assert not any(tmp_path.iterdir())


def test_help_names_the_official_files(evaluate, tmp_path):
  done = evaluate(tmp_path, "--help")
  assert done.returncode == 0
  text = " ".join(done.stdout.split())
  assert "mathvision/ data/test.jsonl (or testmini.jsonl) and images/" in text
  assert "python -m launch.evaluate --config=configs/quickstart.py" in text


def test_a_fingerprint_tells_weights_apart(model, tmp_path):
  copy = Path(shutil.copytree(model, tmp_path / "copy"))
  assert fingerprint(copy) == fingerprint(model)
  (weights,) = copy.glob("*.safetensors")
  data = bytearray(weights.read_bytes())
  data[-100:] = bytes(100)
  weights.write_bytes(data)
  assert fingerprint(copy) != fingerprint(model)
