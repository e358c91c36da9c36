"""Answers by content: kept over kills and restarts, and never paid for twice."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sophia_jax.rollout.cache import Cache, CachedAsked, CachedTicking, cached
from sophia_jax.types import Chat, Completion, FinishReason, Request, Sampling
from tests.rollout import little


class Server:
  """Answers after a moment, and counts what it is paid for."""

  def __init__(self, finish=FinishReason.STOP):
    self.paid, self._finish = [], finish

  async def ask(self, request):
    self.paid.append(request.prompt.text)
    await asyncio.sleep(0)
    return Completion(
      request_id=request.id,
      text=f"About {request.prompt.text} \ud800",
      token_ids=(),
      logps=None,
      finish_reason=self._finish,
    )


def say(text, name="p/0:describer", images=(), **how):
  prompt = Chat(text=text, images=images)
  return Request(id=name, prompt=prompt, sampling=Sampling(**how))


def answers(engine, *requests):
  async def all_of_them():
    return await asyncio.gather(*map(engine.ask, requests))

  return asyncio.run(all_of_them())


def test_a_question_is_paid_for_once_also_after_a_restart(tmp_path):
  server = Server()
  first = answers(CachedAsked(server, Cache(tmp_path, "m")), *map(say, "abc"))
  again = CachedAsked(server, Cache(tmp_path, "m"))
  other = answers(
    again, *(say(t, name=f"q/{t}:reader", seed=7) for t in "abcd")
  )
  assert server.paid == ["a", "b", "c", "d"]
  assert [a.text for a in other[:3]] == [a.text for a in first]
  assert other[0].request_id == "q/a:reader"


def test_equal_questions_in_flight_are_asked_once(tmp_path):
  server = Server()
  engine = CachedAsked(server, Cache(tmp_path, "m"))
  found = answers(engine, *(say("a", name=f"p/{i}:r") for i in range(4)))
  assert server.paid == ["a"]
  assert [a.request_id for a in found] == [f"p/{i}:r" for i in range(4)]


def test_a_failed_question_is_asked_again(tmp_path):
  class Failing(Server):
    async def ask(self, request):
      answer = await super().ask(request)
      if len(self.paid) == 1:
        raise RuntimeError("down")
      return answer

  server = Failing()
  engine = CachedAsked(server, Cache(tmp_path, "m"))

  async def both():
    asked = engine.ask(say("a")), engine.ask(say("a", name="q/0:r"))
    return await asyncio.gather(*asked, return_exceptions=True)

  found = asyncio.run(both())
  assert isinstance(found[0], RuntimeError) and found[1].text
  assert server.paid == ["a", "a"]


def test_everything_that_decides_an_answer_is_part_of_its_name(tmp_path):
  pictures = little.pictures(tmp_path)
  base = say("a", images=tuple(pictures[:1]))
  cache = Cache(tmp_path, "m")
  names = {
    cache.path(base),
    Cache(tmp_path, "other").path(base),
    cache.path(say("b", images=tuple(pictures[:1]))),
    cache.path(say("a", images=tuple(pictures[1:2]))),
    cache.path(say("a", images=tuple(pictures[:2]))),
    cache.path(say("a", images=tuple(pictures[:1]), max_new_tokens=9)),
    cache.path(say("a", images=tuple(pictures[:1]), temperature=0.1)),
  }
  assert len(names) == 7
  # The bytes of an image count, not its name.
  moved = tmp_path / "moved.png"
  moved.write_bytes(Path(pictures[0]).read_bytes())
  assert cache.path(say("a", images=(str(moved),))) == cache.path(base)


@pytest.mark.parametrize(
  "damage", [b"", b'{"text": "cut', b"[]", b'{"text": 1}', b"\xff", b"null"]
)
def test_a_damaged_answer_is_asked_again(tmp_path, damage):
  server = Server()
  cache = Cache(tmp_path, "m")
  answers(CachedAsked(server, cache), say("a"))
  cache.path(say("a")).write_bytes(damage)
  answers(CachedAsked(server, cache), say("a"))
  assert server.paid == ["a", "a"]
  answers(CachedAsked(server, cache), say("a"))
  assert server.paid == ["a", "a"]


def test_no_answer_is_not_kept(tmp_path):
  server = Server(FinishReason.ABSENT)
  engine = CachedAsked(server, Cache(tmp_path, "m"))
  for _ in range(2):
    answers(engine, say("a"))
  assert server.paid == ["a", "a"]
  assert not list(tmp_path.rglob("*.json"))


# ------------------------------------------------------------- in this process
def drained(engine):
  found = {}
  while engine.busy:
    found |= dict(engine.tick())
  return found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  words = little.renderer(str(tmp_path_factory.mktemp("words")), False)
  return little.model(words), words


def test_an_engine_in_this_process_is_cached_too(tmp_path, small):
  engine = little.engine(*small)
  made = cached(engine, tmp_path, "m")
  assert isinstance(made, CachedTicking)
  asked = [
    say("What do you see", name=f"p/{i}:r", max_new_tokens=4) for i in (0, 1)
  ]
  other = say("red ink", max_new_tokens=4)
  tickets = [made.submit(request) for request in (*asked, other)]
  found = drained(made)
  assert set(found) == set(tickets) and len(set(tickets)) == 3
  assert found[tickets[0]].text == found[tickets[1]].text
  assert found[tickets[1]].request_id == "p/1:r"
  assert len(list(tmp_path.rglob("*.json"))) == 2
  # A new engine with the same cache computes nothing.
  again = cached(little.engine(*small), tmp_path, "m")
  ticket = again.submit(other)
  assert not again._engine.busy and again.busy
  assert dict(again.tick())[ticket].text == found[tickets[2]].text
  assert not again.busy


def test_a_cleared_engine_has_forgotten_what_was_in_flight(tmp_path, small):
  made = cached(little.engine(*small), tmp_path, "m")
  asked = say("red ink", max_new_tokens=4)
  made.submit(asked)
  made.clear()
  assert not made.busy
  ticket = made.submit(asked)
  assert drained(made)[ticket].token_ids


# ------------------------------------------------------------------------ a kill
KILLED = """
import asyncio, sys
from pathlib import Path
from tests.rollout.test_cache import Cache, CachedAsked, Server, say

class Slow(Server):
  async def ask(self, request):
    if request.prompt.text == "last":
      print("ready", flush=True)
      await asyncio.sleep(600)
    return await super().ask(request)

async def all_of_them():
  engine = CachedAsked(Slow(), Cache(Path(sys.argv[1]), "m"))
  for text in ("a", "b", "last"):
    await engine.ask(say(text))

asyncio.run(all_of_them())
"""


def test_a_kill_loses_nothing_that_was_answered(tmp_path):
  command = [sys.executable, "-c", KILLED, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
  server = Server()
  engine = CachedAsked(server, Cache(tmp_path, "m"))
  answers(engine, say("a"), say("b"), say("last"))
  assert server.paid == ["last"]
  for path in tmp_path.rglob("*.json"):
    json.loads(path.read_bytes())
