"""The page and the text of evaluations."""

import copy

import pytest
from PIL import Image

from sophia_jax.evals import tables
from sophia_jax.evals.benchmarks import BENCHMARKS
from sophia_jax.evals.page import Evaluation, render, write
from sophia_jax.evals.summary import PLAIN, summarise
from tests.evals.answering import scored
from tests.evals.test_report import Page

SETTINGS = {"temperature": 0.0, "top_p": 0.8, "max_new_tokens": 16384}
HOSTILE = (
  '</style><script>alert(1)</script><img src=x onerror="a">\u202e{{ 7*7 }}'
)


def summary(benchmark=BENCHMARKS["mathvision"], **changes):
  """Returns a summary in the form of `sophia_jax.runs.evaluation`."""
  found = [
    scored("1", "10", source="mathvision", tags={"subject": "algebra"}),
    scored("2", "11", source="mathvision", tags={"subject": HOSTILE}),
  ]
  return {
    **summarise(found, benchmark),
    "benchmark": benchmark.name,
    "title": benchmark.title or "problems",
    "part": "2 of 3,040",
    "rule": "ours",
    "judge": "easy",
    "settings": SETTINGS,
    **changes,
  }


@pytest.fixture
def evaluation(tmp_path):
  Image.new("RGB", (8, 6), (200, 30, 30)).save(tmp_path / "1.png")
  sample = {
    "id": "mathvision/1",
    "sample": 1,
    "question": HOSTILE,
    "answer": HOSTILE,
    "extracted": HOSTILE,
    "response": HOSTILE + "\ud800",
    "status": "wrong",
    "images": [str(tmp_path / "1.png"), str(tmp_path / "gone.png")],
  }
  return Evaluation(
    name="x", summary=summary(), samples=[sample], data="/data/math-v"
  )


def test_the_page_shows_scores_and_the_papers_rows(evaluation):
  about = {"Model": "/models/InternVL3-8B", "Date": "2026-01-02 03:04"}
  page = Page(render("InternVL3-8B", [evaluation], about))
  text = " ".join(page.text.split())
  assert "MathVision, 2 of 3,040" in text and "75.0 %" in text
  assert "InternVL3-38B + SOPHIA 49.1 % reference" in text
  assert "InternVL3-8B 25.7 % the same model" in text
  assert "temperature 0 (paper: 1)" in text
  assert "pass@2 100.0 %" in text
  assert "our rule, answers found or judged by easy." in text
  assert "Model: /models/InternVL3-8B . Date: 2026-01-02 03:04 ." in text
  assert "Data: /data/math-v , 2 problems." in text
  assert "mathvision/1, sample 2" in text
  assert "max_new_tokens 16384" in text


def test_texts_of_models_are_shown_and_never_run(evaluation):
  text = render(HOSTILE, [evaluation], {"Model": HOSTILE})
  text.encode()
  page = Page(text)
  assert "script" not in page.tags
  assert not {"onerror", "onload"} & {key for key, _ in page.attributes}
  sources = [value for key, value in page.attributes if key == "src"]
  assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
  assert "{{ 7*7 }}" in page.text and "\u202e" not in text
  assert "image cannot be read" in page.text


def test_a_page_of_several(evaluation, tmp_path):
  plain = summary(PLAIN, part="", comparison=COMPARISON)
  other = Evaluation(name="y", summary=plain, samples=[])
  write(tmp_path / "W" / "x.html", "export", [evaluation, other], {})
  page = Page((tmp_path / "W" / "x.html").read_text())
  assert "against a.json: 25.0% -> 75.0%" in page.text
  assert [p.name for p in (tmp_path / "W").iterdir()] == ["x.html"]


COMPARISON = {
  "against": "a.json",
  "n": 2,
  "before": 0.25,
  "after": 0.75,
  "test": "McNemar",
  "gained": 1,
  "lost": 0,
  "p": 1.0,
}


def test_text_of_a_benchmark():
  lines = tables.benchmark(summary(comparison=COMPARISON), "export")
  assert lines[0].startswith("MathVision, 2 of 3,040 ")
  assert lines[1].startswith("all ") and " 75.0% " in lines[1]
  assert "2 samples: pass@1 75.0%, pass@2 100.0%" in lines
  assert "responses: 3 right, 1 wrong" in lines
  assert "answers found, or judged, by easy" in lines
  assert (
    "against a.json: 25.0% -> 75.0% (+50.0%; 1 gained, 0 lost; p = 1, "
    "McNemar, n = 2)" in lines
  )
  paper = (
    "paper (arXiv 2507.16814), whole benchmark; here temperature 0 (paper: 1)"
  )
  assert paper in lines
  assert not any("same model" in line for line in lines)
  changed = copy.deepcopy(COMPARISON) | {
    "test": "paired bootstrap",
    "low": 0.1,
    "high": 0.9,
  }
  (line,) = tables.comparison(changed)
  assert "95 % interval [+10.0%, +90.0%]" in line


def test_text_of_own_problems():
  lines = tables.plain(summary(PLAIN))
  assert lines[0].split() == ["pass@1", "95", "%", "interval", "n"]
  assert [line.split()[0] for line in lines[1:3]] == ["all", "mathvision"]
