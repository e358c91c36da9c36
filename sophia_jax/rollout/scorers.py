"""Scorers of open-ended answers: a reward model behind HTTP, or words in common.

A scorer plays the role "scorer": it is asked with an answer as text, the question
as system prompt and the images, and answers with a number. A number that is not
finite is an answer, too: the reward counts it.

  POST /score {"question", "answer", "images": [data URL]} -> {"score": 1.25}
"""

from __future__ import annotations

import collections
import functools
from typing import Any

from sophia_jax.data.filters import normalised
from sophia_jax.rollout.client import Client, Job
from sophia_jax.rollout.sglang import data_url
from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import Chat, Completion, FinishReason, Problem, Request

PATH = "/score"


class ScoreClient(Client):
  """A reward model behind HTTP."""

  def job(self, request: Request) -> Job:
    assert isinstance(request.prompt, Chat)
    body = {
      "question": request.prompt.system or "",
      "answer": request.prompt.text,
      "images": [data_url(path) for path in request.prompt.images],
    }
    return Job(request.id, PATH, body, functools.partial(_read, request))


def _read(request: Request, answer: Any, where: str) -> Completion:
  """Reads {"score": number}; NaN and infinities are numbers here.

  Raises:
    Trouble: it is something else.
  """
  score = answer.get("score") if isinstance(answer, dict) else None
  if isinstance(score, bool) or not isinstance(score, int | float):
    raise Trouble(f"{where}: no number under the key score")
  try:
    return said(request, float(score))
  except OverflowError:
    return said(request, float("inf"))


class CommonWords:
  """Scores an answer by the words it shares with an accepted answer.

  The score is the largest F1 of the words, 0 to 1, over the problem's `accepted`
  answers, or its gold answer where there are none. Implements ticks.Recorded.
  """

  def recorded(self, request: Request, problem: Problem) -> Completion:
    """Returns the score of the answer that a request holds."""
    assert isinstance(request.prompt, Chat)
    found = request.prompt.text
    wanted = problem.accepted or (problem.answer,)
    return said(request, max(words_f1(found, text) for text in wanted))


def words_f1(one: str, other: str) -> float:
  """Returns the F1 of the words of two texts, counted as often as they occur."""
  a, b = (collections.Counter(normalised(t).split()) for t in (one, other))
  common = (a & b).total()
  return 2 * common / (a.total() + b.total()) if common else 0.0


def said(request: Request, score: float) -> Completion:
  """Returns the completion that holds a score."""
  return Completion(
    request_id=request.id,
    text=repr(score),
    token_ids=(),
    logps=None,
    finish_reason=FinishReason.STOP,
  )
