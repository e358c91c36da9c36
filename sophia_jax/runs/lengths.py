"""Whether an engine has room for what it will be asked, found out beforehand.

A prompt and its longest answer share `config.engine.length` tokens. Problems that
need more are left out of sampling, counted and named, or refused
(`engine.drop_oversize`); an evaluation always refuses them, since its score must
not depend on the size of an engine.

A reasoner's prompt is counted with the longest caption that `captioning` allows.
The captions themselves are sampled later, and a run whose problems depended on
them would learn from other problems by chance, and know it only at the end.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sophia_jax.config import section
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig
from sophia_jax.models import InternVLConfig
from sophia_jax.rollout import roles
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import policies
from sophia_jax.runs.policies import ReasonerConfig, RuntimeConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.types import Chat, Problem, Prompt, Sampling, SophiaError

_log = logging.getLogger("sophia_jax")
_PROMISE = re.compile(r"up to (\d+) tokens")
_SLACK = 64
"""Tokens by which a text may exceed its pieces, where words meet."""
NAMED = 5
"""Problems that a line names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
  """Something that an embedded engine is asked about every problem."""

  what: str
  """Config key of the longest answer."""
  words: Renderer
  prompt: Callable[[Problem], Prompt | Chat]
  answer: int
  """Longest answer, with whatever else joins the prompt later, tokens."""
  reasoner: str | None = None
  """Name of the reasoner whose problems these are; None: all problems."""

  def tokens(self, problem: Problem) -> int:
    """Returns the tokens of the prompt."""
    asked = self.prompt(problem)
    if isinstance(asked, Chat):
      asked = self.words.prompt(asked.text, system=asked.system)
    return len(asked)

  def at_most(self, problem: Problem, overhead: int) -> int:
    """Returns a bound of `tokens` for which nothing is rendered or opened.

    Args:
      overhead: tokens of a problem without text.
    """
    text = len(problem.text.encode(errors="surrogatepass"))
    count = len(problem.images)
    most = self.words.image.share(count).most
    each = most * self.words.tokens_per_tile + 32
    return overhead + text + count * each + _SLACK


@dataclasses.dataclass(frozen=True)
class Long:
  """A problem that an engine has no room for."""

  problem: Problem
  prompt: int
  """Tokens of the prompt."""
  ask: Ask

  @property
  def need(self) -> int:
    """Tokens of the prompt and its longest answer."""
    return self.prompt + self.ask.answer


def of_stage(run: Run, stage: Stage, words: Renderer) -> list[Ask]:
  """Returns what the embedded engines of a stage are asked."""
  prompts = run.section(Prompts, "prompts")
  found = []
  own = {"policy": "answering", "caption": "captioning"}
  if run.section(RuntimeConfig, "policy").engine == "embedded":
    found += [
      Ask(
        what=f"{key}.max_new_tokens",
        words=words,
        prompt=roles.ROLES[role](words, prompts),
        answer=run.section(Sampling, key).max_new_tokens,
      )
      for role, key in own.items()
      if role in stage.algorithm.roles
    ]
  if "reasoner" in stage.algorithm.roles:
    found += _of_reasoners(run, prompts)
  return found


def _of_reasoners(run: Run, prompts: Prompts) -> Iterator[Ask]:
  """Yields what each embedded reasoner is asked, with the longest caption."""
  longest = sum(
    run.section(Sampling, key).max_new_tokens
    for key in ("captioning", "reasoning")
  )
  for name, values in run.config.reasoners.items():
    choice = section(ReasonerConfig, values.to_dict(), f"reasoners.{name}")
    directory = run.path(choice.path)
    if choice.engine != "embedded" or not directory.is_dir():
      continue
    _, words = policies.load_words(directory, ImageConfig())
    yield Ask(
      what="captioning.max_new_tokens + reasoning.max_new_tokens",
      words=words,
      prompt=lambda p: Chat(text=prompts.reason(p.text, "")),
      answer=longest,
      reasoner=name if len(run.config.reasoners) > 1 else None,
    )


def of_evaluation(run: Run, words: Renderer, max_new_tokens: int) -> list[Ask]:
  """Returns what an evaluation asks the embedded engine."""
  if run.section(RuntimeConfig, "policy").engine != "embedded":
    return []
  prompts = run.section(Prompts, "prompts")
  return [
    Ask(
      what="eval.max_new_tokens",
      words=words,
      prompt=roles.policy(words, prompts),
      answer=max_new_tokens,
    )
  ]


def too_long(
  problems: Iterable[Problem], asks: Sequence[Ask], room: int
) -> dict[str, Long]:
  """Returns the problems that `room` tokens are too few for, by their ids."""
  empty = Problem(id="", question="", answer="")
  overheads = [ask.tokens(empty) for ask in asks]
  found: dict[str, Long] = {}
  for problem in problems:
    for ask, overhead in zip(asks, overheads):
      if ask.reasoner not in (None, problem.difficulty):
        continue
      if ask.at_most(problem, overhead) + ask.answer <= room:
        continue
      long = Long(problem, ask.tokens(problem), ask)
      known = found.get(problem.id)
      if long.need > (known.need if known else room):
        found[problem.id] = long
  return found


def left_out(
  run: Run, stage: Stage, problems: Sequence[Problem], words: Renderer
) -> dict[str, Long]:
  """Returns the problems that a stage's engines have no room for, by their ids."""
  room = run.section(EngineConfig, "engine").length
  return too_long(problems, of_stage(run, stage, words), room)


def fitting(
  run: Run, stage: Stage, problems: Sequence[Problem], words: Renderer
) -> Sequence[Problem]:
  """Returns the problems that a stage's engines have room for.

  Raises:
    SophiaError: one has no room and engine.drop_oversize is off, or none has.
  """
  engine = run.section(EngineConfig, "engine")
  long = left_out(run, stage, problems, words)
  if not long:
    return problems
  said = _said(long, len(problems), engine.length)
  if not engine.drop_oversize or len(long) == len(problems):
    raise SophiaError(f"{said}; {_remedy(long)}")
  _log.warning("%s; left out of the sampling", said)
  return tuple(p for p in problems if p.id not in long)


def check_evaluation(
  run: Run, problems: Sequence[Problem], words: Renderer, max_new_tokens: int
) -> None:
  """Refuses an evaluation that the embedded engine has no room for.

  Raises:
    SophiaError: says of which problems, and how much they need.
  """
  room = run.section(EngineConfig, "engine").length
  asks = of_evaluation(run, words, max_new_tokens)
  if long := too_long(problems, asks, room):
    raise SophiaError(f"{_said(long, len(problems), room)}; {_remedy(long)}")


def _said(long: dict[str, Long], of: int, room: int) -> str:
  worst = max(long.values(), key=lambda one: one.need)
  names = ", ".join([*long][:NAMED]) + (", ..." if len(long) > NAMED else "")
  return (
    f"{len(long)} of {of} problems do not fit config.engine.length={room}: "
    f"{names} ({worst.problem.id}: a prompt of {worst.prompt} tokens, "
    f"{worst.ask.what} = {worst.ask.answer})"
  )


def _remedy(long: dict[str, Long]) -> str:
  most = max(one.need for one in long.values())
  return (
    f"give --config.engine.length={most}, or fewer new tokens, a shorter "
    "prompt, or fewer tiles"
  )


# --------------------------------------------------------------------- warnings
def warn(run: Run, cfg: InternVLConfig, directory: Path, asked: str) -> None:
  """Logs a warning of answers that the model or its prompt does not provide for.

  Args:
    asked: config section with the `max_new_tokens` of the policy's answers.
  """
  longest = run.config[asked].max_new_tokens
  decoder = cfg.decoder
  if longest > decoder.max_positions and not decoder.rope_scaling:
    _log.warning(
      "config.%s.max_new_tokens=%d is more than the %d positions that %s was "
      "trained on",
      *(asked, longest, decoder.max_positions, directory),
    )
  promise = _PROMISE.search(run.config.prompts.slow_thinking)
  if asked != "captioning" and promise and int(promise[1]) > longest:
    _log.warning(
      "config.prompts.slow_thinking promises %s tokens, config.%s."
      "max_new_tokens is %d: longer answers are cut; change one of them",
      *(promise[1], asked, longest),
    )
