"""Evaluation of a policy: answers, grades and scores in W/evals."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sophia_jax import stopping
from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.config import nearest
from sophia_jax.data.images import ImageConfig
from sophia_jax.evals import page, summary
from sophia_jax.evals.benchmarks.base import (
  Benchmark,
  Grade,
  Rule,
  Scored,
)
from sophia_jax.evals.compare import compare
from sophia_jax.evals.evaluate import (
  Answered,
  Asker,
  EvalConfig,
  grade,
  grade_each,
  missing,
)
from sophia_jax.evals.judge import Reader, grade_read
from sophia_jax.evals.llm import Cache
from sophia_jax.evals.responses import Responses
from sophia_jax.progress import Progress
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import engines, lengths, locks, policies, preflight
from sophia_jax.runs.engines import PolicyEngine
from sophia_jax.runs.run import Run
from sophia_jax.types import Problem, SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exam:
  """The problems of one evaluation; its files are W/evals/NAME.*."""

  name: str
  problems: Sequence[Problem]
  data: str = ""
  """Path that the problems come from, for the page."""
  benchmark: Benchmark = summary.PLAIN
  rule: Rule = summary.PLAIN.rule


def rule_of(benchmark: Benchmark, upstream: bool) -> Rule:
  """Returns our rule for a benchmark, or the rule of its published scripts.

  Raises:
    SophiaError: the benchmark has no published rule.
  """
  if not upstream:
    return benchmark.rule
  if benchmark.upstream is None:
    raise SophiaError(
      f"--upstream: {benchmark.name or 'a file of problems'} has no published "
      "rule; leave it out"
    )
  return benchmark.upstream


# ------------------------------------------------------------------------ stages
def evaluate_once(run: Run, name: str, directory: Path, step: str = "") -> None:
  """Evaluates a checkpoint on the held-out problems, unless that is done.

  Without `config.data.heldout` there is nothing to ask: a method's trial alone
  measures its result.

  Args:
    step: name under which it is marked as done, where `name` is a stage's; "":
      the same.
  """
  step = step or name
  if run.done(step):
    return
  if not run.config.data.heldout:
    run.mark(step, 0.0)
    return
  config = run.section(EvalConfig, "eval")
  exam = _held_out(run, name, config)
  with locks.evaluating(run, [name]):
    check(run, [exam], directory, config)
    with run.step(step):
      ask(run, [exam], directory, config)
      finish(run, exam, config)


def evaluate_round(
  run: Run, name: str, policy: PolicyEngine, model: str
) -> float:
  """Returns pass@1 of a policy that is loaded, on the held-out problems.

  Args:
    name: the evaluation's name; its files are W/evals/NAME.*.
    model: the identity of the weights.
  """
  config = run.section(EvalConfig, "eval")
  exam = _held_out(run, name, config)
  _answer(run, [exam], policy, config, _settings(run, model, config))
  return finish(run, exam, config)["pass_at_1"]["value"]


def _held_out(run: Run, name: str, config: EvalConfig) -> Exam:
  problems = run.problems(run.config.data.heldout)
  return Exam(
    name=name,
    problems=problems[: config.limit or None],
    data=str(run.path(run.config.data.heldout)),
  )


# ------------------------------------------------------------------------ asking
def ask(
  run: Run, exams: Sequence[Exam], directory: Path, config: EvalConfig
) -> None:
  """Samples the answers that are missing, of exams that `check` let pass.

  The policy is loaded once, and only if answers are missing.
  """
  settings = _settings(run, fingerprint(directory), config)
  unfinished = [exam for exam in exams if _missing(run, exam, settings, config)]
  if unfinished:
    with engines.policy(
      run, directory, config.max_new_tokens, config.resize
    ) as policy:
      _answer(run, unfinished, policy, config, settings)


def check(
  run: Run, exams: Sequence[Exam], directory: Path, config: EvalConfig
) -> None:
  """Finds what cannot be evaluated, before anything is written.

  Raises:
    SophiaError: the verifier cannot work, the checkpoint does not fit the config,
      it cannot see the images, or the engine has no room for a problem.
  """
  preflight.check_reward(run)
  cfg, words = policies.load_words(
    directory, run.section(ImageConfig, "images"), run.config.prompts.system
  )
  for exam in exams:
    preflight.check_images(Path(exam.data), exam.problems, words)
    lengths.check_evaluation(run, exam.problems, words, config.max_new_tokens)
  if exams:
    lengths.warn(run, cfg, directory, "eval")


def _answer(
  run: Run,
  exams: Sequence[Exam],
  policy: PolicyEngine,
  config: EvalConfig,
  settings: dict[str, Any],
) -> None:
  """Samples the missing answers of each evaluation from a loaded policy."""
  asker = Asker(
    engine=policy,
    renderer=policy.renderer,
    config=config,
    system=run.section(Prompts, "prompts").slow_thinking,
    seed=run.seed,
  )
  for exam in exams:
    total = len(exam.problems) * config.samples
    left = _missing(run, exam, settings, config)
    with (
      stopping.explained(f"what was answered is in {_path(run, exam)}"),
      Responses(_path(run, exam), settings) as responses,
      Progress(exam.name, total, "response", total - left) as progress,
    ):
      asker.ask(exam.problems, responses, progress.advance)


def _missing(
  run: Run, exam: Exam, settings: dict[str, Any], config: EvalConfig
) -> int:
  with Responses(_path(run, exam), settings) as responses:
    return sum(1 for _ in missing(exam.problems, config.samples, responses))


def _path(run: Run, exam: Exam) -> Path:
  return run.evals(exam.name) / f"{exam.name}.responses.jsonl"


def _settings(run: Run, model: str, config: EvalConfig) -> dict[str, Any]:
  """Returns all settings that a response depends on, besides the problem."""
  image = run.section(ImageConfig, "images")
  return {
    "model": model,
    "temperature": config.temperature,
    "top_p": config.top_p,
    "top_k": config.top_k,
    "max_new_tokens": config.max_new_tokens,
    "images": dataclasses.asdict(
      dataclasses.replace(image, resize=config.resize)
    ),
    "system": run.section(Prompts, "prompts").slow_thinking,
    "seed": run.seed,
  }


# ----------------------------------------------------------------------- grading
def finish(
  run: Run,
  exam: Exam,
  config: EvalConfig,
  against: Path | None = None,
  reader: Reader | None = None,
) -> dict[str, Any]:
  """Grades the responses and writes W/evals/NAME.json; needs no policy.

  Args:
    against: an earlier W/evals/NAME.json to compare with.
    reader: a language model that extracts and judges the answers.

  Raises:
    SophiaError: a response is missing.
  """
  limits = run.config.reward.to_dict()
  with Verifier(**limits) as pool:
    pool.self_check()
  with (
    Responses(_path(run, exam), None) as responses,
    exam.rule.verifier(**limits) as verifier,
  ):
    left = sum(1 for _ in missing(exam.problems, config.samples, responses))
    if left:
      raise SophiaError(
        f"{responses.path}: {left} responses are missing; leave out --rescore"
      )
    grader = _grader(exam, verifier, reader)
    scored = [*grade(exam.problems, config.samples, responses, grader)]
    result = _summary(exam, scored, responses)
    result["judge"] = reader.name if reader else ""
    if against is not None:
      result["comparison"] = compare(against, scored, exam.benchmark)
    rows = summary.rows(scored, responses)
    summary.write(run.evals(exam.name) / f"{exam.name}.json", result, rows)
    samples = [*itertools.islice(_shown(scored, responses), page.SAMPLES)]
  return {**result, "shown": samples}


def _grader(
  exam: Exam, verifier: Verifier, reader: Reader | None
) -> Callable[[Iterable[Answered]], list[Grade]]:
  if reader is None:
    return functools.partial(grade_each, rule=exam.rule, verifier=verifier)
  return functools.partial(
    grade_read,
    benchmark=exam.benchmark,
    rule=exam.rule,
    verifier=verifier,
    reader=reader,
  )


def check_judge(run: Run, name: str | None) -> None:
  """Raises SophiaError if a judge is named that config.reasoners does not have."""
  if name is not None and name not in run.config.reasoners:
    raise SophiaError(
      f"--judge={name}: no such reasoner in config.reasoners; "
      f"{nearest(name, run.config.reasoners)}"
    )


@contextlib.contextmanager
def reader(run: Run, name: str | None) -> Iterator[Reader | None]:
  """Yields a reasoner of the config that reads answers; None without a name.

  Raises:
    SophiaError: the config has no such reasoner.
  """
  if name is None:
    yield None
    return
  check_judge(run, name)
  model = fingerprint(run.path(run.config.reasoners[name].path))
  path = run.workdir / "evals" / "judge.jsonl"
  with engines.reasoner(run, name) as engine, Cache(path, model) as cache:
    yield Reader(name, engine, cache)


def _summary(
  exam: Exam, scored: Sequence[Scored], responses: Responses
) -> dict[str, Any]:
  benchmark = exam.benchmark
  return {
    **summary.summarise(scored, benchmark),
    "benchmark": benchmark.name,
    "title": benchmark.title or "problems",
    "part": benchmark.part(exam.problems),
    "rule": "upstream" if exam.rule is benchmark.upstream else "ours",
    "settings": responses.settings,
  }


def _shown(
  scored: Sequence[Scored], responses: Responses
) -> Iterator[dict[str, Any]]:
  """Yields responses with the fields of their problems that the page shows."""
  problems = {one.problem.id: one.problem for one in scored}
  for row in summary.rows(scored, responses):
    problem = problems[row["id"]]
    yield {**row, "question": problem.text, "images": problem.images}
