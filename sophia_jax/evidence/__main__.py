"""Experiments from the command line.

python -m sophia_jax.evidence run unclear --seeds=0,1,2 --workdir=runs/evidence
python -m sophia_jax.evidence table unclear
python -m sophia_jax.evidence table unclear --write
python -m sophia_jax.evidence list
python -m sophia_jax.evidence summary --write
python -m sophia_jax.evidence planned W/planning/results.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sophia_jax import commands
from sophia_jax.evidence import costs, experiment, pages, runner, summary
from sophia_jax.files import write_text
from sophia_jax.types import SophiaError

EXPERIMENTS = Path("configs/evidence")
RESULTS = Path("docs/results/evidence")
_EXAMPLE = "python -m sophia_jax.evidence {} unclear"


def _parser() -> commands.Parser:
  parser = commands.Parser(
    prog="python -m sophia_jax.evidence",
    description="Runs an experiment over seeds, prints its tables, or lists all.",
    example=_EXAMPLE.format("run"),
  )
  added = parser.add_subparsers(dest="command", required=True)
  text = "print units done and left of every experiment"
  example = "python -m sophia_jax.evidence list"
  added.add_parser("list", help=text, description=text, example=example)
  _summary_command(added)
  _planned_command(added)
  for name, text in (
    ("run", "run the units whose results are missing; resumes after a kill"),
    ("table", "print the tables of the stored results"),
  ):
    command = added.add_parser(
      name, help=text, description=text, example=_EXAMPLE.format(name)
    )
    command.add_argument(
      "experiment", help=f"a name in {EXPERIMENTS}, or a TOML file"
    )
    command.add_argument(
      "--results", type=Path, help=f"results; {RESULTS}/NAME.jsonl if absent"
    )
    if name == "run":
      command.add_argument("--seeds", default="", help="0,1,2; all if absent")
      command.add_argument(
        "--workdir", type=Path, default=Path("runs/evidence"), help="the runs"
      )
      command.add_argument(
        "--given",
        type=Path,
        help="a finished run with the stages that all seeds share; made if absent",
      )
    else:
      command.add_argument(
        "--write",
        action="store_true",
        help="write the page and its picture beside the results",
      )
  return parser


def _summary_command(added: Any) -> None:
  text = "print every hypothesis of the experiments that have been run"
  example = "python -m sophia_jax.evidence summary"
  command = added.add_parser(
    summary.NAME, help=text, description=text, example=example
  )
  command.add_argument(
    "--write", action="store_true", help=f"write it to {RESULTS}"
  )


def _planned_command(added: Any) -> None:
  text = "print the tables of a run that plans (LINVIT)"
  example = "python -m sophia_jax.evidence planned W/planning/results.jsonl"
  command = added.add_parser(
    "planned", help=text, description=text, example=example
  )
  command.add_argument(
    "results",
    type=Path,
    nargs="?",
    default=RESULTS / "linvit.jsonl",
    help="results.jsonl of such a run; the stored ones if absent",
  )
  command.add_argument(
    "--write", action="store_true", help="write the page beside the results"
  )


def _files() -> list[Path]:
  """Returns the files of all experiments."""
  found = sorted(EXPERIMENTS.glob("*.toml"))
  if not found:
    raise SophiaError(f"{EXPERIMENTS}: no experiments; start in the repository")
  return found


def _find(name: str) -> Path:
  path = Path(name)
  if path.suffix == ".toml":
    return path
  found = EXPERIMENTS / f"{name}.toml"
  if not found.exists():
    known = ", ".join(path.stem for path in _files())
    raise SophiaError(f"{name}: no such experiment; there are {known}")
  return found


def _seeds(text: str, every: range) -> list[int]:
  if not text:
    return list(every)
  seeds = text.split(",")
  if not all(s.isascii() and s.isdigit() and len(s) < 7 for s in seeds):
    raise SophiaError(f"--seeds={text[:80]}: numbers with commas, as 0,1,2")
  asked = sorted({int(s) for s in seeds})
  for seed in asked:
    if seed not in every:
      raise SophiaError(
        f"--seeds={text[:80]}: {seed}: the experiment has seeds {every[0]} to "
        f"{every[-1]}, which its file names"
      )
  return asked


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  options = _parser().parse_args(argv)
  return commands.run(lambda: _work(options), "the same command resumes")


def _work(options: argparse.Namespace) -> int:
  if options.command == "list":
    for path in _files():
      what = experiment.read(path)
      print(_cost(what, _every(what), RESULTS / f"{what.name}.jsonl"))
    return 0
  if options.command == summary.NAME:
    return _print_summary(options.write)
  if options.command == "planned":
    return _print_planned(options.results, options.write)
  what = experiment.read(_find(options.experiment))
  results = options.results or RESULTS / f"{what.name}.jsonl"
  if options.command == "run":
    seeds = _seeds(options.seeds, _every(what))
    _say(_cost(what, seeds, results))
    workdir = options.workdir.absolute()
    given = options.given and options.given.absolute()
    runner.run(what, seeds, workdir, results, _say, given=given)
  rows = runner.read(what, results)
  print(pages.text(what, rows).rstrip())
  if options.command == "table" and options.write:
    for suffix, text in pages.files(what, rows).items():
      write_text(results.with_suffix(suffix), text)
  return 0


def _print_summary(write: bool) -> int:
  text = summary.text(published())
  print(text.rstrip())
  if write:
    write_text(RESULTS / f"{summary.NAME}.md", text)
  return 0


def published() -> summary.Published:
  """Returns the project's experiments that have stored results, by name.

  Raises:
    SophiaError: a file of either is damaged, or they do not belong together.
  """
  files = [
    (experiment.read(path), RESULTS / f"{path.stem}.jsonl") for path in _files()
  ]
  return [(w, runner.read(w, rows)) for w, rows in files if rows.exists()]


def _print_planned(results: Path, write: bool) -> int:
  # Imported here: it brings JAX, which other commands need not wait for.
  from sophia_jax.evidence import planned

  text = planned.text(planned.read(results))
  print(text.rstrip())
  if write:
    write_text(results.with_suffix(".md"), text)
  return 0


def _every(what: experiment.Experiment) -> range:
  """Returns the seeds of an experiment."""
  return range(what.first, what.first + what.seeds)


def _cost(
  what: experiment.Experiment, seeds: Sequence[int], results: Path
) -> str:
  rows = runner.read(what, results) if results.exists() else []
  return costs.said(what, seeds, rows)


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
  sys.exit(main())
