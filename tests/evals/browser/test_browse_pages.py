"""The pages: what they show, that hostile texts are only text, golden files."""

import dataclasses
import html.parser
import json
import re
from pathlib import Path

import pytest

from sophia_jax.data.problems import load_problems, problem_digest
from sophia_jax.evals.browser.pages import NotFound
from sophia_jax.rollout.store import Store
from sophia_jax.types import SophiaError
from tests.evals.browser import browsed

GOLDEN = Path(__file__).parent / "golden"
TAGS = """
html head meta title style script link body nav a span b main h1 h2 h3 p form label
input select option button div section ul li article dl dt dd details summary
textarea img footer kbd table tr th td code figure svg line text path circle ins del
ol i
"""
"""All tags that pages have."""
VOID = ("img", "input", "meta", "link", "br", "path", "circle", "line")


class Page(html.parser.HTMLParser):
  """Tags, attributes and visible text, read the way a browser does."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.words, self.open = [], [], [], []
    self.feed(text)
    self.text = " ".join("".join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if tag not in VOID:
      assert self.open.pop() == tag

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_data(self, data):
    self.words.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("browse")
  sophia = browsed.sophia_run(folder / "sophia", 9)
  return browsed.pages(sophia, browsed.grpo_run(folder / "grpo"))


def key_of(pages, g=0):
  table = pages.session.catalogue.table()
  name, digest = table.names[table.problem[g]]
  return {"in": table.places[table.place[g]].name, "id": name, "digest": digest}


def every(pages):
  """Yields the path and the values of pages of every kind."""
  table = pages.session.catalogue.table()
  yield "/", {}
  yield "/", {"text": browsed.HOSTILE[0], "question": browsed.HOSTILE[2]}
  yield "/", {"tag.subject": "'\"><i>x", "sort": "random", "seed": "4"}
  yield "/compare", {"sort": "lost"}
  yield "/curves", {}
  for g in range(table.groups):
    yield "/group", key_of(pages, g) | {"at": "1", "status": "right"}
    path = "0.1" if table.places[table.place[g]].stage == "sophia" else "1"
    yield "/tokens", key_of(pages, g) | {"path": path}
    yield "/problem", {"id": key_of(pages, g)["id"]}


def test_no_text_becomes_a_tag_or_a_handler(pages):
  allowed = set(TAGS.split())
  for path, values in every(pages):
    page = Page(pages.html[path](values))
    assert set(page.tags) <= allowed, (path, values)
    assert page.tags.count("script") == page.tags.count("title") == 1
    assert not page.open, (path, values)
    for name, value in page.attributes:
      assert not name.startswith("on"), (path, name)
      if name in ("src", "href", "action"):
        assert re.match(r"(/|\?|$|data:,$)", value), value


@pytest.mark.parametrize("n", range(len(browsed.HOSTILE)))
def test_hostile_texts_are_shown_as_they_are(pages, n):
  page = Page(pages.html["/group"](key_of(pages, n)))
  shown = browsed.HOSTILE[n]
  for lost in ("\ud800", "\u202e", "\x00"):
    shown = shown.replace(lost, "\ufffd")
  text = page.text
  assert text.count(" ".join(shown.split())) >= 8
  assert "caption 0" in text and "thought 1.2" in text


def test_a_page_says_what_is_known_of_a_rollout(pages):
  text = Page(pages.html["/group"](key_of(pages, 3))).text
  for word in (
    "R(c) = 1",
    "R(c) = 0.333",
    "right, and not among the 1 kept",
    "R(c) = 0.33, not above 0.7",
    "found '6', as the gold answer has it",
    "12 tokens, ended by itself",
    "1 tile, as the model sees",
    "alpha 0.7",
    "Samples it again",
  ):
    assert word in text, word
  table = pages.session.catalogue.table()
  last = Page(pages.html["/group"](key_of(pages, table.groups - 3))).text
  for word in ("advantage", "version 2", "cut off", "round 1"):
    assert word in last, word


def test_a_long_answer_is_whole_on_its_page_of_tokens(tmp_path):
  workdir = browsed.grpo_run(tmp_path, rounds=1)
  file = workdir / "rounds" / "000001"
  (problem,) = load_problems(workdir / "data" / "problems.jsonl")[:1]
  key = {"problem_id": problem.id, "digest": problem_digest(problem)}
  text = "word " * 10_000
  answer, _ = browsed.attempt(key, (0,), True)
  said = dataclasses.replace(answer.completion, text=text)
  with Store(file, browsed.META) as store:
    store.append(dataclasses.replace(answer, completion=said))
  made = browsed.pages(workdir)
  group = made.session.catalogue.table().groups - 1
  cut = Page(made.html["/group"](key_of(made, group))).text
  assert "cut here: 34,000 more characters" in cut
  whole = Page(made.html["/tokens"](key_of(made, group) | {"path": "0"})).text
  assert text.strip() in whole and "cut here" not in whole


def test_a_request_samples_it_again(pages):
  page = pages.html["/group"](key_of(pages, 0))
  requests = re.findall(r"<textarea[^>]*>(.*?)</textarea>", page, re.S)
  plain = [json.loads(html.unescape(text)) for text in requests]
  names = {request["user"] for request in plain}
  assert len(names) == len(plain) == 8
  caption = next(r for r in plain if r["user"] == "p-0/0")
  assert caption["messages"][-1]["content"][0]["image_url"]["url"].startswith(
    "file:///"
  )
  thought = next(r for r in plain if r["user"] == "p-0/0/1")
  assert browsed.HOSTILE[0] in thought["messages"][0]["content"]
  assert len({r["seed"] for r in plain}) == 8


def test_a_problem_over_rounds_and_in_both_workdirs(pages):
  text = Page(pages.html["/problem"]({"id": "p-1"})).text
  for word in ("sophia, workdir a", "round 0, workdir b", "round 1, workdir b"):
    assert word in text, word
  assert "Both workdirs" in text
  compared = Page(pages.html["/compare"]({})).text
  assert "4 problems" in compared and "+0.333" in compared


def test_workdirs_without_a_common_problem_say_so(tmp_path):
  made = browsed.pages(
    browsed.grpo_run(tmp_path / "a", rounds=1),
    browsed.episode_run(tmp_path / "b"),
  )
  assert "No problem has graded" in Page(made.html["/compare"]({})).text


def test_an_episode_shows_its_states(tmp_path):
  made = browsed.pages(browsed.episode_run(tmp_path))
  page = Page(made.html["/group"](key_of(made)))
  for word in ("Turn 2", "reward 1", "Actions left: 8", "ended by limit"):
    assert word in page.text, word
  assert "success_rate" not in page.text  # the gold answer is the lake itself


def test_neighbours_follow_the_list(pages):
  found = pages.html["/"]({"sort": "worst", "workdir": "a"})
  links = re.findall(r'class="card item" href="([^"]*)"', found)
  assert len(links) == 9
  second = dict(
    pair.split("=", 1) for pair in html.unescape(links[1])[7:].split("&")
  )
  values = {"sort": "worst", "workdir": "a", "at": "1"}
  page = pages.html["/group"](key_of(pages, int(second["id"][2:])) | values)
  near = dict(re.findall(r'rel="(prev|next)" href="([^"]*)"', page))
  assert near == {"prev": links[0], "next": links[2]}


def test_the_filtered_set_as_lines(pages):
  lines = [json.loads(x) for x in pages.export({"status": "truncated"})]
  assert [(x["id"], x["path"], x["round"]) for x in lines] == [("p-0", [0], 0)]
  everything = [json.loads(x) for x in pages.export({})]
  table = pages.session.catalogue.table()
  assert len(everything) == table.rows
  right = [x for x in everything if x["status"] == "right"]
  assert all(x["rewards"]["accuracy"] == 1 for x in right)
  assert any("\ud800" in x["responses"][0] for x in everything)


def test_images_and_tiles(pages):
  whole = pages.image(key_of(pages) | {"n": "0"})
  assert whole.startswith(b"\x89PNG")
  assert pages.image(key_of(pages) | {"tile": "0"}) != whole
  for values in ({"n": "5"}, {"n": "0", "tile": "99"}, {"id": "../../etc"}):
    with pytest.raises(NotFound):
      pages.image(key_of(pages) | values)


def test_one_file_without_a_network(pages):
  page = pages.offline("p-2")
  read = Page(page)
  assert "script" not in read.tags and "link" not in read.tags
  links = [v for k, v in read.attributes if k in ("src", "href")]
  assert links and all(v.startswith("data:image/png;base64,") for v in links)
  assert "caption 1" in read.text and "answer 3" in read.text
  with pytest.raises(NotFound, match="no store"):
    pages.offline("absent")


def test_refusals(pages):
  with pytest.raises(NotFound):
    pages.html["/group"]({"in": "a/../x", "id": "p-0", "digest": ""})
  with pytest.raises(NotFound):
    pages.html["/tokens"](key_of(pages) | {"path": "9.9"})
  with pytest.raises(SophiaError, match="not understood"):
    pages.html["/"]({"text": "(", "regex": "1"})
  assert "&lt;x&gt;" in pages.refused("<x>")


@pytest.mark.parametrize("name", ["groups", "group"])
def test_golden(pages, name):
  """A file of golden/ that is removed is written again, to be looked at."""
  values = {"workdir": "a"} if name == "groups" else key_of(pages, 3)
  page = pages.html["/" if name == "groups" else "/group"](values)
  main = page[page.index("<main>") : page.index("</main>")] + "</main>\n"
  root = str(pages.session.sources["a"].path)
  main = re.sub(r"\n\s*\n+", "\n", main.replace(root, "W"))
  digests = re.compile(r"digest=[0-9a-f]{16}")
  main = digests.sub("digest=D", main)
  file = GOLDEN / f"{name}.html"
  if not file.exists():
    file.parent.mkdir(exist_ok=True)
    file.write_text(main, encoding="utf-8")
    pytest.fail(f"{file} is written; look at it and commit it")
  assert main == file.read_text(encoding="utf-8")
