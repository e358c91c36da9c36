"""The responses of an evaluation: append-only JSONL, nothing is asked twice.

  NAME.settings.json    settings that the responses depend on, written once
  NAME.responses.jsonl  {"id", "sample", "asked", "finish", "tokens", "response"}

A line that a kill cut short is removed, and `append` returns after the bytes are
with the operating system. `evals.score` reads the same lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sophia_jax.data.problems import asked_digest
from sophia_jax.files import JsonLines, read_json, write_json
from sophia_jax.types import FinishReason, Problem, SophiaError, host, quoted

Key = tuple[str, int]
"""Problem id and number of the sample."""


@host
class Response:
  """A policy's response to a problem.

  Example: Response(id="mathvision/4", sample=0, text="It is \\\\boxed{6}.",
    finish=FinishReason.STOP, tokens=7, asked="1f0c9ab21f0c9ab2")
  """

  id: str
  sample: int
  text: str
  finish: FinishReason
  tokens: int
  asked: str
  """`asked_digest` of the problem as it was asked."""


class Responses:
  """The responses in a file, to read and to append to; a context manager.

  Texts stay on the disk; memory holds an index of (problem, sample).

  Args:
    path: NAME.responses.jsonl.
    settings: settings that the responses depend on, JSON values; None: those
      of the file.

  Raises:
    SophiaError: the file was made with other settings, or has a writer.
  """

  settings: Mapping[str, Any]
  """Settings that the responses were sampled with."""

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
    """Returns whether this sample of this exact question is stored."""
    place = self._places.get((problem.id, sample))
    return place is not None and place[0] == asked_digest(problem)

  def append(self, response: Response) -> None:
    """Appends a response, which then survives a kill.

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
    """Returns the newest response of a stored key."""
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
    remedy = "restore it, or remove it and the responses to ask again"
    before = read_json(path, remedy) if there else {}
    if settings is None:
      if not there:
        raise SophiaError(f"{self.path}: no responses yet; evaluate first")
      return before
    current = json.loads(json.dumps(dict(settings)))
    for key in sorted(before.keys() | current.keys()) if there else ():
      if before.get(key) != current.get(key):
        raise SophiaError(
          f"{self.path}: its responses were made with {key}="
          f"{quoted(before.get(key))}, not {quoted(current.get(key))}; give "
          "another --name, "
          "or remove the file to ask everything again"
        )
    write_json(path, current)
    return current
