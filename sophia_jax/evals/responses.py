"""The responses of one evaluation: append-only JSONL, nothing is asked twice.

  NAME.settings.json    what the responses depend on, written once
  NAME.responses.jsonl  {"id", "sample", "asked", "finish", "tokens", "response"}

A line is there or not: one that was cut short by a kill is truncated away, and
`append` returns after the bytes are with the operating system. `evals.score`
reads the same lines.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sophia_jax.files import JsonLines, write_json
from sophia_jax.types import FinishReason, Problem, SophiaError, host

Key = tuple[str, int]
"""Id of the problem, number of the sample."""


@host
class Response:
  """What a policy said to a problem.

  Example: Response(id="mathvision/4", sample=0, text="It is \\\\boxed{6}.",
    finish=FinishReason.STOP, tokens=7, asked="1f0c9ab2")
  """

  id: str
  sample: int
  text: str
  finish: FinishReason
  tokens: int
  asked: str
  """`digest` of the problem as it was asked."""


def digest(problem: Problem) -> str:
  """Changes with what a problem asks; a response to another text is none."""
  names = [os.path.basename(image) for image in problem.images]
  asked = json.dumps([problem.text, names]).encode()
  return hashlib.blake2b(asked, digest_size=4).hexdigest()


class Responses:
  """The responses in `path`, and the one way to add some; a context manager.

  Texts stay on the disk; an index of (problem, sample) is held.

  Args:
    path: NAME.responses.jsonl.
    settings: what the responses depend on, JSON values; None: whatever they
      were made with.

  Raises:
    SophiaError: the file was made with other settings, or has a writer.
  """

  settings: Mapping[str, Any]
  """What the responses were made with."""

  def __init__(self, path: Path, settings: Mapping[str, Any] | None):
    self.path = path
    if settings is None and not path.exists():
      raise SophiaError(f"{path}: no responses yet; evaluate first")
    self._lines = JsonLines(
      path,
      fields=("id", "sample", "asked"),
      what="response",
      remedy="remove the line, or the file to ask everything again",
    )
    self._places: dict[Key, tuple[str, int, int]] = {}
    try:
      for line in self._lines:
        self._index(line.values, line.start, line.size)
      self.settings = self._check(settings)
      self._lines.trim()
    except SophiaError:
      self._lines.close()
      raise

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._lines.close()

  def has(self, problem: Problem, sample: int) -> bool:
    """Whether this sample of this very question is there."""
    place = self._places.get((problem.id, sample))
    return place is not None and place[0] == digest(problem)

  def append(self, response: Response) -> None:
    """Adds a response; then it cannot be lost.

    Raises:
      SophiaError: the disk is full; the file is then as it was.
    """
    values = {
      "id": response.id,
      "sample": response.sample,
      "asked": response.asked,
      "finish": response.finish.value,
      "tokens": response.tokens,
      "response": response.text,
    }
    self._index(values, *self._lines.append(values))

  def read(self, problem_id: str, sample: int) -> Response:
    """The newest response of a key that is there."""
    _, start, size = self._places[problem_id, sample]
    values = self._lines.read(start, size)
    return Response(
      id=values["id"],
      sample=values["sample"],
      text=values["response"],
      finish=FinishReason(values["finish"]),
      tokens=values["tokens"],
      asked=values["asked"],
    )

  def _index(self, values: Mapping[str, Any], start: int, size: int) -> None:
    key = values["id"], values["sample"]
    self._places[key] = values["asked"], start, size

  def _check(self, settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Compares the settings, or writes them where there are no responses."""
    path = self.path.with_name(
      self.path.name.replace(".responses.jsonl", ".settings.json")
    )
    there = bool(self._places) and path.exists()
    before = json.loads(path.read_text(encoding="utf-8")) if there else {}
    if settings is None:
      if not there:
        raise SophiaError(f"{self.path}: no responses yet; evaluate first")
      return before
    wanted = json.loads(json.dumps(dict(settings)))
    for key in sorted(before.keys() | wanted.keys()) if there else ():
      if before.get(key) != wanted.get(key):
        raise SophiaError(
          f"{self.path}: its responses were made with {key}="
          f"{before.get(key)!r}, not {wanted.get(key)!r}; give another --name, "
          "or remove the file to ask everything anew"
        )
    write_json(path, wanted)
    return wanted
