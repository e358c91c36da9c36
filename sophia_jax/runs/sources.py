"""The sequences that an update learns: rendered examples, credited samples."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Moment
from sophia_jax.data import filters
from sophia_jax.data.chat import Renderer
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.mixture import MixtureConfig, Sequences
from sophia_jax.data.problems import load_examples
from sophia_jax.datasets.sources import refuse_evaluation
from sophia_jax.files import write_json
from sophia_jax.hosts import meeting
from sophia_jax.runs import sampling
from sophia_jax.runs.policies import Model
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train.sequences import prepare, truncated
from sophia_jax.types import Example, SophiaError, Status, TokenSequence


@dataclasses.dataclass(frozen=True)
class PolicyWords:
  """The policy's renderer, with the system prompt of slow thinking."""

  renderer: Renderer
  slow_thinking: str

  def prompt(self, *args: Any, **kwargs: Any) -> Any:
    return self.renderer.prompt(*args, **kwargs)

  def sequence(self, *args: Any, **kwargs: Any) -> TokenSequence:
    return self.renderer.sequence(*args, **kwargs)

  def decode(self, ids: Iterable[int]) -> str:
    return self.renderer.decode(ids)


def words(run: Run, model: Model) -> PolicyWords:
  """Returns what renders the sequences that are learnt."""
  return PolicyWords(model.renderer, run.config.prompts.slow_thinking)


def of_stage(run: Run, stage: Stage, model: Model) -> dict[str, Sequences]:
  """Returns the sequences of each source that takes part in the stage.

  Raises:
    SophiaError: nothing is selected; says of how many samples, and why.
  """
  found: dict[str, Sequences] = {}
  counts: dict[str, Any] = {}
  render = lambda examples: prepare(
    examples,
    model.renderer,
    stage.algorithm.reduction,
    run.section(FilterConfig, "filters"),
    stage.train.length,
  )
  if not stage.samples:
    examples = instruction(run, stage.config.data)
    found[stage.name], counts[stage.name] = render(examples)
  else:
    found["visual"], counts["visual"] = _selected(run, stage, model)
    mixture = run.section(MixtureConfig, "mixture")
    for name in ("text", "general"):
      if run.config.data.get(name) and mixture.amounts[name]:
        examples = [
          _thinking(e, run) for e in instruction(run, run.config.data[name])
        ]
        found[name], counts[name] = render(examples)
  if meeting.is_leader():
    write_json(run.directory(stage.name) / "filters.json", counts)
  return found


def check(run: Run, stage: Stage) -> None:
  """Reads the files of examples that a stage learns, before anything is paid for.

  Those that an earlier stage writes are left out.

  Raises:
    SophiaError: no file, or the first mistake in one.
  """
  names = [stage.config.data]
  if stage.samples:
    names = _mixed(run) if stage.config.rounds == 1 else []
  elif not names[0]:
    key = f"config.stages.{stage.name}.data"
    raise SophiaError(f"{key}: no file of examples; give --{key}=FILE")
  for name in names:
    if not run.writes(stage.name, name):
      instruction(run, name)


def _mixed(run: Run) -> list[str]:
  """Returns the files of examples that are mixed with what is sampled."""
  amounts = run.section(MixtureConfig, "mixture").amounts
  named = ((name, run.config.data.get(name)) for name in ("text", "general"))
  return [path for name, path in named if path and amounts[name]]


def instruction(run: Run, name: str) -> list[Example]:
  """Reads examples, none of which may be of an evaluation set."""
  path = run.path(name)
  loaded = load_examples(path)
  refuse_evaluation(loaded, str(path))
  return loaded


def _thinking(example: Example, run: Run) -> Example:
  """Puts an example that thinks in tags under the slow-thinking prompt."""
  if example.system is not None:
    return example
  system = credit.system_prompt(
    example.response, run.config.prompts.slow_thinking
  )
  return dataclasses.replace(example, system=system)


def _selected(
  run: Run, stage: Stage, model: Model
) -> tuple[list[TokenSequence], dict[str, int]]:
  """Returns the sequences that the store's groups are credited with, and counts.

  Raises:
    SophiaError: there are none.
  """
  config = run.section(FilterConfig, "filters")
  made: list[TokenSequence] = []
  texts: dict[str, Example] = {}
  verdicts: collections.Counter[str] = collections.Counter()
  for group in sampling.groups(run, stage):
    graded = [r.verdict for r in group.rollouts if r.verdict]
    verdicts.update(verdict.status.value for verdict in graded)
    _, sequences = credit.learn(
      stage.algorithm, [group], words(run, model), Moment()
    )
    made += sequences
    learnt = {credit.rollout_of(s) for s in sequences}
    texts |= {
      r.id: Example(
        id=r.id, question=group.problem.text, response=r.completion.text
      )
      for r in group.rollouts
      if r.id in learnt
    }
  if not made:
    raise SophiaError(
      f"{sampling.store_directory(run, stage)}: no trajectory is selected "
      f"{_unselected(stage, verdicts)}"
    )
  kept, counts = filters.keep(texts.values(), config, model.renderer.counts)
  passed = {example.id for example in kept}
  made = credit.of_rollouts(made, passed)
  return _cut(made, config, stage.train.length, counts), counts


def _unselected(stage: Stage, verdicts: collections.Counter[str]) -> str:
  """Returns the verdicts on all samples, and what would help."""
  if not verdicts:
    return "(nothing is sampled); run launch.sample first"
  seen = ", ".join(
    f"{verdicts[status.value]} {status.value}" for status in Status
  )
  key = f"config.stages.{stage.name}"
  if verdicts[Status.RIGHT.value]:
    alpha = getattr(stage.method, "alpha", None)
    loosen = f"lower {key}.alpha, now {alpha}" if alpha else f"loosen {key}"
    return f"({seen}); {loosen}: the samples stay"
  worst = max(set(verdicts) - {Status.RIGHT.value}, key=verdicts.__getitem__)
  remedy = {
    Status.TRUNCATED.value: "raise max_new_tokens of their config section",
    Status.UNPARSEABLE.value: "ask for the form of answer in config.prompts",
  }.get(worst, "bring easier problems, or a stronger model")
  return f"({seen}): none is right; {remedy}, and sample into another workdir"


def _cut(
  sequences: Sequence[TokenSequence],
  config: FilterConfig,
  length: int,
  counts: dict[str, int],
) -> list[TokenSequence]:
  """Cuts sequences to `length` tokens where the config says so."""
  counts["truncated"] = 0
  if not config.truncate:
    return list(sequences)
  made = []
  for whole in sequences:
    short = truncated(whole, length)
    counts["truncated"] += short is not None and len(short) < len(whole)
    made.append(whole if short is None else short)
  return made
