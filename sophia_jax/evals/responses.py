"""The responses of one evaluation: append-only JSONL, nothing is asked twice.

  NAME.settings.json    what the responses depend on, written once
  NAME.responses.jsonl  {"id", "sample", "asked", "finish", "tokens", "response"}

A line is there or not: one that was cut short by a kill is truncated away, and
`append` returns after the bytes are with the operating system. `evals.score`
reads the same lines.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from sophia_jax.data.problems import asked_digest
from sophia_jax.types import FinishReason, Problem, SophiaError, host

Key = tuple[str, int]
"""Id of the problem, number of the sample."""


@host
class Response:
  """What a policy said to a problem.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    if settings is None and not path.exists():
      raise SophiaError(f"{path}: no responses yet; evaluate first")
    self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    self._places: dict[Key, tuple[str, int, int]] = {}
    try:
      self._lock()
      self._size = self._scan()
      self.settings = self._check(settings)
      os.ftruncate(self._fd, self._size)
    except SophiaError:
      os.close(self._fd)
      raise

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    os.fsync(self._fd)
    os.close(self._fd)

  def has(self, problem: Problem, sample: int) -> bool:
    """Whether this sample of this very question is there."""
    place = self._places.get((problem.id, sample))
    return place is not None and place[0] == asked_digest(problem)

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
    # ASCII: a lone surrogate in a model's text survives.
    line = json.dumps(values).encode() + b"\n"
    try:
      rest = memoryview(line)
      while rest:
        rest = rest[os.write(self._fd, rest) :]
    except OSError as e:
      os.ftruncate(self._fd, self._size)
      raise SophiaError(f"{self.path}: {e.strerror}; free the disk") from e
    self._index(response.id, response.sample, response.asked, len(line))

  def read(self, problem_id: str, sample: int) -> Response:
    """The newest response of a key that is there."""
    _, start, size = self._places[problem_id, sample]
    values = json.loads(os.pread(self._fd, size, start))
    return Response(
      id=values["id"],
      sample=values["sample"],
      text=values["response"],
      finish=FinishReason(values["finish"]),
      tokens=values["tokens"],
      asked=values["asked"],
    )

  def _index(self, name: str, sample: int, asked: str, size: int) -> None:
    self._places[name, sample] = asked, self._size, size
    self._size += size

  def _lock(self) -> None:
    try:
      fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise SophiaError(
        f"{self.path}: another process is writing it; stop that one or give "
        "another --name"
      ) from None

  def _scan(self) -> int:
    """Indexes the lines; returns where the last whole one ends."""
    self._size = 0
    for number, line in enumerate(self._lines(), start=1):
      if not line.endswith(b"\n"):
        break
      try:
        values = json.loads(line)
        key = values["id"], values["sample"], values["asked"]
      except (ValueError, KeyError, TypeError):
        raise SophiaError(
          f"{self.path}:{number}: not a response; remove the line, or the file "
          "to ask everything anew"
        ) from None
      self._index(*key, len(line))
    return self._size

  def _lines(self) -> Iterator[bytes]:
    with open(self.path, "rb") as file:
      yield from file

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
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    partial.replace(path)
    return wanted
