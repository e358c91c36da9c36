"""One request at a time, awaited in the caller's own event loop."""

import asyncio
import time

import pytest

from sophia_jax.types import SophiaError
from tests.rollout import asking
from tests.rollout.fake_server import status


def test_many_may_be_awaited_at_once(client, fake, words):
  engine = client(fake)
  requests = [asking.ask(words, f"p/{i}") for i in range(10)]

  async def all_of_them():
    return await asyncio.gather(*map(engine.ask, requests))

  done = asyncio.run(all_of_them())
  assert [c.request_id for c in done] == [r.id for r in requests]
  assert {c.token_ids for c in done} == {tuple(fake.ids)}
  assert fake.most <= 4  # config.concurrency


def test_chats_are_asked_alike(client, fake):
  engine = client(fake, renderer=None)
  assert asyncio.run(engine.ask(asking.say())).text == fake.text


def test_a_failure_is_retried_and_a_refusal_raised(client, fake, words):
  engine = client(fake)
  fake.faults = [status(503), status(500)]
  assert asyncio.run(engine.ask(asking.ask(words))).token_ids
  fake.faults = [status(400, "no")]
  with pytest.raises(SophiaError, match="answered 400"):
    asyncio.run(engine.ask(asking.ask(words)))


def test_a_cancelled_request_is_aborted(client, fake, words):
  engine = client(fake)
  fake.gate.clear()

  async def cancel():
    task = asyncio.create_task(engine.ask(asking.ask(words)))
    while not fake.running:
      await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
      await task

  asyncio.run(cancel())
  until = time.monotonic() + 20
  while not fake.aborted and time.monotonic() < until:
    time.sleep(0.01)
  assert fake.aborted == [fake.asked[0]["rid"]]


def test_closing_ends_what_is_asked(client, fake, words):
  engine = client(fake)
  fake.gate.clear()

  async def close():
    task = asyncio.create_task(engine.ask(asking.ask(words)))
    while not fake.running:
      await asyncio.sleep(0.01)
    await asyncio.to_thread(engine.close)
    with pytest.raises(asyncio.CancelledError):
      await task

  asyncio.run(close())
  assert len(fake.aborted) == 1
