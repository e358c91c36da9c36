"""The server: what it answers, what it refuses, that it follows a run."""

import http.client
import json
import threading

import pytest

from sophia_jax.data.problems import load_problems
from sophia_jax.evals.browser.server import Server
from sophia_jax.types import SophiaError
from tests.evals.browser import browsed


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  workdir = browsed.grpo_run(tmp_path_factory.mktemp("grpo"), rounds=1)
  server = Server(browsed.pages(workdir))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server, workdir
  server.shutdown()
  server.server_close()


def ask(server, path, method="GET", **headers):
  host, port = server.server_address
  connection = http.client.HTTPConnection(host, port, timeout=60)
  connection.request(method, path, headers=headers)
  answer = connection.getresponse()
  body = answer.read()
  connection.close()
  return answer, body


def test_every_page_comes_with_the_policy(served):
  server, _ = served
  for path in (
    "/",
    "/curves",
    "/compare",
    "/browse.js",
    "/nope",
    "/export.jsonl",
  ):
    answer, body = ask(server, path)
    assert answer.status == (404 if path == "/nope" else 200), path
    assert body
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_it_answers_to_its_own_name_and_to_get_only(served):
  server, _ = served
  assert ask(server, "/", Host="evil.example")[0].status == 400
  assert ask(server, "/", Host="localhost:1")[0].status == 200
  assert ask(server, "/", "POST")[0].status == 501
  assert ask(server, "/", "DELETE")[0].status == 501


@pytest.mark.parametrize(
  "path",
  [
    "/?length_min=x",
    "/?text=(&regex=1",
    "/?" + "a=1&" * 100,
    "/?text=" + "a" * 8000,
    "/?page=1e400",
    "/?text=" + "a" * 501,
  ],
)
def test_what_means_nothing_is_refused_in_a_sentence(served, path):
  answer, body = ask(served[0], path)
  assert answer.status == 400
  assert b"Traceback" not in body and b"<h1>" in body


@pytest.mark.parametrize(
  "path",
  [
    "/../../etc/passwd",
    "/browse.js/../server.py",
    "/image?in=a/rounds/000000&id=p-0&digest=x&n=0",
    "/image?n=/etc/passwd",
    "/group?in=/etc&id=passwd&digest=",
  ],
)
def test_a_url_names_no_file(served, path):
  assert ask(served[0], path)[0].status == 404


def test_a_round_that_is_sampled_meanwhile_is_found(served):
  server, workdir = served
  session = server.pages.session
  before = json.loads(ask(server, "/status.json")[1])
  browsed.add_round(
    workdir, 1, load_problems(workdir / "data" / "problems.jsonl")
  )
  session.refresh()
  after = json.loads(ask(server, "/status.json")[1])
  assert after["rollouts"] == before["rollouts"] + 16
  assert b"newly solved" in ask(server, "/")[1]


def test_a_taken_port_is_one_line(served):
  port = served[0].server_address[1]
  with pytest.raises(SophiaError, match=f"--port={port}"):
    Server(served[0].pages, port=port)
