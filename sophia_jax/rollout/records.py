"""The records of the store, and the lines they are written as.

  {"crc":"<crc32 of the record>","record":{"id":...,"k":...,"n":...,...}}

A line begins with its key, so that a store is indexed without parsing it.

A reasoning is written as soon as it is there and its verdict afterwards, in a
line of its own: what a verifier is still busy with when the process is killed
need not be generated again. A verdict names the checksum of the reasoning it is
of, and holds for no other text.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sophia_jax.types import (
  Caption,
  Completion,
  FinishReason,
  Status,
  Trajectory,
  Verdict,
  host,
)

_HEAD, _MIDDLE, _TAIL = b'{"crc":"', b'","record":', b"}\n"
_PAYLOAD = len(_HEAD) + 8 + len(_MIDDLE)
_KEY = re.compile(
  rb'\{"id":"([^"\\]*(?:\\.[^"\\]*)*)","k":(\d+)'
  rb'(?:,"n":(\d+)(?:,"length":(\d+))?(?:,"of":(\d+))?'
  rb'(?:,"status":"([a-z_]+)")?)?,'
)
_log = logging.getLogger(__name__)


@host
class Reasoning:
  """A trajectory that is not verified yet; its fields are the trajectory's."""

  problem_id: str
  k: int
  n: int
  completion: Completion
  length: int

  @property
  def id(self) -> str:
    return f"{self.problem_id}/{self.k}/{self.n}"

  def judged(self, verdict: Verdict) -> Trajectory:
    """The trajectory it becomes."""
    return Trajectory(
      problem_id=self.problem_id,
      k=self.k,
      n=self.n,
      completion=self.completion,
      verdict=verdict,
      length=self.length,
    )


@host
class Judgement:
  """The verdict on the reasoning whose line has the checksum `of`."""

  problem_id: str
  k: int
  n: int
  of: int
  verdict: Verdict


Record = Caption | Reasoning | Judgement | Trajectory


class Head(NamedTuple):
  """What the beginning of a line tells."""

  problem_id: str
  k: int
  n: int | None
  """None: a caption."""
  text: bool
  """Whether the line holds a completion."""
  status: str | None
  """The verdict, if the line holds one."""
  crc: int
  """Of the reasoning: the line's own, or the one its verdict is of."""


# -------------------------------------------------------------------- to a line
def encode(record: Record) -> bytes:
  """One line, checksum and newline included."""
  values: dict[str, Any] = {"id": record.problem_id, "k": record.k}
  if not isinstance(record, Caption):
    values["n"] = record.n
  if isinstance(record, Reasoning | Trajectory):
    values["length"] = record.length
  if isinstance(record, Judgement):
    values["of"] = record.of
  if isinstance(record, Judgement | Trajectory):
    values["status"] = record.verdict.status.value
    values["extracted"] = record.verdict.extracted
  if not isinstance(record, Judgement):
    values |= _completion_values(record.completion)
  # ASCII only: a lone surrogate in a model's text survives, and the only
  # newline of the line is the one that ends it.
  payload = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
  data = payload.encode()
  return b"".join((_HEAD, b"%08x" % zlib.crc32(data), _MIDDLE, data, _TAIL))


def _completion_values(completion: Completion) -> dict[str, Any]:
  values: dict[str, Any] = {
    "request": completion.request_id,
    "finish": completion.finish_reason.value,
    "text": completion.text,
  }
  if completion.token_ids:
    values["token_ids"] = [int(i) for i in completion.token_ids]
  if completion.logps is not None:
    values["logps"] = [float(p) for p in completion.logps]
  return values


# ------------------------------------------------------------------ from a line
def head(line: bytes) -> Head | None:
  """The key of a line; None if the line is damaged or cut short."""
  data = _payload(line)
  if data is None:
    return None
  match = _KEY.match(data)
  if match is None:
    return None
  name, k, n, length, of, status = match.groups()
  problem_id = json.loads(b'"%s"' % name) if b"\\" in name else name.decode()
  return Head(
    problem_id=problem_id,
    k=int(k),
    n=None if n is None else int(n),
    text=n is None or length is not None,
    status=None if status is None else status.decode(),
    crc=int(line[len(_HEAD) : len(_HEAD) + 8], 16) if of is None else int(of),
  )


def decode(line: bytes) -> Record | None:
  """The record of one line; None if the line is damaged or cut short."""
  data = _payload(line)
  if data is None:
    return None
  values = json.loads(data)
  key = {"problem_id": values["id"], "k": values["k"]}
  if "n" not in values:
    return Caption(**key, completion=_completion(values))
  key["n"] = values["n"]
  if "of" in values:
    return Judgement(**key, of=values["of"], verdict=_verdict(values))
  reasoning = Reasoning(
    **key, completion=_completion(values), length=values["length"]
  )
  return reasoning.judged(_verdict(values)) if "status" in values else reasoning


def _payload(line: bytes) -> bytes | None:
  data = line[_PAYLOAD : -len(_TAIL)]
  frame = b"".join((_HEAD, b"%08x" % zlib.crc32(data), _MIDDLE))
  if line[:_PAYLOAD] != frame or line[_PAYLOAD + len(data) :] != _TAIL:
    return None
  return data


def _completion(values: dict[str, Any]) -> Completion:
  logps = values.get("logps")
  return Completion(
    request_id=values["request"],
    text=values["text"],
    token_ids=tuple(values.get("token_ids", ())),
    logps=None if logps is None else tuple(logps),
    finish_reason=FinishReason(values["finish"]),
  )


def _verdict(values: dict[str, Any]) -> Verdict:
  return Verdict(status=Status(values["status"]), extracted=values["extracted"])


# -------------------------------------------------------------------- a segment
def scan(segment: Path, start: int) -> Iterator[tuple[Head, int, int]]:
  """The whole records from byte `start` on: key, first byte, end."""
  with segment.open("rb") as f:
    f.seek(start)
    end = start
    damaged: int | None = None
    for line in f:
      if not line.endswith(b"\n"):  # may be growing under our eyes
        break
      first, end = end, end + len(line)
      found = head(line)
      if found is None:
        damaged = first if damaged is None else damaged
        continue
      if damaged is not None:
        _log.warning(
          "%s: damaged records from byte %d to %d are passed over",
          segment,
          damaged,
          first,
        )
        damaged = None
      yield found, first, end
