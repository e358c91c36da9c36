"""Teachers: models beside the policy, whose answers are stored or asked live.

A teacher plays the role of its name. What it cannot answer is an absent answer,
which is stored as such and counted, so that a run that is resumed sees the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from sophia_jax.rollout.ticks import Asked
from sophia_jax.types import (
  Completion,
  Example,
  FinishReason,
  Problem,
  Request,
  SophiaError,
)

NONE, CUT, DOWN = "none", "cut", "down"
"""The reasons of absence: there never was an answer, it ends too early, the
server does not answer."""
REST_S = 60.0
"""Seconds that a server is left alone after it failed."""

_log = logging.getLogger("sophia_jax")


def absent(request: Request, why: str) -> Completion:
  """Returns the completion that stands for no answer."""
  return Completion(
    request_id=request.id,
    text=why,
    token_ids=(),
    logps=None,
    finish_reason=FinishReason.ABSENT,
  )


def is_cut(text: str) -> bool:
  """Returns whether a response ends inside its thoughts."""
  return text.count("<think>") > text.count("</think>")


class Traces:
  """Stored responses; implements ticks.Recorded.

  They go by the ids of their problems, or by places in the problems' trees:
  "p7/0" is the response at place (0,) of p7.
  """

  def __init__(self, examples: Iterable[Example], where: str, strict: bool):
    """Keeps the responses.

    Args:
      where: name of the file, for errors.
      strict: whether a problem without a whole response is an error.
    """
    self._texts: Mapping[str, str] = {e.id: e.response for e in examples}
    self._problems = {id.rpartition("/")[0] for id in self._texts}
    self._where, self._strict = where, strict

  def __contains__(self, problem: Problem) -> bool:
    return problem.id in self._texts or problem.id in self._problems

  def recorded(self, request: Request, problem: Problem) -> Completion:
    """Returns the response to a problem, or why there is none.

    Raises:
      SophiaError: there is none, or it ends inside its thoughts, and that is
        an error.
    """
    place = request.id.rpartition(":")[0]
    text = self._texts.get(place, self._texts.get(problem.id))
    why = NONE if text is None else CUT if is_cut(text) else ""
    if why and self._strict:
      what = "no response" if why == NONE else "a response that is cut off"
      raise SophiaError(
        f"{self._where}: {what} to problem {problem.id!r}; add it, or leave "
        'the place to the policy with absent="skip"'
      )
    if why or text is None:
      return absent(request, why)
    return Completion(
      request_id=request.id,
      text=text,
      token_ids=(),
      logps=None,
      finish_reason=FinishReason.STOP,
    )


class Tolerant:
  """A server without which a run can do: its failures are absent answers."""

  def __init__(self, engine: Asked, name: str):
    """Asks nothing yet.

    Args:
      name: name of the teacher, for the log.
    """
    self._engine, self._name = engine, name
    self._resting_until = 0.0

  async def ask(self, request: Request) -> Completion:
    """Returns the server's answer, or an absent one if it fails."""
    if time.monotonic() < self._resting_until:
      return absent(request, DOWN)
    try:
      return await self._engine.ask(request)
    except SophiaError as e:
      if time.monotonic() >= self._resting_until:
        _log.warning("teacher %s does without: %s", self._name, e)
      self._resting_until = time.monotonic() + REST_S
      return absent(request, DOWN)
