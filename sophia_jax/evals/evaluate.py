"""Sampling and grading of answers, with training's renderer and verifier."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from sophia_jax import stopping
from sophia_jax.data.chat import Renderer
from sophia_jax.data.problems import asked_digest
from sophia_jax.data.resize import RESIZES
from sophia_jax.evals.benchmarks.base import Grade, Rule, Scored
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
  check_drawing,
)

Answered = tuple[Problem, str, FinishReason]
"""A problem, a response to it, and the reason why the response ended."""

AT_ONCE = 256
"""Problems whose responses are in memory while they are verified."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Sampling of an evaluation; the defaults are the paper's (App. C)."""

  temperature: float = 1.0
  """Sampling temperature; 0: greedy."""
  top_p: float = 0.8
  """Probability mass of the likeliest tokens that are drawn from."""
  top_k: int = 0
  """Number of likeliest tokens to sample from; 0: all."""
  max_new_tokens: int = 16384
  """Longest response, tokens."""
  samples: int = 1
  """Responses to each problem; pass@1 is the mean over them."""
  limit: int = 0
  """Number of questions to evaluate; 0: all."""
  resize: str = "pil"
  """Resizing of images, independent of training's: "pil" gives the pixels of
  published results."""

  def __post_init__(self) -> None:
    check_drawing(self.temperature, self.top_p)
    for name in ("max_new_tokens", "samples"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 1 or more")
    if self.resize not in RESIZES:
      raise ValueError(
        f"resize must be one of {', '.join(RESIZES)}, not {self.resize!r}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
  """Samples a policy's answers, with the slow-thinking system prompt."""

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
    """Samples and stores every response that is missing.

    Args:
      advance: called after each response.
    """
    digests = {problem.id: asked_digest(problem) for problem in problems}
    requests = (
      self._request(problem, sample)
      for problem, sample in missing(problems, self.config.samples, responses)
    )
    for completion in self.engine.generate(requests):
      name, _, sample = completion.request_id.rpartition("/")
      response = Response(
        id=name,
        sample=int(sample),
        text=completion.text,
        finish=completion.finish_reason,
        tokens=len(completion.token_ids),
        asked=digests[name],
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
  """Yields missing (problem, sample), all problems of a sample first."""
  for sample, problem in itertools.product(range(samples), problems):
    if not responses.has(problem, sample):
      yield problem, sample


def grade(
  problems: Sequence[Problem],
  samples: int,
  responses: Responses,
  grader: Callable[[Iterable[Answered]], list[Grade]],
) -> Iterator[Scored]:
  """Yields every problem with the grades of its samples, in order.

  Args:
    grader: grades responses: `grade_each` or `evals.judge.grade_read`, bound to
      a rule. Responses are read from the disk chunk by chunk.
  """
  for start in range(0, len(problems), AT_ONCE):
    stopping.check("the responses are stored; only their grades are not")
    chunk = problems[start : start + AT_ONCE]
    grades = grader(
      (problem, response.text, response.finish)
      for problem, sample in itertools.product(chunk, range(samples))
      for response in (responses.read(problem.id, sample),)
    )
    for i, problem in enumerate(chunk):
      own = grades[i * samples : (i + 1) * samples]
      yield Scored(problem=problem, grades=tuple(own))


def grade_each(
  answered: Iterable[Answered],
  rule: Rule,
  verifier: Verifier,
) -> list[Grade]:
  """Returns a grade for each (problem, response, finish reason), in order."""
  counts, items = [], []
  for problem, text, finish in answered:
    own = rule.items(problem, text) if finish is FinishReason.STOP else ()
    counts.append(len(own))
    items += [(answer, compared, finish) for answer, compared in own]
  verdicts = iter(verifier.verify(items))
  return [
    rule.combine([*itertools.islice(verdicts, count)])
    if count
    else Grade(status=Status.TRUNCATED)
    for count in counts
  ]
