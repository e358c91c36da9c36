"""pass@1 of a policy: a table, a page, and every response in W/evals.

The problems are a file (--data; the held-out ones if absent) or benchmarks in
their official files (--benchmarks, --benchmark_data).

After a kill, give the same command again: answers are kept. It writes
W/evals/NAME.json (scores, and every response with its verdict), NAME.html (the
page) and NAME.responses.jsonl.

Examples:
  python -m launch.evaluate --config=configs/quickstart.py --workdir=W \\
    --model=W/export --data=problems.jsonl
  python -m launch.evaluate --config=C --workdir=W --model=W/export \\
    --benchmarks=mathvision,dynamath --benchmark_data=DIR --samples=4
"""

import dataclasses
import datetime
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch import cli
from sophia_jax.checkpoints import hub
from sophia_jax.data.problems import load_problems
from sophia_jax.evals import compare, page, tables
from sophia_jax.evals.benchmarks import BENCHMARKS, find_benchmark
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.evals.summary import PLAIN
from sophia_jax.runs import evaluation, locks
from sophia_jax.runs.evaluation import Exam
from sophia_jax.runs.run import UPDATES
from sophia_jax.types import SophiaError, quoted

EXAMPLE = (
  "python -m launch.evaluate --config=configs/quickstart.py --workdir=W "
  "--model=W/export --data=problems.jsonl"
)
FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of the command."""
  cli.define_run_flags()
  flags.DEFINE_string(
    "model", None, "Checkpoint directory; W/export if absent."
  )
  flags.DEFINE_string(
    "data", None, "File of problems; the held-out ones if absent."
  )
  flags.DEFINE_list("benchmarks", [], f"Benchmarks: {', '.join(BENCHMARKS)}.")
  flags.DEFINE_string(
    "benchmark_data",
    None,
    "Folder of the official files, in a folder for each benchmark: "
    + "; ".join(f"{b.importer}/ {b.needs}" for b in BENCHMARKS.values()),
  )
  flags.DEFINE_integer(
    "samples", None, "Responses to each problem; config.eval's if absent."
  )
  flags.DEFINE_bool("greedy", False, "Always take the likeliest token.")
  flags.DEFINE_integer("limit", None, "Number of first questions; 0: all.")
  flags.DEFINE_string("name", None, "Name of the files; the model's if absent.")
  flags.DEFINE_bool(
    "rescore", False, "Mark the stored responses again, without a model."
  )
  flags.DEFINE_bool("upstream", False, "Mark by a benchmark's published rule.")
  flags.DEFINE_string(
    "judge",
    None,
    "Name in config.reasoners: extracts the answer of every response, and "
    "judges it on benchmarks whose paper uses a language model.",
  )
  flags.DEFINE_string(
    "against", None, "A W/evals/NAME.json to compare with, by a paired test."
  )


def main() -> None:
  run = cli.run_of_flags()
  config = _config(run)
  _check_name(FLAGS.name)
  evaluation.check_judge(run, FLAGS.judge)
  against = Path(FLAGS.against).absolute() if FLAGS.against else None
  if against:
    compare.read_scores(against)
  model = hub.local(FLAGS.model or run.workdir / "export").absolute()
  if not FLAGS.rescore and not model.is_dir():
    raise SophiaError(
      f"{model}: no such checkpoint; give --model, or run launch.train first"
    )
  if not FLAGS.rescore:
    evaluation.check(run, (), model, config)
  names = _names(run, model)
  if against and len(names) > 1:
    raise SophiaError("--against: compares one evaluation; give one benchmark")
  locks.check_evaluations(run, names)
  exams = _exams(run, names, config.limit)
  if not FLAGS.rescore:
    evaluation.check(run, exams, model, config)
  with locks.evaluating(run, names):
    _evaluate(run, exams, model, config, against)


def _evaluate(
  run: cli.Run,
  exams: Sequence[Exam],
  model: Path,
  config: EvalConfig,
  against: Path | None,
) -> None:
  """Asks what is missing, grades, and writes the page."""
  if not FLAGS.rescore:
    evaluation.ask(run, exams, model, config)
  with evaluation.reader(run, FLAGS.judge) as reader:
    shown = [
      _show(
        evaluation.finish(run, exam, config, against, reader), exam, model.name
      )
      for exam in exams
    ]
  name = exams[0].name if len(exams) == 1 else FLAGS.name or _name_of(model)
  path = run.workdir / "evals" / f"{name}.html"
  now = datetime.datetime.now().astimezone()
  about = {
    "Model": str(model),
    "Date": f"{now:%Y-%m-%d %H:%M %Z}",
  }
  page.write(path, model.name, shown, about)
  print(f"page: {path}")
  for exam in exams:
    print(f"responses: {run.workdir / 'evals' / exam.name}.json")


def _check_name(name: str | None) -> None:
  """Refuses a --name that is no name of a file: it is one inside W/evals.

  Raises:
    SophiaError: it has a slash, begins with a dot, or is too long.
  """
  if name is not None and not re.fullmatch(r"\w[^/\x00-\x1f]{0,99}", name):
    raise SophiaError(
      f"--name={quoted(name)}: letters, digits and dots, without a folder"
    )


def _config(run: cli.Run) -> EvalConfig:
  """Returns config.eval with the changes of the flags."""
  changes: dict[str, Any] = {}
  if FLAGS.greedy:
    changes |= {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
  for name, least in (("samples", 1), ("limit", 0)):
    value = getattr(FLAGS, name)
    if value is not None:
      if value < least:
        raise SophiaError(f"--{name}={value}: must be at least {least}")
      changes[name] = value
  config = dataclasses.replace(run.section(EvalConfig, "eval"), **changes)
  if config.temperature == 0 and config.samples > 1:
    raise SophiaError(
      f"--samples={config.samples}: greedy samples are all the same; raise "
      "config.eval.temperature, or leave out --greedy"
    )
  return config


def _names(run: cli.Run, model: Path) -> list[str]:
  """Returns the names of the evaluations."""
  name = FLAGS.name or _name_of(model)
  if FLAGS.benchmarks:
    return [f"{name}-{find_benchmark(b).name}" for b in FLAGS.benchmarks]
  return [FLAGS.name or f"{name}-{_data(run).stem}"]


def _data(run: cli.Run) -> Path:
  """Returns the file of problems."""
  return Path(FLAGS.data or run.path(run.config.data.heldout)).absolute()


def _exams(run: cli.Run, names: Sequence[str], limit: int) -> list[Exam]:
  """Returns the evaluations; files are checked before a model is loaded."""
  if FLAGS.benchmarks:
    pairs = zip(names, FLAGS.benchmarks)
    return [_exam(run, name, title, limit) for name, title in pairs]
  data = _data(run)
  return [
    Exam(
      name=names[0],
      problems=load_problems(data)[: limit or None],
      data=str(data),
      rule=evaluation.rule_of(PLAIN, FLAGS.upstream),
    )
  ]


def _name_of(model: Path) -> str:
  """Returns the name of a checkpoint; an update's export is named by the update."""
  if model.name == "export" and model.parents[1].name == UPDATES:
    return model.parent.name
  return model.name


def _exam(run: cli.Run, name: str, title: str, limit: int) -> Exam:
  benchmark = find_benchmark(title)
  rule = evaluation.rule_of(benchmark, FLAGS.upstream)
  if FLAGS.data or not FLAGS.benchmark_data:
    raise SophiaError(
      f"--benchmarks={title}: give --benchmark_data with the official files, "
      "and no --data"
    )
  folder = Path(FLAGS.benchmark_data).absolute()
  if (folder / benchmark.importer).is_dir():
    folder /= benchmark.importer
  elif len(FLAGS.benchmarks) > 1:
    raise SophiaError(
      f"{folder / benchmark.importer}: no such folder; put the official files "
      "of each benchmark into a folder of its name"
    )
  into = run.workdir / "evals" / "data" / f"{benchmark.name}.jsonl"
  problems = benchmark.load(
    folder, into, lambda line: print(line, file=sys.stderr)
  )
  return Exam(
    name=name,
    problems=benchmark.first(problems, limit),
    data=str(folder),
    benchmark=benchmark,
    rule=rule,
  )


def _show(result: dict[str, Any], exam: Exam, model: str) -> page.Evaluation:
  """Prints the table and returns the part of the page."""
  samples: Sequence[dict[str, Any]] = result.pop("shown")
  lines = (
    tables.benchmark(result, model)
    if exam.benchmark.name
    else tables.plain(result)
  )
  print("\n".join([*lines, ""]))
  return page.Evaluation(
    name=exam.name, summary=result, samples=samples, data=exam.data
  )


if __name__ == "__main__":
  define_flags()
  cli.start(main, EXAMPLE, ("config", "workdir"), resumes=True)
