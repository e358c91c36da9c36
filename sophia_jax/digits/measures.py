"""Exact measures of what an answer says about its image.

A worked answer of this world states what the image shows before it reasons. The
scene is known, so the stated reading is right or wrong without a judge, and so is
whether the answer follows from it: automatic forms of the hallucinations and
logical inconsistencies that the paper counts by hand (arXiv 2507.16814, Table 9).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sophia_jax.digits import clips, language, views
from sophia_jax.rewards import verify
from sophia_jax.types import Problem, Status

_SHOWN = re.compile(
  r"The (?:image|clip) shows ((?:(?:\d|unclear)(?:, )?){1,9})\."
)
_TAKEN = re.compile(r"I take the unclear digit for (\d)\.")


class Reading(NamedTuple):
  """The contents of an image as an answer states them.

  Example: Reading(seen=(3, None), digits=(3, 7))
  """

  seen: language.Seen
  digits: language.Digits
  """The digits that it reckons with; empty where an unclear one is not taken for
  any."""


def stated(response: str) -> Reading | None:
  """Returns the reading that a response states; None: it states none."""
  shown = _SHOWN.search(response)
  if not shown:
    return None
  words = shown[1].split(", ")
  seen = tuple(None if w == language.UNCLEAR else int(w) for w in words if w)
  taken = _TAKEN.search(response)
  guess = int(taken[1]) if taken else None
  digits = tuple(guess if d is None else d for d in seen)
  return Reading(seen, tuple(d for d in digits if d is not None))


def follows(problem: Problem, reading: Reading, answer: str | None) -> bool:
  """Returns whether an answer is right about the digits that it reckons with."""
  if answer is None or len(reading.digits) != len(reading.seen):
    return False
  own = _asked_again(problem, reading.digits)
  if own is None:
    return False
  gold = own.answer
  if problem.choices and not own.choices:
    if gold not in problem.choices:
      return False
    gold = chr(65 + problem.choices.index(gold))
  kind, choices = problem.answer_type, problem.choices
  return verify.compare(kind, gold, answer, choices) is Status.RIGHT


def _asked_again(
  problem: Problem, digits: language.Digits
) -> language.Question | None:
  """Returns a problem's question about other digits; None: it makes no sense."""
  if problem.source in clips.KINDS:
    return clips.ask_again(problem.source, problem.question, digits)
  if len(digits) not in language.PLACES:
    return None
  return language.ask_again(problem.source, problem.question, digits)


def measure(
  responses: Iterable[Mapping[str, Any]],
  problems: Mapping[str, Problem],
  scenes: Mapping[str, language.Seen],
) -> dict[str, Any]:
  """Measures responses to problems of this world.

  Args:
    responses: rows with "id", "response", "extracted", "status" and "tokens".
    problems: the problems by id.
    scenes: what the image of each problem shows.

  Returns:
    Shares of the responses: "stated" a reading, "scene" stated it right, "digit"
    (of the digits: right at their place), "follows" from the own reading,
    "invented" (of the responses to images with an unclear digit: names a digit
    for it; None without such images); "right", the share of right answers by
    whether all digits are clear; "table", the number of right and wrong answers
    by the stated reading; "tokens", the mean length.
  """
  n: Counter[str] = Counter()
  table = {s: {"right": 0, "wrong": 0, "none": 0} for s in ("right", "wrong")}
  for row in responses:
    problem, truth = problems[row["id"]], tuple(scenes[row["id"]])
    reading = stated(row["response"])
    right = row["status"] == Status.RIGHT.value
    scene = reading is not None and reading.seen == truth
    how = "none" if reading is None else "right" if scene else "wrong"
    table["right" if right else "wrong"][how] += 1
    n["responses"] += 1
    n["tokens"] += row["tokens"]
    n["digits"] += len(truth)
    of = "unclear" if None in truth else "clear"
    n[of] += 1
    n[f"right {of}"] += right
    if reading is None:
      continue
    n["stated"] += 1
    n["scene"] += scene
    if len(reading.seen) == len(truth):
      n["digit"] += sum(a == b for a, b in zip(reading.seen, truth))
      n["invented"] += any(
        b is None and a is not None for a, b in zip(reading.seen, truth)
      )
    n["follows"] += follows(problem, reading, row["extracted"])
  share = lambda key, of="responses": n[key] / n[of] if n[of] else None
  return {
    **{key: share(key) for key in ("stated", "scene", "follows")},
    "digit": share("digit", "digits"),
    "invented": share("invented", "unclear"),
    "tokens": share("tokens"),
    "right": {of: share(f"right {of}", of) for of in ("clear", "unclear")},
    "table": table,
  }


def of_views(
  responses: Iterable[Mapping[str, Any]], problems: Mapping[str, Problem]
) -> dict[str, Any]:
  """Measures responses to problems about videos (`digits.views`).

  Args: as for `measure`.

  Returns:
    Shares of the responses: "stated" what they reason from, "follows" from what
    they state; of the right ones, "right_follows"; "tokens", the mean length.
  """
  n: Counter[str] = Counter()
  for row in responses:
    problem = problems[row["id"]]
    facts = views.stated(row["response"])
    follows = facts is not None and _is(
      problem, views.solved(problem.source, problem.question, facts), row
    )
    right = row["status"] == Status.RIGHT.value
    n["responses"] += 1
    n["tokens"] += row["tokens"]
    n["right"] += right
    n["stated"] += facts is not None
    n["follows"] += follows
    n["right_follows"] += right and follows
  share = lambda key, of="responses": n[key] / n[of] if n[of] else None
  return {
    **{key: share(key) for key in ("stated", "follows", "tokens")},
    "right_follows": share("right_follows", "right"),
  }


def _is(problem: Problem, answer: str | None, row: Mapping[str, Any]) -> bool:
  """Returns whether a response's answer is the option with a text."""
  if answer is None or row["extracted"] is None:
    return False
  status = verify.compare("choice", answer, row["extracted"], problem.choices)
  return answer in problem.choices and status is Status.RIGHT
