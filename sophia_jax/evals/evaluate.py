"""pass@1: ask, verify, count. The same renderer, tiling and verifier as training."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from sophia_jax.data.chat import Renderer
from sophia_jax.data.problems import asked_digest
from sophia_jax.evals.benchmarks.base import Mark, Rule, Scored
from sophia_jax.evals.responses import Response, Responses
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.world import seed_of
from sophia_jax.types import (
  Engine,
  FinishReason,
  Problem,
  Request,
  Sampling,
  Status,
)

Answered = tuple[Problem, str, FinishReason]
"""A problem, a response to it, and why the response ended."""

AT_ONCE = 256
"""Problems whose responses are held while they are verified."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """The paper samples at temperature 1.0, top-p 0.8, 16,384 tokens (App. C)."""

  temperature: float = 1.0
  """Sampling temperature; 0: greedy."""
  top_p: float = 0.8
  """Probability mass of the likeliest tokens that are drawn from."""
  top_k: int = 0
  """Number of the likeliest tokens that are drawn from; 0: all."""
  max_new_tokens: int = 16384
  """Largest response, tokens."""
  samples: int = 1
  """Responses to each problem; pass@1 is their mean."""
  limit: int = 0
  """Questions to evaluate; 0: all."""
  resize: str = "pil"
  """Of images, whatever training uses: figures are of the published pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
  """How the policy is asked: always with the slow-thinking system prompt."""

  engine: Engine
  renderer: Renderer
  config: EvalConfig
  system: str | None
  seed: int

  def ask(
    self,
    problems: Sequence[Problem],
    responses: Responses,
    advance: Callable[[], None],
  ) -> None:
    """Asks for every response that is not there yet, and stores it."""
    asked = {problem.id: asked_digest(problem) for problem in problems}
    wanted = (
      self._request(problem, sample)
      for problem, sample in missing(problems, self.config.samples, responses)
    )
    for completion in self.engine.generate(wanted):
      name, _, sample = completion.request_id.rpartition("/")
      response = Response(
        id=name,
        sample=int(sample),
        text=completion.text,
        finish=completion.finish_reason,
        tokens=len(completion.token_ids),
        asked=asked[name],
      )
      responses.append(response)
      advance()

  def _request(self, problem: Problem, sample: int) -> Request:
    name = f"{problem.id}/{sample}"
    return Request(
      id=name,
      prompt=self.renderer.prompt(problem.text, problem.images, self.system),
      sampling=Sampling(
        temperature=self.config.temperature,
        top_p=self.config.top_p,
        top_k=self.config.top_k,
        max_new_tokens=self.config.max_new_tokens,
        seed=seed_of(self.seed, f"eval/{name}"),
      ),
    )


def missing(
  problems: Sequence[Problem], samples: int, responses: Responses
) -> Iterator[tuple[Problem, int]]:
  """What is still to be asked, sample by sample: a part is a part of each."""
  for sample, problem in itertools.product(range(samples), problems):
    if not responses.has(problem, sample):
      yield problem, sample


def mark(
  problems: Sequence[Problem],
  samples: int,
  responses: Responses,
  marker: Callable[[Iterable[Answered]], list[Mark]],
) -> Iterator[Scored]:
  """Every problem with the marks of its samples, in order.

  Args:
    marker: marks responses that are read from the disk piece by piece:
      `mark_each`, or `evals.judge.mark_read`, of a rule.
  """
  for start in range(0, len(problems), AT_ONCE):
    chunk = problems[start : start + AT_ONCE]
    marks = marker(
      (problem, response.text, response.finish)
      for problem, sample in itertools.product(chunk, range(samples))
      for response in (responses.read(problem.id, sample),)
    )
    for i, problem in enumerate(chunk):
      own = marks[i * samples : (i + 1) * samples]
      yield Scored(problem=problem, marks=tuple(own))


def mark_each(
  answered: Iterable[Answered],
  rule: Rule,
  verifier: Verifier,
) -> list[Mark]:
  """A mark for each (problem, response, finish reason), in order."""
  counts, items = [], []
  for problem, text, finish in answered:
    found = rule.items(problem, text) if finish is FinishReason.STOP else ()
    counts.append(len(found))
    items += [(answer, held, finish) for answer, held in found]
  verdicts = iter(verifier.verify(items))
  return [
    rule.combine([*itertools.islice(verdicts, count)])
    if count
    else Mark(status=Status.TRUNCATED)
    for count in counts
  ]
