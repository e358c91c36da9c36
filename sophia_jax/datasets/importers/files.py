"""Selects a data set's files: one split, one generation, no companions.

A folder as it comes from the Hub, from a Mac or from an earlier run holds more
than its rows. What is passed over, or may be missing, becomes a note of the
import; where the choice would be a guess it is refused.
"""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.files import mistaken
from sophia_jax.types import SophiaError

SPLITS = {
  "train": ("train", "training"),
  "validation": ("validation", "valid", "val", "dev"),
  "test": ("test", "testing", "eval", "evaluation"),
  "testmini": ("testmini",),
}
"""Split -> the words that name it, as the Hub reads them."""
SUFFIXES = (".parquet", ".arrow", ".jsonl", ".csv", ".tsv", ".json")
"""Data files, in the order in which a folder is searched for them."""
ANY_KIND = tuple(f"**/*{suffix}" for suffix in SUFFIXES)
"""Patterns of a data set that may be of any kind."""

# What `datasets` and others write beside the rows.
_ABOUT = {
  "dataset_info.json",
  "dataset_infos.json",
  "dataset_dict.json",
  "state.json",
}
_STATE = "state.json"
_CACHE = re.compile(r"(cache-|tmp).*\.arrow|.*\bindices.*\.arrow", re.I)
_SHARD = re.compile(r"(.*?)[-_.]?(\d{5})-of-(\d{5})(.*)")
_REVISION = re.compile(r"[0-9a-f]{16,}|default-[0-9a-f]{16}|\d+\.\d+\.\d+")
_WORD = re.compile("[a-z]+")

Notes = collections.Counter[str]


def find_files(src: Path, patterns: Sequence[str]) -> list[Path]:
  """Returns SRC itself, or the files of the first pattern that matches any.

  Files of all splits are returned.

  Raises:
    SophiaError: there are none, or they are of several generations.
  """
  return _matching(src, patterns, collections.Counter())


def select_files(
  src: Path,
  patterns: Sequence[str],
  split: str | None,
  train_only: bool,
  notes: Notes,
) -> list[Path]:
  """Returns the files of one split; SRC itself if it is a file.

  Args:
    patterns: globs below SRC; those of the first that matches any are taken.
    split: the split to read; None: the only one, or the training split.
    train_only: whether the training split is the obvious one of several.
    notes: takes what was passed over.

  Raises:
    SophiaError: no such file, folder or split, several splits to choose from,
      or several generations of one file.
  """
  found = _matching(src, patterns, notes)
  if src.is_file():
    return found
  of_split = collections.defaultdict(list)
  for path in found:
    of_split[split_of(path.relative_to(src))].append(path)
  chosen = _choose(src, sorted(of_split), split, train_only)
  for name, paths in of_split.items():
    if name not in chosen:
      what = f"of the split {name}" if name else "of no split"
      notes[f"files {what} not read (choose with --split)"] += len(paths)
  taken = sorted(path for name in chosen for path in of_split[name])
  _check_shards(src, taken, notes)
  return taken


def split_of(path: Path) -> str:
  """Returns the split that a file's name or folder says; "" for none.

  The name before -00000-of-00001 is the split itself: train_sft and
  train_prefs are two. Elsewhere the first word of SPLITS counts, of the file's
  name before those of its folders.
  """
  shard = _SHARD.fullmatch(path.stem)
  stem = shard[1] if shard else path.stem
  if name := canonical(stem):
    return stem if shard else name
  folders = reversed(path.parts[:-1])
  return next((name for part in folders if (name := canonical(part))), "")


def canonical(text: str) -> str:
  """Returns the split that the first telling word names; "" for none."""
  words = _WORD.findall(text.lower())
  return next((_BY_WORD[word] for word in words if word in _BY_WORD), "")


_BY_WORD = {word: name for name, words in SPLITS.items() for word in words}


def _choose(
  src: Path, splits: list[str], split: str | None, train_only: bool
) -> list[str]:
  """Returns the splits to read: one, and none where nothing says which."""
  if splits == [""]:  # a column may say it
    return [""]
  if split is not None:
    wanted = [name for name in splits if name == split] or [
      name for name in splits if name and canonical(name) == canonical(split)
    ]
    if len(wanted) != 1:
      raise SophiaError(
        f"{src}: --split={split} names {', '.join(wanted) or 'none'} of its "
        f"splits; choose from {_listed(splits)}"
      )
    return wanted
  if len(splits) == 1:
    return [*splits]
  training = [name for name in splits if canonical(name) == "train"]
  if train_only and len(training) == 1:
    return training
  raise SophiaError(
    f"{src}: holds several splits ({_listed(splits)}); choose one with --split, "
    "or give its file"
  )


def _listed(splits: Iterable[str]) -> str:
  return ", ".join(name or "files of no split" for name in splits)


# ------------------------------------------------------------------- which files
def _matching(src: Path, patterns: Sequence[str], notes: Notes) -> list[Path]:
  if src.is_file():
    if src.suffix.lower() in SUFFIXES and (what := mistaken(src)):
      raise SophiaError(f"{src}: is {what}")
    return [src]
  if not src.is_dir():
    raise SophiaError(f"{src}: no such file or folder; check the path")
  files = [*_data_files(src, notes)]
  for pattern in patterns:
    glob = _glob(pattern)
    found = [
      path for path in files if glob.fullmatch(path.relative_to(src).as_posix())
    ]
    if found:
      if pattern in ANY_KIND:
        _note_other_kinds(files, Path(pattern).suffix, notes)
      _check_generations(src, found)
      return found
  raise SophiaError(
    f"{src}: holds none of {', '.join(patterns)}; give the data set's folder "
    "or one of its files"
  )


def _note_other_kinds(files: Iterable[Path], read: str, notes: Notes) -> None:
  for path in files:
    if (suffix := path.suffix.lower()) != read:
      notes[f"files of another kind not read ({suffix})"] += 1


def _glob(pattern: str) -> re.Pattern[str]:
  """Compiles a glob, ignoring case: Windows writes TRAIN.CSV."""
  known = {"**/": "(?:.*/)?", "*": "[^/]*"}
  parts = re.split(r"(\*\*/|\*)", pattern)
  regex = "".join(known.get(part, re.escape(part)) for part in parts)
  return re.compile(regex, re.IGNORECASE)


def _data_files(src: Path, notes: Notes) -> Iterator[Path]:
  """Yields the data files below a folder, in order, without companions.

  Names that begin with a dot or an underscore are not data, as for Hive and
  pyarrow: a Mac's ._ files, the Hub's .cache, Spark's _SUCCESS.
  """
  for folder, folders, names in os.walk(_snapshot(src)):
    folders[:] = sorted(
      name for name in folders if not name.startswith((".", "_"))
    )
    saved = _saved_files(Path(folder)) if _STATE in names else None
    for name in sorted(names):
      path = Path(folder, name)
      if path.suffix.lower() not in SUFFIXES or name in _ABOUT:
        continue
      if name.startswith((".", "_")):
        notes["hidden companion files passed over"] += 1
      elif path.suffix.lower() == ".arrow" and _is_stale(name, saved):
        notes["cache files of `datasets` passed over"] += 1
      elif not path.is_file():
        continue
      elif what := mistaken(path):
        notes[f"file passed over, being {what.partition(';')[0]}"] += 1
      else:
        yield path


def _is_stale(name: str, saved: frozenset[str] | None) -> bool:
  """Tells a result that `map` or `filter` left from what was saved."""
  if saved is not None:
    return name not in saved
  return _CACHE.fullmatch(name) is not None


def _saved_files(folder: Path) -> frozenset[str] | None:
  """Returns the files that `save_to_disk` lists; None if it does not say."""
  try:
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return frozenset(file["filename"] for file in state["_data_files"])
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def _snapshot(src: Path) -> Path:
  """Returns the current revision of a repository in the Hub's cache, or SRC.

  Every revision that was ever fetched stays in it.
  """
  reference = src / "refs" / "main"
  if not (src / "snapshots").is_dir() or not reference.is_file():
    return src
  revision = src / "snapshots" / reference.read_text().strip()
  return revision if revision.is_dir() else src


# ------------------------------------------------------------------- generations
def _check_generations(src: Path, found: Sequence[Path]) -> None:
  """Refuses two versions of the same rows, which would be read twice.

  Raises:
    SophiaError: shards of two counts, one shard under two names, or one file
      in two revisions of a cache.
  """
  counts: dict[Any, tuple[str, Path]] = {}
  seen: dict[Any, Path] = {}
  for path in found:
    keys: list[Any] = [_without_revision(path.relative_to(src))]
    if shard := _SHARD.fullmatch(path.stem):
      stem, number, count, _ = shard.groups()
      group = (path.parent, stem, path.suffix.lower())
      before, earlier = counts.setdefault(group, (count, path))
      if before != count:
        raise _two_versions(src, earlier, path)
      keys.append((*group, number))
    for key in keys:
      if seen.setdefault(key, path) != path:
        raise _two_versions(src, seen[key], path)


def _without_revision(path: Path) -> str:
  """Returns a path whose folders that name a version or a hash are stars."""
  folders = ("*" if _REVISION.fullmatch(p) else p for p in path.parts[:-1])
  return "/".join((*folders, path.name))


def _two_versions(src: Path, one: Path, other: Path) -> SophiaError:
  names = (str(path.relative_to(src)) for path in (one, other))
  return SophiaError(
    f"{src}: {' and '.join(names)} are two versions of the same rows; remove "
    "the older files"
  )


def _check_shards(src: Path, taken: Sequence[Path], notes: Notes) -> None:
  """Notes shards that the names of the others promise."""
  there: collections.Counter[tuple[Path, str, str, str]] = collections.Counter()
  for path in taken:
    if shard := _SHARD.fullmatch(path.stem):
      there[path.parent, shard[1], path.suffix, shard[3]] += 1
  for (_, _, _, count), found in there.items():
    if found < int(count):
      notes["shards missing, by the names of the others"] += int(count) - found
