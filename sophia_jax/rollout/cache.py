"""Answers by content: what a frozen model has said is not paid for again.

A store remembers by problem and place, for one workdir; a cache remembers by what
was asked, for all of them. An answer is one file, DIRECTORY/ab/cdef....json, named
by a digest of the model, the texts, the images' bytes and the settings of
sampling. The seed is no part of it: the first answer stands.

A file is written under another name and then renamed, so that a kill leaves it
whole or not at all. Processes may share a directory; two that ask the same at the
same time both pay, and one file stays.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from sophia_jax import files
from sophia_jax.data import clips
from sophia_jax.data.images import image_digest
from sophia_jax.rollout.ticks import Asked, Ticking
from sophia_jax.types import Chat, Completion, FinishReason, Request

_log = logging.getLogger("sophia_jax")


class Cache:
  """The answers of one model, in a directory."""

  def __init__(self, directory: Path, model: str):
    """Touches nothing yet.

    Args:
      model: identity of the model: a fingerprint, or a server's name for it.
    """
    self._directory, self._model = directory, model

  def path(self, request: Request) -> Path:
    """Returns the file of a request's answer.

    Raises:
      SophiaError: an image is missing or unreadable.
    """
    prompt = request.prompt
    assert isinstance(prompt, Chat)  # other vocabularies are asked in words
    how = dataclasses.asdict(request.sampling)
    del how["seed"]
    shown = [file for image in prompt.images for file in clips.files(image)]
    images = [image_digest(file) for file in shown]
    asked = [self._model, prompt.system, prompt.text, images, how]
    digest = hashlib.blake2b(json.dumps(asked).encode(), digest_size=16)
    name = digest.hexdigest()
    return self._directory / name[:2] / f"{name[2:]}.json"

  def find(self, path: Path, request: Request) -> Completion | None:
    """Returns the answer in a file; None where there is none, or no whole one."""
    try:
      found = json.loads(path.read_bytes())
    except FileNotFoundError:
      return None
    except (OSError, ValueError, RecursionError) as e:
      _log.warning("%s: asked again, as it is damaged (%s)", path, str(e)[:80])
      return None
    return _completion(found, request)

  def keep(self, path: Path, completion: Completion) -> None:
    """Writes an answer, unless it is the mark of none.

    Raises:
      SophiaError: it cannot be written.
    """
    if completion.finish_reason is FinishReason.ABSENT:
      return
    row = {
      "text": completion.text,
      "finish": completion.finish_reason.value,
      "token_ids": [int(i) for i in completion.token_ids],
    }
    # ASCII: a lone surrogate in a model's text survives.
    files.write_bytes(path, json.dumps(row).encode())


def _completion(row: Any, request: Request) -> Completion | None:
  """Reads a row; None if it is none that `Cache.keep` writes."""
  try:
    return Completion(
      request_id=request.id,
      text=str(row["text"]),
      token_ids=tuple(map(int, row["token_ids"])),
      logps=None,
      finish_reason=FinishReason(row["finish"]),
    )
  except (KeyError, TypeError, ValueError):
    return None


class CachedAsked:
  """A server whose answers are cached; implements ticks.Asked."""

  def __init__(self, engine: Asked, cache: Cache):
    self._engine, self._cache = engine, cache
    self._in_flight: dict[Path, asyncio.Future[Completion]] = {}

  async def ask(self, request: Request) -> Completion:
    """Returns the cached answer, or the server's; equal questions in flight are
    asked once.

    Raises:
      SophiaError: the server failed, or the answer cannot be written.
    """
    path = self._cache.path(request)
    while path in self._in_flight:
      await asyncio.wait([self._in_flight[path]])
    found = self._cache.find(path, request)
    if found is not None:
      return found
    done = self._in_flight[path] = asyncio.get_running_loop().create_future()
    try:
      answer = await self._engine.ask(request)
      self._cache.keep(path, answer)
      return answer
    finally:
      del self._in_flight[path]
      done.cancel()


class CachedTicking:
  """An engine in this process whose answers are cached; implements ticks.Ticking.

  What the cache holds is delivered by the next tick, under negative tickets.
  """

  def __init__(self, engine: Ticking, cache: Cache):
    self._engine, self._cache = engine, cache
    self._found: collections.deque[tuple[int, Completion]] = collections.deque()
    self._asked: dict[int, tuple[Path, list[tuple[int, Request]]]] = {}
    """File, and further requests for the same answer, of the engine's tickets."""
    self._tickets: dict[Path, int] = {}
    self._next = -1

  @property
  def busy(self) -> bool:
    return bool(self._found) or self._engine.busy

  def submit(self, request: Request) -> int:
    """Takes a request, and returns its ticket.

    Raises:
      SophiaError: it has no room in the engine, or an image is unreadable.
    """
    path = self._cache.path(request)
    found = self._cache.find(path, request)
    if found is None and path not in self._tickets:
      ticket = self._engine.submit(request)
      self._tickets[path], self._asked[ticket] = ticket, (path, [])
      return ticket
    ticket, self._next = self._next, self._next - 1
    if found is not None:
      self._found.append((ticket, found))
    else:
      self._asked[self._tickets[path]][1].append((ticket, request))
    return ticket

  def tick(self) -> list[tuple[int, Completion]]:
    """Returns what is cached, and what the engine has finished."""
    done = list(self._found)
    self._found.clear()
    if not self._engine.busy:
      return done
    for ticket, answer in self._engine.tick():
      path, waiting = self._asked.pop(ticket)
      del self._tickets[path]
      self._cache.keep(path, answer)
      done.append((ticket, answer))
      done += [
        (other, dataclasses.replace(answer, request_id=request.id))
        for other, request in waiting
      ]
    return done

  def clear(self) -> None:
    """Drops the requests in flight."""
    self._found.clear()
    self._asked.clear()
    self._tickets.clear()
    self._engine.clear()


def cached(
  engine: Any, directory: Path, model: str
) -> CachedAsked | CachedTicking:
  """Returns an engine whose answers are cached."""
  cache = Cache(directory, model)
  if isinstance(engine, Asked):
    return CachedAsked(engine, cache)
  return CachedTicking(engine, cache)
