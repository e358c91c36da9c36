"""Runs the units of an experiment by the command line, and keeps their results.

A unit that ended is a line of the results; one that was killed resumes in its
workdir. What all seeds share is made first (`Experiment.given`), then the base of a
seed; its arms are updates of its samples or runs that start from its result.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.evidence.experiment import Experiment, Unit, units
from sophia_jax.files import JsonLines, Line, read_json, read_jsonl
from sophia_jax.types import SophiaError

LINE = (
  ("experiment", "seed", "arm", "repeat", "measures"),
  "result",
  "restore the file, or give another --results",
)
"""Keys of a line of results, its name, and the advice where it is damaged."""
PROGRAM = (sys.executable, "-m", "launch.run")
"""Command that runs a config."""
REPORT = "report.json"
CONFIG = "config.json"
MADE_BY = ("seed", "prepare", "stages", "order")
"""Keys of a config that models come from."""
GIVEN = "given"
"""Directory of what all seeds share, beside those of the seeds."""


def run(
  experiment: Experiment,
  seeds: Sequence[int],
  workdir: Path,
  results: Path,
  say: Callable[[str], None],
  program: Sequence[str] = PROGRAM,
  given: Path | None = None,
) -> None:
  """Runs the units whose results are missing, one after the other.

  Args:
    workdir: directory of the runs.
    results: file of results, to which lines are appended.
    say: takes a line for each unit that begins.
    program: command that takes the flags of launch.run.
    given: workdir of a finished run with the stages that all seeds share; None:
      they are made first.

  Raises:
    SophiaError: a unit ended with an error, another process writes the results,
      they are of another experiment, or `given` is no such run.
  """
  results.parent.mkdir(parents=True, exist_ok=True)
  todo = list(units(experiment, tuple(seeds)))
  place = workdir / experiment.name
  if given and not (experiment.given and (given / REPORT).exists()):
    raise SophiaError(
      f"--given={given}: "
      + ("no finished run" if experiment.given else "its seeds share nothing")
      + "; leave it out"
    )
  shared = given or place / GIVEN
  with JsonLines(results, *LINE) as lines:
    known = {_key(row) for row in _checked(experiment, lines, results)}
    if {unit.key for unit in todo} <= known:
      return
    origin = {}
    if experiment.given:
      _give(experiment, shared, place / "logs", say, program)
      origin = {"given": identity(shared)}
      _check_origin(lines, results, origin["given"])
    for number, unit in enumerate(todo, 1):
      if unit.key in known:
        continue
      say(f"{number}/{len(todo)} seed {unit.seed} {unit.name}")
      made = _row(experiment, unit, place / str(unit.seed), shared, program)
      lines.append({**made, **origin})


def read(experiment: Experiment, results: Path) -> list[dict[str, Any]]:
  """Returns the results of an experiment.

  Raises:
    SophiaError: there are none, a line is damaged, or they are of another
      experiment.
  """
  if not results.exists():
    raise SophiaError(
      f"{results}: no such results; run the experiment first: "
      f"python -m sophia_jax.evidence run {experiment.name}"
    )
  return _checked(experiment, read_jsonl(results, *LINE), results)


def _checked(
  experiment: Experiment, lines: Iterable[Line], results: Path
) -> list[dict[str, Any]]:
  rows = []
  for line in lines:
    if line.values["experiment"] != experiment.digest:
      raise SophiaError(
        f"{results}:{line.number}: of another version of {experiment.name}; what "
        "is compared is said before a run: give the changed file another name"
      )
    rows.append(line.values)
  return rows


MEASURED = (
  "pass_at_1",
  "pass_at_k",
  "measures",
  "reading",
  "by_source",
  "by_tag",
  "counts",
  "caption_reward_mean",
  "ratio",
  "stages",
)
"""Keys of a report whose numbers are compared."""


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
  """Yields ("pass_at_1.after.value", 0.535), ... of a report's numbers; rows of
  lists are called by their names."""
  if isinstance(value, list):
    value = {row["name"]: row for row in value}
  if isinstance(value, Mapping):
    for key, inner in value.items():
      if path or key in MEASURED:
        yield from numbers(inner, f"{path}.{key}".lstrip("."))
  elif isinstance(value, int | float) and not isinstance(value, bool):
    yield path, value


def identity(given: Path) -> str:
  """Returns the identity of what seeds share: of its models and its results."""
  config, report = (
    read_json(given / name, "make the run again") for name in (CONFIG, REPORT)
  )
  made = {key: config.get(key) for key in MADE_BY}
  found = {k: v for k, v in numbers(report) if not k.endswith(".seconds")}
  text = json.dumps([made, found], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_origin(lines: Iterable[Line], results: Path, given: str) -> None:
  for line in lines:
    if line.values.get("given", given) != given:
      raise SophiaError(
        f"{results}:{line.number}: its seeds share another run; give that one as "
        "--given, or another --results"
      )


def _key(row: Mapping[str, Any]) -> tuple[int, str, int]:
  return row["seed"], row["arm"], row["repeat"]


def _give(
  experiment: Experiment,
  place: Path,
  logs: Path,
  say: Callable[[str], None],
  program: Sequence[str],
) -> None:
  """Makes what all seeds share, unless that is finished."""
  assert experiment.given
  if (place / REPORT).exists():
    return
  stages = experiment.given.stages
  say(f"what all seeds share: {', '.join(stages)}")
  settings = {
    **experiment.settings,
    **experiment.given.settings,
    "order": stages,
  }
  flags = [f"--config={experiment.config}", f"--workdir={place}"]
  _launch([*program, *flags, *_overrides(settings)], logs / f"{GIVEN}.log")


def _row(
  experiment: Experiment,
  unit: Unit,
  base: Path,
  given: Path,
  program: Sequence[str],
) -> dict[str, Any]:
  """Runs a unit; returns its line of results."""
  began = time.monotonic()
  report, series = _run(experiment, unit, base, given, program)
  return {
    "experiment": experiment.digest,
    "seed": unit.seed,
    "arm": unit.arm.name,
    "repeat": unit.repeat,
    "measures": dict(numbers(report)),
    **({"series": series} if series else {}),
    "versions": report["versions"],
    "seconds": round(time.monotonic() - began, 1),
  }


def _run(
  experiment: Experiment,
  unit: Unit,
  base: Path,
  given: Path,
  program: Sequence[str],
) -> tuple[dict[str, Any], dict[str, list[float]]]:
  """Runs a unit; returns its report and the series of its last stage."""
  place, flags = _flags(experiment, unit, base, given)
  _launch([*program, *flags], base / "logs" / f"{unit.name}.log")
  report = read_json(place / REPORT, "remove the run's directory")
  return report, series(place / "metrics.jsonl", experiment.kept)


def _launch(command: Sequence[str], log: Path) -> None:
  """Runs a command to its end.

  Raises:
    SophiaError: its exit code is not 0; quotes its last line.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  # The command ends with this process, however that ends.
  watched = [sys.executable, "-m", "sophia_jax.hosts.watch", *command]
  with (
    open(log, "w", encoding="utf-8") as f,
    subprocess.Popen(
      watched, stdin=subprocess.PIPE, stdout=f, stderr=subprocess.STDOUT
    ) as running,
  ):
    code = running.wait()
  if code:
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = said[-1][:300] if said else "nothing was printed"
    raise SophiaError(f"{log}: exit code {code}: {last}")


def series(path: Path, names: Sequence[str]) -> dict[str, list[float]]:
  """Returns metrics round by round, from the file of a stage's metrics.

  They stand in the row of a round's first update; a round that learnt nothing has
  none, and counts as the one before.

  Raises:
    SophiaError: the file is damaged, or no round has such a metric.
  """
  if not names:
    return {}
  rows = [line.values for line in read_jsonl(path)]
  found = {}
  for name in names:
    known = {
      int(r["round"]): r[name] for r in rows if {"round", name} <= r.keys()
    }
    if not known:
      raise SophiaError(
        f"{path}: no round has {name!r}; correct the experiment"
      )
    values = [known[min(known)]]
    for number in range(1, max(known) + 1):
      values.append(known.get(number, values[-1]))
    found[name] = [float(f"{value:.5g}") for value in values]
  return found


def _flags(
  experiment: Experiment, unit: Unit, base: Path, given: Path
) -> tuple[Path, list[str]]:
  """Returns where a unit's report will be, and the flags of its command.

  Args:
    base: directory of the seed.
    given: workdir of what all seeds share, if they share anything.
  """
  arm = unit.arm
  settings = {**experiment.settings, **arm.settings, "seed": unit.seed}
  settings |= dict.fromkeys(experiment.seeded, unit.seed)
  if unit.repeat:
    settings[f"stages.{experiment.stage}.train.order"] = unit.repeat
  first = unit.arm is experiment.arms[0] and not unit.repeat
  where: list[str]
  if arm.config or arm.apart:
    place = base / unit.name
    start = given if arm.apart else base / "base"
    where = [f"--workdir={place}", f"--config.base={start}"]
  else:
    place = base / "base"
    where = [f"--workdir={place}"]
    if experiment.given:
      where.append(f"--config.base={given}")
    if not first:
      where.append(f"--name={unit.name}")
      place = place / "updates" / unit.name
  config = f"--config={arm.config or experiment.config}"
  return place, [config, *where, *_overrides(settings)]


def _overrides(settings: Mapping[str, Any]) -> list[str]:
  return [f"--config.{key}={_said(value)}" for key, value in settings.items()]


def _said(value: Any) -> str:
  if isinstance(value, bool):
    return str(value).lower()
  return str(tuple(value)) if isinstance(value, list | tuple) else str(value)
