"""What of a server may be reached, and what it inherits; no server runs here."""

import asyncio
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.servers import supervise
from sophia_jax.serving import guard, versions
from sophia_jax.types import SophiaError

KEY = "only for tests"
BEARER = f"Bearer {KEY}".encode()


@pytest.mark.parametrize("method, path", sorted(guard.ROUTES))
def test_routes_need_the_key(method, path):
  assert guard.refusal(method, path, BEARER, KEY) is None
  assert guard.refusal(method, path, b"", "") is None
  for wrong in (b"", b"Bearer guess", BEARER + b" ", BEARER.lower(), b"\xff"):
    found = guard.refusal(method, path, wrong, KEY)
    if (method, path) in guard.OPEN:
      assert found is None
    else:
      assert found.status == 401


@given(st.sampled_from(["GET", "POST", "PUT", "OPTIONS"]), st.text())
def test_no_other_route_is_there(method, path):
  if (method, path) not in guard.ROUTES:
    assert guard.refusal(method, path, BEARER, KEY).status in (404, 405)
    assert guard.refusal(method, path, b"", KEY).status == 401


@pytest.mark.parametrize(
  "path",
  ["/release_memory_occupation", "/start_profile", "/docs", "//generate"],
)
def test_the_answer_is_one_line_of_json(path):
  sent = []

  async def send(message):
    sent.append(message)

  scope = {"type": "http", "method": "POST", "path": path, "headers": []}
  asyncio.run(guard.Guard(None, "")(scope, None, send))
  assert sent[0]["status"] == 404
  message = json.loads(sent[1]["body"])["error"]["message"]
  assert path in message and "\n" not in message


def test_sockets_are_closed():
  sent = []

  async def send(message):
    sent.append(message)

  scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
  asyncio.run(guard.Guard(None, "")(scope, None, send))
  assert sent == [{"type": "websocket.close", "code": 1008}]


def test_weights_lie_below_their_root(tmp_path, monkeypatch):
  monkeypatch.delenv(guard.ROOT_VARIABLE, raising=False)
  with pytest.raises(SophiaError, match="takes no new weights"):
    guard.check_root(str(tmp_path))
  root, other = tmp_path / "root", tmp_path / "other"
  (root / "a").mkdir(parents=True)
  other.mkdir()
  (root / "link").symlink_to(other)
  monkeypatch.setenv(guard.ROOT_VARIABLE, str(root))
  guard.check_root(str(root / "a"))
  for wrong in (root, other, root / "link", root / ".." / "other", "/etc"):
    with pytest.raises(SophiaError, match="not below"):
      guard.check_root(str(wrong))


def test_secrets_are_not_inherited():
  kept = {"PATH": "a", "TOKENIZERS_PARALLELISM": "b", "KEYBOARD": "c"}
  names = ("WANDB_API_KEY", "HF_TOKEN", "TEST_KEY", "AWS_SECRET_ACCESS_KEY")
  secrets = dict.fromkeys((*names, "apikey", "DB_PASSWORD"), "x")
  assert supervise._without_secrets({**kept, **secrets}) == kept


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "node-3"])
def test_others_need_a_key(host):
  supervise._check_access(host, KEY)
  with pytest.raises(SophiaError, match="--api_key_env"):
    supervise._check_access(host, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_none(host):
  supervise._check_access(host, None)


def test_a_log_is_its_owners(tmp_path):
  log = tmp_path / "server.log"
  log.write_text("of an older server")
  log.chmod(0o644)
  with supervise._private(log) as file:
    file.write(b"new")
  assert log.stat().st_mode & 0o777 == 0o600
  assert log.read_text() == "new"


# ----------------------------------------------------------------------- versions
@given(
  st.lists(st.tuples(st.integers(0, 3).map(str), st.integers(0, 30))),
  st.integers(1, 30),
)
def test_stretches_cover_an_answer(changes, count):
  found = versions.spans(changes, "9", count)
  assert found[0]["start"] == 0 and found[-1]["end"] == count
  for a, b in itertools.pairwise(found):
    assert a["end"] == b["start"] and a["version"] != b["version"]
  assert all(span["start"] < span["end"] for span in found)


def test_each_token_has_the_version_that_drew_it():
  changes = [("1", 0), ("2", 4), ("3", 4), ("4", 9)]
  assert versions.spans(changes, "5", 12) == [
    {"version": "2", "start": 0, "end": 4},
    {"version": "4", "start": 4, "end": 9},
    {"version": "5", "start": 9, "end": 12},
  ]
  assert versions.spans([("1", versions.ALL)], "2", 5) == [
    {"version": "1", "start": 0, "end": 5}
  ]
