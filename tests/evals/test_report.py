import copy
import html.parser
import importlib.resources
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sophia_jax.evals.report import (
  TEXT_CHARS,
  Answer,
  Samples,
  image_uri,
  render,
  tally,
  to_plain,
  write_report,
)
from sophia_jax.types import Problem, SophiaError, Status, Verdict
from tests import sampled

REPORT = {
  "seed": 3,
  "pass_at_1": {
    "before": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 40},
    "after": {"value": 0.75, "low": 0.6, "high": 0.9, "n": 40},
  },
  "comparison": {"gained": 21, "lost": 1, "p": 1e-5},
  "counts": {
    "problems": 1,
    "captions": 2,
    "trajectories": 4,
    "selected": 1,
    "status": {"right": 3, "wrong": 1},
  },
  "caption_reward_mean": 0.75,
  "seconds": {"sample": 61.0, "train": 3700.5},
  "versions": {"jax": "0.10.2"},
  "config": {"train": {"learning_rate": 2e-5}},
}


class Page(html.parser.HTMLParser):
  """Tags, attributes and visible text, read the way a browser does."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.words = [], [], []
    self.feed(text)
    self.text = " ".join(" ".join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_data(self, data):
    self.words.append(data)


def group(text="so 6", images=(), status=Status.RIGHT):
  problem = Problem(
    id="p", question="How many?", answer="6", images=images, choices=("a", "b")
  )
  said = [sampled.completion(text)] * 2
  rows = [[(text, status, 10 * k + n) for n in (0, 1)] for k in (0, 1)]
  rows[1][1] = (text, Status.WRONG, 11)
  return sampled.group(problem, said, rows)


def samples(text="so 6", **values):
  one = group(text, **values)
  verdict = Verdict(status=Status.WRONG, extracted=text[:50])
  return Samples(
    groups=[one],
    selected={"p/0/0"},
    answers=[
      Answer(problem=one.problem, before=(text, verdict), after=(text, verdict))
    ],
    caption_rewards=[1.0, 0.5],
    lengths={"all": [0, 1, 10, 11], "right": [0, 1, 10], "selected": [0]},
    alpha=0.75,
  )


def test_both_files_hold_the_report(tmp_path):
  curves = {"warm-up": [(0, 2.0), (1, 1.0)], "update": [(0, 1.0)]}
  path = write_report(tmp_path / "w", REPORT, curves, samples())
  assert path == tmp_path / "w" / "report.html"
  assert json.loads((tmp_path / "w" / "report.json").read_text()) == REPORT
  page = Page(path.read_text("utf-8"))
  for word in ("25.0", "75.0", "warm-up", "update", "How many?", "R(c) = 0.50"):
    assert word in page.text
  for word in ("selected", "1 h 1 min", "train.learning_rate", "p = 1e-05"):
    assert word in page.text
  assert sorted(os.listdir(tmp_path / "w")) == ["report.html", "report.json"]


def test_what_is_not_measured_is_said():
  report = {**REPORT, "pass_at_1": {"before": None, "after": None}}
  page = Page(render(report, {}, samples()))
  assert "is not measured" in page.text and "R(c) = 0.50" in page.text
  assert "Wilson" not in page.text


def test_pass_at_k_stands_where_several_answers_were_sampled():
  rates = {str(k): {"value": k / 8} for k in (1, 2, 4)}
  report = {**REPORT, "pass_at_k": {"before": rates, "after": rates}}
  shown = Page(render(report, {}, samples())).text
  assert "pass@2 25.0 → 25.0 % · pass@4 50.0 → 50.0 %" in shown
  one = {"1": rates["1"]}
  report = {**REPORT, "pass_at_k": {"before": one, "after": one}}
  assert "pass@1 12.5" not in Page(render(report, {}, samples())).text


def test_readings_of_answers_and_of_what_is_learnt_stand_side_by_side():
  """Scenes of a kind that one of them does not have are no share."""
  shares = {"stated": 1.0, "scene": 0.5, "follows": 0.25, "digit": 0.75}
  counted = {"right": 3, "wrong": 2, "none": 0}
  after = {
    **shares,
    "invented": 0.125,
    "tokens": 40.5,
    "right": {"clear": 0.625, "unclear": 0.375},
    "table": {"right": counted, "wrong": counted},
  }
  learnt = {**after, "invented": None, "right": {"clear": 1.0, "unclear": None}}
  report = {**REPORT, "reading": {"after": after}}
  assert "learns from" not in Page(render(report, {}, samples())).text
  report["reading"]["learnt"] = learnt
  page = Page(render(report, {}, samples()))
  for text in (
    "names an unclear digit 12.5 % -",
    "right answers, unclear scenes 37.5 % -",
    "follows from its own reading 25.0 % 25.0 %",
    '"learnt" is what the last stage learns from',
  ):
    assert text in page.text


def test_a_single_panel_is_no_wider_than_one_of_many():
  """A column is made for each that fits, whether or not a panel fills it."""
  text = render(REPORT, {"only": [(0, 1.0), (1, 0.5)]}, samples())
  assert "auto-fill, minmax(290px, 1fr)" in text and "auto-fit" not in text


def test_the_page_needs_no_network_and_no_script(tmp_path):
  image = tmp_path / "i.png"
  Image.new("RGB", (9, 9), "red").save(image)
  page = Page(render(REPORT, {}, samples(images=(str(image),))))
  assert "script" not in page.tags and "link" not in page.tags
  links = [v for k, v in page.attributes if k in ("src", "href")]
  assert links and all(v.startswith("data:image/png;base64,") for v in links)
  assert not [k for k, _ in page.attributes if k.startswith("on")]


HOSTILE = [
  "<script>alert(1)</script>",
  "</div></details></main><h1>mine</h1>",
  "'\"><img src=x onerror=alert(1)>",
  "{{ 7 * 7 }}{% for %}{# #}",
  "</style><style>*{display:none}",
  "<!--",
  "]]>&lt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_models_is_only_text(text):
  plain, hostile = (
    Page(
      render(
        {**REPORT, "title": t, "config": {"a": t}, "versions": {t: t}},
        {t: [(0, 1.0)]},
        samples(t),
      )
    )
    for t in ("harmless", text)
  )
  assert hostile.tags == plain.tags
  assert " ".join(text.split()) in hostile.text


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_makes_a_page_that_can_be_written(text):
  page = render(REPORT, {}, samples(text))
  assert Page(page).tags == Page(render(REPORT, {}, samples("x"))).tags
  page.encode("utf-8")


def test_surrogates_and_reordering_characters_are_replaced(tmp_path):
  report = {**REPORT, "title": "\ud800 title"}
  path = write_report(tmp_path, report, {}, samples("a\ud800b\x00c\u202ed"))
  assert "a\ufffdb\ufffdc\ufffdd" in path.read_text("utf-8")


def test_long_text_is_cut_where_it_can_be_seen():
  page = render(REPORT, {}, samples("y" * 10**6))
  assert len(page) < 100_000
  assert f"{10**6 - TEXT_CHARS:,} more characters" in page


def test_images_are_made_small_pngs_and_missing_ones_are_named(tmp_path):
  image = tmp_path / "i.jpg"
  Image.effect_noise((1500, 900), 90).save(image)
  uri = image_uri(str(image))
  assert uri.startswith("data:image/png;base64,") and len(uri) < 400_000
  broken = tmp_path / "b.png"
  broken.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
  assert image_uri(str(broken)) is None
  page = Page(render(REPORT, {}, samples(images=("/no/such.png",))))
  assert "image cannot be read: /no/such.png" in page.text


@pytest.mark.parametrize(
  "path, value",
  [
    ("seed", None),
    ("pass_at_1.before", None),
    ("pass_at_1.after.low", 0.9),
    ("pass_at_1.after.value", float("nan")),
    ("counts.selected", None),
    ("counts.status", 3),
    ("caption_reward_mean", "high"),
    ("seconds.train", float("inf")),
    ("versions", None),
    ("config", []),
  ],
)
def test_a_report_that_lacks_something_is_refused(tmp_path, path, value):
  report = copy.deepcopy(REPORT)
  *parents, last = path.split(".")
  inner = report
  for key in parents:
    inner = inner[key]
  if value is None:
    del inner[last]
  else:
    inner[last] = value
  with pytest.raises(SophiaError, match=f"report: {path.rpartition('.')[0]}"):
    write_report(tmp_path, report, {}, Samples())
  assert not list(tmp_path.iterdir())


def test_a_page_of_almost_nothing(tmp_path):
  empty = copy.deepcopy(REPORT)
  empty["counts"] = dict.fromkeys(empty["counts"], 0) | {"status": {}}
  empty["seconds"] = {}
  del empty["comparison"]
  path = write_report(tmp_path, empty, {"a": []}, Samples())
  assert "pass@1" in path.read_text("utf-8")


def test_tally_by_hand():
  counted = tally([group()], {"p/0/1", "p/9/9"})
  assert counted.counts == {
    "problems": 1,
    "captions": 2,
    "trajectories": 4,
    "selected": 1,
    "status": {
      "right": 3,
      "wrong": 1,
      "unparseable": 0,
      "timed_out": 0,
      "truncated": 0,
    },
  }
  assert counted.caption_rewards == (1.0, 0.5)
  assert counted.caption_reward_mean == 0.75
  assert counted.lengths == {
    "all": (0, 1, 10, 11),
    "right": (0, 1, 10),
    "selected": (1,),
  }
  assert tally([], set()).caption_reward_mean == 0.0


def test_to_plain():
  value = {"a": np.float32(0.5), "b": (1, math.nan), 3: np.arange(2), "c": {1}}
  expected = {"a": 0.5, "b": [1, None], "3": [0, 1], "c": [1]}
  assert to_plain(value) == expected


def test_the_template_is_in_the_package():
  folder = importlib.resources.files("sophia_jax.evals")
  assert folder.joinpath("report.html.jinja").is_file()
