"""pass@1 of a policy: a table, a page, and every response in W/evals.

On problems of yours (--data, or the held-out ones), or on benchmarks in the
official files (--benchmarks, --benchmark_data).

Give the same command again after a kill: what was answered is kept. Files are
W/evals/NAME.json (scores and every response with its verdict), NAME.html (the
page) and NAME.responses.jsonl.

Examples:
  python -m launch.evaluate --config=configs/quickstart.py --workdir=W \\
    --model=W/export --data=problems.jsonl
  python -m launch.evaluate --config=C --workdir=W --model=W/export \\
    --benchmarks=mathvision,dynamath --benchmark_data=DIR --samples=4
"""

import dataclasses
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch import cli
from sophia_jax.data.problems import load_problems
from sophia_jax.evals import page, tables
from sophia_jax.evals.benchmarks import BENCHMARKS, find_benchmark
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.evals.summary import PLAIN
from sophia_jax.runs import evaluation
from sophia_jax.runs.evaluation import Exam
from sophia_jax.types import SophiaError

EXAMPLE = (
  "python -m launch.evaluate --config=configs/quickstart.py --workdir=W "
  "--model=W/export --data=problems.jsonl"
)
FLAGS = flags.FLAGS


def define_flags() -> None:
  cli.define_run_flags()
  flags.DEFINE_string(
    "model", None, "Checkpoint directory; W/export if absent."
  )
  flags.DEFINE_string("data", None, "Problems; the held-out ones if absent.")
  flags.DEFINE_list("benchmarks", [], f"Some of {', '.join(BENCHMARKS)}.")
  flags.DEFINE_string(
    "benchmark_data",
    None,
    "Folder of the official files, in a folder for each benchmark: "
    + "; ".join(f"{b.importer}/ {b.needs}" for b in BENCHMARKS.values()),
  )
  flags.DEFINE_integer(
    "samples", None, "Responses to each problem; config.eval's if absent."
  )
  flags.DEFINE_bool("greedy", False, "The likeliest token, always.")
  flags.DEFINE_integer("limit", None, "The first so many questions; 0: all.")
  flags.DEFINE_string("name", None, "Of the files; the model's if absent.")
  flags.DEFINE_bool("rescore", False, "Mark again what is there; no model.")
  flags.DEFINE_bool("upstream", False, "Mark by a benchmark's published rule.")
  flags.DEFINE_string(
    "judge",
    None,
    "One of config.reasoners: finds the answer in every response, and judges "
    "it where the paper has a language model do so.",
  )
  flags.DEFINE_string(
    "against", None, "A W/evals/NAME.json: test whether the two differ."
  )


def main() -> None:
  run = cli.run_of_flags()
  config = _config(run)
  model = Path(FLAGS.model or run.workdir / "export").absolute()
  if not FLAGS.rescore and not model.is_dir():
    raise SophiaError(
      f"{model}: no such checkpoint; give --model, or run launch.train first"
    )
  exams = _exams(run, model, config.limit)
  against = Path(FLAGS.against).absolute() if FLAGS.against else None
  if against and len(exams) > 1:
    raise SophiaError("--against: compares one evaluation; give one benchmark")
  if not FLAGS.rescore:
    evaluation.ask(run, exams, model, config)
  with evaluation.reader(run, FLAGS.judge) as reader:
    shown = [
      _show(
        evaluation.finish(run, exam, config, against, reader), exam, model.name
      )
      for exam in exams
    ]
  name = exams[0].name if len(exams) == 1 else FLAGS.name or model.name
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


def _config(run: cli.Run) -> EvalConfig:
  """config.eval with what the flags change."""
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


def _exams(run: cli.Run, model: Path, limit: int) -> list[Exam]:
  """What is evaluated; a mistake in a file is told before a model is loaded."""
  name = FLAGS.name or model.name
  if FLAGS.benchmarks:
    return [_exam(run, name, wanted, limit) for wanted in FLAGS.benchmarks]
  data = Path(FLAGS.data or run.path(run.config.data.heldout)).absolute()
  return [
    Exam(
      name=FLAGS.name or f"{model.name}-{data.stem}",
      problems=load_problems(data)[: limit or None],
      data=str(data),
      rule=evaluation.rule_of(PLAIN, FLAGS.upstream),
    )
  ]


def _exam(run: cli.Run, name: str, wanted: str, limit: int) -> Exam:
  benchmark = find_benchmark(wanted)
  rule = evaluation.rule_of(benchmark, FLAGS.upstream)
  if FLAGS.data or not FLAGS.benchmark_data:
    raise SophiaError(
      f"--benchmarks={wanted}: give --benchmark_data with the official files, "
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
    name=f"{name}-{benchmark.name}",
    problems=benchmark.first(problems, limit),
    data=str(folder),
    benchmark=benchmark,
    rule=rule,
  )


def _show(result: dict[str, Any], exam: Exam, model: str) -> page.Evaluation:
  """Prints the table and gives what the page shows."""
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
  cli.start(main, EXAMPLE, ("config", "workdir"))
