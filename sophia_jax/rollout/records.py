"""The records of a store, and the lines they are written as.

  {"crc":"<crc32 of the record>","record":{"id":...,"digest":...,"path":...}}

A line begins with its key, so that a store is indexed without parsing it.

Answer    what a role said at a place of a problem's tree
Graded    the grade of an answer; `of` names the text it holds for
Finished  the group of a problem is complete

An answer is written as soon as it is there and its grade afterwards: an answer
whose verification was interrupted by a kill is verified again, not sampled again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sophia_jax.types import (
  Completion,
  FinishReason,
  Grade,
  Status,
  Verdict,
  host,
)

_HEAD, _MIDDLE, _TAIL = b'{"crc":"', b'","record":', b"}\n"
_PAYLOAD = len(_HEAD) + 8 + len(_MIDDLE)
_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_KEY = re.compile(
  rb'\{"id":' + _STRING + rb',"digest":' + _STRING + rb","
  rb'(?:"finished":(\d+)|("path":\[[\d,]*\],'
  rb'(?:"turn":\d+,"role":"[^"\\]*(?:\\.[^"\\]*)*"'
  rb'|"of":"[0-9a-f]*"(?=,"status":"([a-z_]+)"))))[,}]'
)
_OUTLINE = re.compile(
  rb'\{"id":' + _STRING + rb',"digest":' + _STRING + rb',"path":\[([\d,]*)\],'
  rb'(?:"turn":(\d+),"role":' + _STRING + rb',"length":(\d+),'
  rb'"request":' + _STRING + rb',"finish":"([a-z]+)","text":"'
  rb'|"of":"([0-9a-f]*)","status":"([a-z_]+)")'
)
_VERSIONS, _REWARDS = b',"versions":', b',"rewards":'
_quoted = json.encoder.encode_basestring_ascii
_log = logging.getLogger(__name__)


@host
class Answer:
  """The answer of a role at a place of a problem's tree."""

  problem_id: str
  digest: str
  """Identity of the problem's content: data.problems.problem_digest."""
  path: tuple[int, ...]
  turn: int = 0
  role: str = "policy"
  completion: Completion
  length: int
  """Tokens of the answer in the policy's vocabulary."""

  @property
  def key(self) -> int:
    return answer_key(self.path, self.turn, self.role)


@host
class Graded:
  """The grade of the text that `of` identifies."""

  problem_id: str
  digest: str
  path: tuple[int, ...]
  of: str
  """`identity` of the graded completion."""
  grade: Grade

  @property
  def key(self) -> int:
    return grade_key(self.path, self.of)


@host
class Finished:
  """The mark of a complete group."""

  problem_id: str
  digest: str
  records: int
  """Number of the problem's answers and grades."""


Record = Answer | Graded | Finished


class Outline(NamedTuple):
  """An answer or a grade without its texts and tokens, as bytes of its line."""

  problem: tuple[bytes, bytes]
  """Id and digest of the problem, as JSON writes them without quotes."""
  path: bytes
  """Place in the problem's tree: b"0,3"."""
  turn: int
  role: bytes
  """b"" for a grade."""
  length: int
  """Tokens of the answer in the policy's vocabulary; 0 for a grade."""
  detail: bytes
  """Finish reason of an answer, status of a grade."""
  tail: bytes
  """JSON of an answer's versions or of a grade's rewards; b"": none."""
  text: tuple[int, int]
  """First byte and end of an answer's text in the line, as JSON writes it
  without quotes; (0, 0) for a grade."""


class Head(NamedTuple):
  """Content of the beginning of a line."""

  problem_id: str
  digest: str
  key: int
  """Identifies an answer or a grade among the problem's records; 0 for the
  mark of a complete group."""
  status: str | None = None
  """Status of a grade."""
  finished: int | None = None
  """Number of the problem's records, if its group is complete."""


# ------------------------------------------------------------------------ keys
def answer_key(path: tuple[int, ...], turn: int, role: str) -> int:
  """Returns 64 bits that identify an answer among those of its problem."""
  return _hash(
    f'"path":{_list(path)},"turn":{turn},"role":{_quoted(role)}'.encode()
  )


def grade_key(path: tuple[int, ...], of: str) -> int:
  """Returns 64 bits that identify a grade among those of its problem."""
  return _hash(f'"path":{_list(path)},"of":{_quoted(of)}'.encode())


def identity(completion: Completion) -> str:
  """Returns a digest of all of a completion that its grade depends on."""
  graded = f"{completion.finish_reason.value} {completion.text}"
  data = graded.encode(errors="surrogatepass")
  return hashlib.blake2b(data, digest_size=8).hexdigest()


def _list(path: tuple[int, ...]) -> str:
  return f"[{','.join(map(str, path))}]"


def _hash(place: bytes) -> int:
  """Hashes the part of a line that says which record of a problem it is."""
  digest = hashlib.blake2b(place, digest_size=8).digest()
  return int.from_bytes(digest, "big")


# -------------------------------------------------------------------- to a line
def encode(record: Record) -> bytes:
  """Returns one line, checksum and newline included."""
  values: dict[str, Any] = {"id": record.problem_id, "digest": record.digest}
  if isinstance(record, Finished):
    values["finished"] = record.records
  elif isinstance(record, Answer):
    values |= {"path": record.path, "turn": record.turn, "role": record.role}
    values |= {"length": record.length, **_completion(record.completion)}
  else:
    verdict = record.grade.verdict
    values |= {"path": record.path, "of": record.of}
    values |= {"status": verdict.status.value, "extracted": verdict.extracted}
    values["rewards"] = dict(record.grade.rewards)
  data = _dump(values)
  return b"".join((_HEAD, b"%08x" % zlib.crc32(data), _MIDDLE, data, _TAIL))


def _dump(values: dict[str, Any]) -> bytes:
  # ASCII only: a lone surrogate in a model's text survives, and the only
  # newline of the line is the one that ends it.
  return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode()


def _completion(completion: Completion) -> dict[str, Any]:
  values: dict[str, Any] = {
    "request": completion.request_id,
    "finish": completion.finish_reason.value,
    "text": completion.text,
  }
  if completion.token_ids:
    values["token_ids"] = [int(i) for i in completion.token_ids]
  if completion.logps is not None:
    values["logps"] = [float(p) for p in completion.logps]
  if completion.versions:
    values["versions"] = completion.versions
  return values


# ------------------------------------------------------------------ from a line
def head(line: bytes) -> Head | None:
  """Returns the key of a line; None if the line is damaged or cut short."""
  data = _payload(line)
  match = None if data is None else _KEY.match(data)
  if match is None:
    return None
  name, digest, finished, place, status = match.groups()
  key = _text(name), _text(digest)
  if finished is not None:
    return Head(*key, 0, finished=int(finished))
  return Head(*key, _hash(place), None if status is None else status.decode())


def _text(quoted: bytes) -> str:
  if b"\\" in quoted:
    return json.loads(b'"%s"' % quoted)
  return quoted.decode()


def outline(line: bytes) -> Outline | None:
  """Returns what a list of rollouts shows of an answer or a grade.

  None for the mark of a complete group, and for a line that is damaged or cut
  short. It parses neither texts nor tokens.
  """
  data = _payload(line)
  match = None if data is None else _OUTLINE.match(data)
  if data is None or match is None:
    return None
  name, digest, path, turn, role, length, _, finish, _, status = match.groups()
  if role is None:
    # Quotes inside texts are escaped, so this is no part of one.
    rewards = data[data.rfind(_REWARDS) + len(_REWARDS) : -1]
    return Outline((name, digest), path, 0, b"", 0, status, rewards, (0, 0))
  start = match.end()
  found = data.rfind(_VERSIONS, start)
  tail = b"" if found < 0 else data[found + len(_VERSIONS) : -1]
  end = data.find(b'","', start)
  end = len(data) - 2 if end < 0 else end
  text = _PAYLOAD + start, _PAYLOAD + end
  size = int(length)
  return Outline(
    (name, digest), path, int(turn), role, size, finish, tail, text
  )


def decode(line: bytes) -> Record | None:
  """Returns the record of a line; None if it is damaged or cut short."""
  data = _payload(line)
  if data is None:
    return None
  values = json.loads(data.decode())
  key = {"problem_id": values["id"], "digest": values["digest"]}
  if "finished" in values:
    return Finished(**key, records=values["finished"])
  key["path"] = tuple(values["path"])
  if "of" in values:
    verdict = Verdict(
      status=Status(values["status"]), extracted=values["extracted"]
    )
    grade = Grade(verdict=verdict, rewards=values["rewards"])
    return Graded(**key, of=values["of"], grade=grade)
  logps = values.get("logps")
  return Answer(
    **key,
    turn=values["turn"],
    role=values["role"],
    length=values["length"],
    completion=Completion(
      request_id=values["request"],
      text=values["text"],
      token_ids=tuple(values.get("token_ids", ())),
      logps=None if logps is None else tuple(logps),
      finish_reason=FinishReason(values["finish"]),
      versions=tuple(map(tuple, values.get("versions", ()))),
    ),
  )


def _payload(line: bytes) -> bytes | None:
  data = line[_PAYLOAD : -len(_TAIL)]
  frame = b"".join((_HEAD, b"%08x" % zlib.crc32(data), _MIDDLE))
  if line[:_PAYLOAD] != frame or line[_PAYLOAD + len(data) :] != _TAIL:
    return None
  return data


# -------------------------------------------------------------------- a segment
def scan(segment: Path, start: int) -> Iterator[tuple[Head, int, int]]:
  """Yields the whole records from byte `start` on: key, first byte, end."""
  with segment.open("rb") as f:
    f.seek(start)
    end = start
    damaged: int | None = None
    for line in f:
      if not line.endswith(b"\n"):  # its writer may not have finished it
        break
      first, end = end, end + len(line)
      found = head(line)
      if found is None:
        damaged = first if damaged is None else damaged
        continue
      if damaged is not None:
        _log.warning(
          "%s: damaged records from byte %d to %d are left out",
          segment,
          damaged,
          first,
        )
        damaged = None
      yield found, first, end
