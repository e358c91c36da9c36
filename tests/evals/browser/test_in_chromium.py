"""Every page in a real browser: that it shows, that the keyboard moves, that no
text runs, that a run in flight is followed."""

import json
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sophia_jax.data.problems import load_problems
from sophia_jax.evals.browser.server import SCRIPT, Server, _Handler
from tests.evals.browser import browsed

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage")  # as root, in a container


@pytest.fixture(scope="module")
def chromium():
  missing = "playwright is not installed; make test-browser installs it"
  api = pytest.importorskip("playwright.sync_api", reason=missing)
  with api.sync_playwright() as playwright:
    path = installed(playwright.chromium.executable_path)
    if not path:
      pytest.skip("no Chromium that starts: apt-get install chromium")
    browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
    yield browser
    browser.close()


def expect(of):
  """Waits without a script of ours: the pages' policy lets no text run."""
  return pytest.importorskip("playwright.sync_api").expect(of)


def installed(own):
  """The system's Chromium, or else playwright's own; None where neither starts,
  such as the script that stands for Ubuntu's snap."""
  for path in (*map(shutil.which, NAMES), own):
    if path and Path(path).exists():
      done = subprocess.run([path, *FLAGS, "--version"], capture_output=True)
      if done.returncode == 0:
        return path
  return None


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("browse")
  sophia = browsed.sophia_run(folder / "sophia", 9)
  return sophia, browsed.grpo_run(folder / "grpo")


@pytest.fixture(scope="module")
def server(workdirs):
  made = Server(browsed.pages(*workdirs))
  threading.Thread(target=made.serve_forever, daemon=True).start()
  yield made
  made.shutdown()
  made.server_close()


@pytest.fixture
def page(chromium, server):
  """A tab; its problems fail the test: an error, an alert, another host."""
  found = []
  tab = chromium.new_page(viewport={"width": 1280, "height": 900})
  tab.on("pageerror", lambda e: found.append(str(e)))
  tab.on("dialog", lambda d: (found.append(d.message), d.dismiss()))
  tab.on(
    "console",
    lambda m: found.append(m.text) if m.type in ("error", "warning") else None,
  )
  tab.on(
    "request",
    lambda r: (
      found.append(r.url)
      if not r.url.startswith((server.url, "data:"))
      else None
    ),
  )
  yield tab
  tab.close()
  assert not found


def open_first(page, server, query=""):
  page.goto(f"{server.url}{query}")
  page.locator(".item").first.click()
  page.wait_for_selector(".one")


def test_every_page_shows_and_nothing_runs(page, server):
  table = server.pages.session.catalogue.table()
  for path in ("", "compare", "curves", "?sort=worst&status=wrong"):
    page.goto(f"{server.url}{path}")
    assert page.title() != "run"
    assert page.locator("h1").count() == 1
  for g in range(table.groups):
    name, digest = table.names[table.problem[g]]
    place = table.places[table.place[g]].name
    query = f"in={place}&id={name}&digest={digest}"
    page.goto(f"{server.url}group?{query}")
    assert page.title() == name
    assert page.locator(".one").count() in (4, 6)
    assert page.locator("main script, main a[href^='javascript']").count() == 0
    loaded = page.evaluate(
      "[...document.images].filter(i => i.loading != 'lazy')"
      ".every(i => i.complete && i.naturalWidth > 0)"
    )
    assert loaded
    page.goto(f"{server.url}problem?id={name}")
    assert page.title() == f"{name} over rounds"
    path = "0.1" if place.startswith("a/") else "1"
    page.goto(f"{server.url}tokens?{query}&path={path}")
    assert page.title() == f"Tokens of {name}"


def test_hostile_texts_are_read_as_texts(page, server):
  for n, hostile in enumerate(browsed.HOSTILE[:8]):
    page.goto(f"{server.url}?text=thought&question=p-{n}&workdir=a")
    page.locator(".item").first.click()
    shown = page.locator(".one .prose").first.inner_text()
    assert shown.split()[2:] == hostile.split()
  page.goto(f"{server.url}?text=%3Cscript%3Edocument.title%3D1%3C%2Fscript%3E")
  assert page.title() == "Rollouts"
  assert page.locator("#text").input_value().startswith("<script>")


def test_filters_narrow_and_let_go(page, server):
  page.goto(server.url)
  assert page.locator("#count").inner_text() == "104"
  page.get_by_role("link", name="truncated").click()
  assert page.locator("#count").inner_text() == "1"
  page.get_by_role("link", name="truncated").click()
  assert page.locator("#count").inner_text() == "104"
  page.get_by_label("Text of the answers").fill("thought 0.2")
  page.get_by_role("button", name="Show").click()
  assert page.locator("#count").inner_text() == "9"
  page.get_by_label("length from").fill("13")
  page.get_by_role("button", name="Show").click()
  assert page.locator("#count").inner_text() == "0"
  assert "text=thought+0.2" in page.url and "length_min=13" in page.url


def test_a_filtered_set_is_saved(page, server):
  page.goto(f"{server.url}?status=wrong&workdir=b")
  with page.expect_download() as saved:
    page.get_by_role("link", name="these as JSONL").click()
  lines = saved.value.path().read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert rows and {row["status"] for row in rows} == {"wrong"}


def test_tokens_are_marked_by_what_the_update_made_of_them(page, server):
  page.goto(f"{server.url}?tokens=kept&workdir=b")
  page.locator(".item").first.click()
  page.get_by_role("link", name="what the update made of them").click()
  page.get_by_role("link", name="ratio").click()
  page.wait_for_url("**by=ratio**")
  token = page.locator(".tok").first
  assert "ratio 1.3, weight 0.125, clipped" in token.get_attribute("title")
  style = "e => getComputedStyle(e)"
  assert token.evaluate(f"{style}.outlineStyle") == "dashed"
  assert token.evaluate(f"{style}.borderBottomStyle") == "solid"
  page.get_by_text("Every token in a table").click()
  assert page.locator("details table tr").count() == 4


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_the_keyboard_does_it(page, server, monkeypatch, late):
  """A page that shows takes keys, however late its script comes."""
  answer = _Handler._answer

  def slow(handler, path, values):
    time.sleep(late if path == SCRIPT else 0)
    answer(handler, path, values)

  monkeypatch.setattr(_Handler, "_answer", slow)
  page.goto(f"{server.url}?workdir=a")
  for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
    page.keyboard.press(key)
    focused = "[...document.querySelectorAll('.item')]"
    assert page.evaluate(f"{focused}.indexOf(document.activeElement)") == place
  page.keyboard.press("Enter")
  page.wait_for_selector(".one")
  assert page.title() == "p-1"
  page.keyboard.press("n")
  expect(page).to_have_title("p-2")
  page.keyboard.press("p")
  expect(page).to_have_title("p-1")
  page.keyboard.press("u")
  page.wait_for_selector(".item")
  assert page.url.endswith("?workdir=a")
  page.keyboard.press("/")
  page.keyboard.type("jk")
  assert page.locator("#text").input_value() == "jk"
  page.keyboard.press("Escape")
  page.keyboard.press("w")
  page.wait_for_url("**sort=worst**")
  page.keyboard.press("r")
  page.wait_for_url("**sort=random**")
  page.keyboard.press("g")
  page.wait_for_selector("svg")


def test_a_key_pressed_before_the_page_is_there_counts(page, server):
  open_first(page, server, "?workdir=a")
  title = page.title()
  pressed = 'new KeyboardEvent("keydown", {key: "n", bubbles: true})'
  early = f"document.documentElement.dispatchEvent({pressed})"

  def answer(route):
    route.fulfill(
      body=server.script.decode() + early, content_type="text/javascript"
    )

  page.route("**/browse.js", answer, times=1)
  page.reload(wait_until="commit")
  expect(page).not_to_have_title(title)


def test_a_key_finds_what_is_newly_solved(page, server):
  page.goto(f"{server.url}?workdir=b")
  page.keyboard.press("s")
  page.wait_for_url("**change=newly+solved**")
  assert page.locator("#count").inner_text() == "4"


def test_a_request_is_copied(page, server):
  page.context.grant_permissions(["clipboard-read", "clipboard-write"])
  open_first(page, server, "?workdir=b")
  card = page.locator(".one").first
  card.get_by_text("Request").click()
  card.get_by_role("button", name="Copy").click()
  card.get_by_role("button", name="Copied").wait_for()
  copied = page.evaluate("navigator.clipboard.readText()")
  assert json.loads(copied)["user"] == "p-0/0:policy"


def test_every_control_has_a_name_and_verdicts_have_words(page, server):
  open_first(page, server, "?workdir=b")
  page.goto(server.url)
  unnamed = page.evaluate(
    """[...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
    .filter(e => !e.labels.length && !e.ariaLabel).length"""
  )
  assert unnamed == 0
  assert page.locator("html").get_attribute("lang") == "en"
  open_first(page, server, "?workdir=b")
  badges = page.locator(".one .badge:not(.chosen)").all_inner_texts()
  assert badges and set(badges) <= {"right", "wrong", "truncated"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(page, server, scheme):
  page.emulate_media(color_scheme=scheme)
  open_first(page, server, "?workdir=a")
  low = page.evaluate(
    """() => {
      const rgb = (s) => s.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (e) => {
        for (; e; e = e.parentElement) {
          const c = rgb(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] > 0) return c;
        }
        return [255, 255, 255];
      };
      const of = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return [...document.querySelectorAll(".prose, dd, dt, .badge, a, .note")]
        .filter((e) => e.innerText)
        .map((e) => [of(light(rgb(getComputedStyle(e).color)),
          light(behind(e))), e.className + ": " + e.innerText])
        .filter(([ratio]) => ratio < 4.5).map(([r, e]) => r + " " + e);
    }"""
  )
  assert low == []


def test_a_run_in_flight_is_followed(page, server, workdirs):
  page.goto(server.url)
  file = workdirs[1] / "data" / "problems.jsonl"
  browsed.add_round(workdirs[1], 2, load_problems(file))
  server.pages.session.refresh()
  page.get_by_text("16 more rollouts: show").click()
  expect(page.locator("#count")).to_have_text("120")


def test_the_offline_page_opens_from_a_file(chromium, server, tmp_path):
  file = tmp_path / "page.html"
  # playwright has an event loop in this thread, where groups want theirs.
  with ThreadPoolExecutor(1) as other:
    text = other.submit(server.pages.offline, "p-2").result()
  file.write_text(text, encoding="utf-8")
  tab, asked = chromium.new_page(), []
  tab.on("request", lambda r: asked.append(r.url))
  tab.goto(file.as_uri())
  assert tab.title() == "p-2"
  assert tab.locator(".one").count() >= 14
  assert all(url.startswith(("file:", "data:")) for url in asked)
  tab.close()
