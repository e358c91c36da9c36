"""Drops training problems that overlap a benchmark, and lists them.

  python -m sophia_jax.datasets decontaminate TRAIN.jsonl --against B1.jsonl \\
    B2.jsonl --out CLEAN.jsonl --report DROPPED.jsonl

A problem is dropped for the first of these that holds:

  image    one of its pictures is one of the benchmark's (`perceptual`),
           re-encoded, resized, framed or slightly cropped, whichever question
           is asked about it; with --keep-same-image only if the questions match
           too
  text     the questions are equal when normalised (`overlap`)
  ngrams   the questions share half of the 8-word sequences of the shorter one

Where both have no picture, equal text of any length counts (below 12 words with
equal choices) and 12 words of shared n-grams. Where either has a picture, text
alone counts from 20 words on: "What is the value of x?" under another figure is
another problem, a long description is the problem, however it is drawn.

A line of the report: {"id", "line", "why", "benchmark", "match", "score"}. A
picture of TRAIN that cannot be read cannot be compared: its problem is dropped
as "unreadable".
"""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from sophia_jax.data.schema import (
  numbered_lines,
  parse_record,
  record_errors,
)
from sophia_jax.datasets import overlap, perceptual
from sophia_jax.files import write_jsonl
from sophia_jax.progress import Progress
from sophia_jax.types import SophiaError

VISUAL_WORDS = 20
"""Common words from which on text alone tells a problem with a picture."""
PLAIN_WORDS = overlap.N + overlap.MIN_GRAMS - 1
"""Words that suffice to tell a question without its choices."""

_LINES = 2000
_IMAGES = 128


class Question(NamedTuple):
  """Parts of a problem that are compared."""

  line: int
  id: str
  words: list[str]
  images: tuple[str, ...]
  """Absolute paths."""


class Match(NamedTuple):
  """Reason for which a training problem is dropped."""

  why: str
  score: float | None = None
  benchmark: str | None = None
  match: str | None = None


class Known(NamedTuple):
  """A benchmark's question and the file it is from."""

  benchmark: str
  question: Question


# --------------------------------------------------------------------- reading
def questions(path: Path) -> Iterator[tuple[Question, dict[str, Any]]]:
  """Yields the questions of a file of problems or examples, with records.

  Raises:
    SophiaError: "FILE:LINE: what; remedy" of the first broken line.
  """
  for line, text in numbered_lines(path):
    record, errors = parse_record(text)
    if record is not None:
      errors = record_errors(record, examples="response" in record)
    if record is None or errors:
      raise SophiaError(f"{path}:{line}: {errors[0]}")
    images = tuple(
      os.path.abspath(path.parent / image) for image in record.get("images", ())
    )
    yield Question(line, record["id"], _words(record), images), record


def _words(record: Mapping[str, Any]) -> list[str]:
  found = overlap.words(record["question"])
  if len(found) < PLAIN_WORDS:
    # Choices tell one "Which is true?" from another; their order does not.
    choices = sorted(overlap.words(c) for c in record.get("choices", ()))
    found += itertools.chain.from_iterable(["|", *c] for c in choices)
  return found


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
  while chunk := list(itertools.islice(items, size)):
    yield chunk


# ------------------------------------------------------------------- comparing
class Comparer:
  """Benchmarks, ready to be compared with."""

  def __init__(self, benchmarks: Sequence[Path], workers: int):
    """Reads the benchmarks and hashes their pictures.

    Raises:
      SophiaError: a broken line, or a picture that cannot be read.
    """
    self._workers = workers
    self.known = [
      Known(path.name, question)
      for path in benchmarks
      for question, _ in questions(path)
    ]
    if not self.known:
      raise SophiaError(f"{benchmarks[0]}: no question to compare with")
    self.texts = overlap.TextIndex([k.question.words for k in self.known])
    shown: dict[str, list[int]] = {}
    for i, known in enumerate(self.known):
      for image in known.question.images:
        shown.setdefault(image, []).append(i)
    self._shown = list(shown.values())
    parts = []
    for part, broken, _ in self._hashed(list(shown), "benchmark images"):
      if broken:
        raise SophiaError(next(iter(broken.values())))
      parts.append(part)
    self._images = perceptual.Index(perceptual.join(parts)) if parts else None

  def images(
    self, paths: Sequence[str]
  ) -> Iterator[tuple[str, list[tuple[int, float]] | str]]:
    """Yields each path with (known, score) of its matches, or its error."""
    for part, broken, chunk in self._hashed(paths, "images"):
      hits: dict[int, list[tuple[int, float]]] = collections.defaultdict(list)
      for hit in self._images(part) if self._images else ():
        for known in self._shown[hit.known]:
          hits[hit.query].append((known, hit.score))
      for i, path in enumerate(chunk):
        yield path, broken.get(i) or hits.get(i, [])

  def _hashed(
    self, paths: Sequence[str], what: str
  ) -> Iterator[tuple[perceptual.Signatures, dict[int, str], list[str]]]:
    chunks = [*_chunks(iter(paths), _IMAGES)]
    if not chunks:
      return
    with Progress(what, len(paths), "image") as progress:
      if self._workers < 2 or len(chunks) < 2:
        made = zip(map(perceptual.signatures, chunks), chunks)
        yield from _counted(made, progress)
        return
      # Not forked: jax, which our types import, may have threads.
      context = multiprocessing.get_context("spawn")
      with ProcessPoolExecutor(self._workers, context) as pool:
        made = zip(pool.map(perceptual.signatures, chunks), chunks)
        yield from _counted(made, progress)


def _counted(
  made: Iterator[tuple[Any, list[str]]], progress: Progress
) -> Iterator[tuple[perceptual.Signatures, dict[int, str], list[str]]]:
  for (part, broken), chunk in made:
    yield part, broken, chunk
    progress.advance(len(chunk))


# -------------------------------------------------------------------- deciding
def compare(
  train: Path,
  benchmarks: Sequence[Path],
  keep_same_image: bool = False,
  workers: int = 1,
) -> dict[int, Match]:
  """Returns the lines that overlap a benchmark, each with its reason.

  Raises:
    SophiaError: a broken line, or a benchmark's picture that cannot be read.
  """
  comparer = Comparer(benchmarks, workers)
  dropped: dict[int, Match] = {}
  same_text: set[tuple[int, int]] = set()
  lines_of: dict[str, list[int]] = {}
  total = sum(1 for _ in numbered_lines(train))
  with Progress("questions", total, "question") as progress:
    for chunk in _chunks((q for q, _ in questions(train)), _LINES):
      for hit in comparer.texts([asked.words for asked in chunk]):
        asked, known = chunk[hit.query], comparer.known[hit.known]
        same_text.add((asked.line, hit.known))
        if _enough(asked, known.question, hit):
          why = "text" if hit.equal else "ngrams"
          _keep_better(dropped, asked.line, _match(why, hit.score, known))
      for asked in chunk:
        for image in asked.images:
          lines_of.setdefault(image, []).append(asked.line)
      progress.advance(len(chunk), dropped=len(dropped))
  for path, found in comparer.images(list(lines_of)):
    for line in lines_of[path]:
      if isinstance(found, str):
        dropped.setdefault(line, Match("unreadable"))
        continue
      for place, score in found:
        if not keep_same_image or (line, place) in same_text:
          match = _match("image", score, comparer.known[place])
          _keep_better(dropped, line, match)
  return dropped


def _enough(asked: Question, known: Question, hit: overlap.TextHit) -> bool:
  """Tells whether the common text identifies the problem."""
  if asked.images or known.images:
    return hit.words >= VISUAL_WORDS
  return hit.equal or hit.words >= PLAIN_WORDS


def _match(why: str, score: float, known: Known) -> Match:
  return Match(why, round(score, 4), known.benchmark, known.question.id)


_RANK = {"unreadable": 0, "ngrams": 1, "text": 2, "image": 3}


def _keep_better(dropped: dict[int, Match], line: int, match: Match) -> None:
  def rank(m: Match) -> tuple[int, float]:
    return _RANK[m.why], m.score or 0.0

  if line not in dropped or rank(match) > rank(dropped[line]):
    dropped[line] = match


# --------------------------------------------------------------------- writing
def decontaminate(
  train: Path,
  benchmarks: Sequence[Path],
  out: Path,
  report: Path,
  keep_same_image: bool = False,
  workers: int = 1,
) -> tuple[int, collections.Counter[str]]:
  """Writes the clean problems and the dropped ones; each file whole or not.

  Returns:
    Problems kept, and problems dropped by reason.

  Raises:
    SophiaError: as `compare`, or an output that is an input.
  """
  inputs = {path.resolve() for path in (train, *benchmarks)}
  for path in (out, report):
    if path.resolve() in inputs:
      raise SophiaError(f"{path}: is an input; write to another file")
  if out.resolve() == report.resolve():
    raise SophiaError(f"{out}: --out and --report are one file; name two")
  dropped = compare(train, benchmarks, keep_same_image, workers)

  def rows(clean: bool) -> Iterator[Mapping[str, Any]]:
    for question, record in questions(train):
      match = dropped.get(question.line)
      if match is None and clean:
        yield {**record, **_moved(record, question.images, out.parent)}
      elif match is not None and not clean:
        place = {"id": question.id, "line": question.line}
        yield place | match._asdict()

  write_jsonl(report, rows(clean=False))
  kept = write_jsonl(out, rows(clean=True))
  return kept, collections.Counter(match.why for match in dropped.values())


def _moved(
  record: Mapping[str, Any], images: Sequence[str], folder: Path
) -> dict[str, list[str]]:
  """Makes image paths relative to the file that is written."""
  if not images:
    return {}
  return {
    "images": [
      image if os.path.isabs(image) else os.path.relpath(path, folder.resolve())
      for image, path in zip(record["images"], images)
    ]
  }
