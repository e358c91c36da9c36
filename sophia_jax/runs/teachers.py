"""The teachers of a run: config.teachers by the names that a method asks."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

from sophia_jax.algorithms.describe import DESCRIBER
from sophia_jax.algorithms.labels import CHECKER, EXTRACTOR
from sophia_jax.checkpoints import hub
from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.config import nearest, section
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.problems import load_examples
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.rollout import cache, roles
from sophia_jax.rollout.sglang import SGLangChat
from sophia_jax.rollout.teachers import Tolerant, Traces, is_cut
from sophia_jax.rollout.ticks import Asked
from sophia_jax.runs import engines, policies
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.types import Example, Sampling, SophiaError

_log = logging.getLogger("sophia_jax")

DRAWN = {"describer": "describing", "reader": "reading"}
"""Config section of the `Sampling` of teachers; "teaching" of the others."""


def section_of(name: str) -> str:
  """Returns the config section that says how a teacher's tokens are drawn."""
  return DRAWN.get(name, "teaching")


def config_of(run: Run, name: str) -> TeacherConfig:
  """Returns the section of a teacher.

  Raises:
    SophiaError: there is none of this name, or it says what cannot be.
  """
  known = run.config.get("teachers", {})
  if name not in known:
    raise SophiaError(
      f"config.teachers: no teacher {name!r}, which the method asks; "
      f"{nearest(name, known)}"
    )
  return section(TeacherConfig, known[name].to_dict(), f"teachers.{name}")


def check(run: Run, stage: Stage) -> None:
  """Finds mistakes in the teachers that a stage asks, before anything is paid.

  A file that the run makes first is looked at when it is there.

  Raises:
    SophiaError: no such teacher, or a file that is broken or answers none of
      the stage's problems.
  """
  for name in roles.teachers(stage.algorithm.roles):
    config = config_of(run, name)
    run.section(Sampling, section_of(name))
    if config.file and name in (EXTRACTOR, CHECKER):
      raise SophiaError(
        f"config.teachers.{name}.file: the {name} is asked about every answer, "
        "and a file has one for each problem; give path, or urls and served"
      )
    prepared = run.config.get("prepare")
    made_here = prepared or run.writes(stage.name, config.file)
    if config.file and (run.path(config.file).is_file() or not made_here):
      traces = _traces(run, name, config)
      _refuse_strangers(run, stage, name, config, traces)
    if config.path and (run.path(config.path).is_dir() or not prepared):
      _check_checkpoint(run, name, config)


def _check_checkpoint(run: Run, name: str, config: TeacherConfig) -> None:
  """Refuses a checkpoint that is not there or cannot be asked.

  Raises:
    SophiaError: there is none, its tiles are not those of config.images, or a
      text-only model is to describe images.
  """
  directory = run.path(config.path)
  if not directory.is_dir():
    directory = hub.local(config.path)
  if not directory.is_dir():
    raise SophiaError(
      f"config.teachers.{name}.path: {directory}: no such directory; give the "
      "folder of a checkpoint, or its name on the Hub"
    )
  images = run.section(ImageConfig, "images")
  cfg, _ = policies.load_words(directory, images, run.config.prompts.system)
  if name == DESCRIBER and cfg.vision is None:
    raise SophiaError(
      f"config.teachers.{name}.path: {directory} is a text-only model and is "
      "shown images; give a vision-language checkpoint"
    )


def _refuse_strangers(
  run: Run, stage: Stage, name: str, config: TeacherConfig, traces: Traces
) -> None:
  """Raises SophiaError if a file answers none of the stage's problems."""
  data = stage.config.data or run.config.data.problems
  if not data or not run.path(data).is_file():
    return
  problems = run.problems(data)
  if not any(problem in traces for problem in problems):
    raise SophiaError(
      f"{run.path(config.file)} (teacher {name!r}): answers none of the "
      f"{len(problems)} problems of {run.path(data)}; its ids must be theirs"
    )


def identity(run: Run, stage: Stage) -> dict[str, Any]:
  """Returns what the answers of a stage's teachers depend on; {} without any."""
  found: dict[str, Any] = {}
  for name in roles.teachers(stage.algorithm.roles):
    config = config_of(run, name)
    own = {"absent": config.absent}
    if config.file:
      own["responses"] = _digest(_examples(run, config))
    else:
      own["model"] = _model(run, config)
    found[name] = own
  return {"teachers": found} if found else {}


def _digest(examples: list[Example]) -> str:
  rows = "".join(f"{e.id!r} {e.response!r}\n" for e in examples)
  return hashlib.blake2b(
    rows.encode(errors="surrogatepass"), digest_size=8
  ).hexdigest()


@contextlib.contextmanager
def opened(run: Run, name: str) -> Iterator[Any]:
  """Opens a teacher's engine.

  Raises:
    SophiaError: no such checkpoint or file; servers that will not do, unless
      groups may do without them.
  """
  config = config_of(run, name)
  if config.file:
    yield _traces(run, name, config)
  elif config.path:
    directory = run.path(config.path)
    engine = engines.embedded(run, policies.load_policy(run, directory))
    yield _cached(run, config, engine)
  else:
    with engines.chat(run, config) as served:
      yield _served(run, name, config, served)


def _cached(run: Run, config: TeacherConfig, engine: Any) -> Any:
  """Returns the engine, with a cache where the config names a directory."""
  if not config.cache:
    return engine
  directory = run.path(config.cache)
  return cache.cached(engine, directory, _model(run, config))


def _model(run: Run, config: TeacherConfig) -> str:
  """Returns the identity of a model that answers live."""
  if config.path:
    return fingerprint(run.path(config.path))
  return config.served


def _served(
  run: Run, name: str, config: TeacherConfig, engine: SGLangChat
) -> Asked:
  """Looks at the servers; returns an engine that survives them if it may."""
  how = run.section(Sampling, section_of(name))
  try:
    engine.check(config.served, how.max_new_tokens)
  except SophiaError as e:
    if config.absent == "stop":
      raise
    _log.warning("teacher %s: %s", name, e)
  asked = _cached(run, config, engine)
  return asked if config.absent == "stop" else Tolerant(asked, name)


def _examples(run: Run, config: TeacherConfig) -> list[Example]:
  """Reads a teacher's responses, none of which may be of an evaluation set."""
  path = run.path(config.file)
  examples = load_examples(path)
  refuse_evaluation(examples, str(path))
  return examples


def _traces(run: Run, name: str, config: TeacherConfig) -> Traces:
  examples = _examples(run, config)
  where = f"{run.path(config.file)} (teacher {name!r})"
  cut = sum(is_cut(e.response) for e in examples)
  if cut:
    _log.warning("%s: %d of %d are cut off", where, cut, len(examples))
  return Traces(examples, where, config.absent == "stop")
