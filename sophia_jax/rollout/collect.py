"""Problems -> captions -> trajectories -> verdicts, into the store.

Generators chained lazily: the reasoner draws captions as its slots free, which
draws captions from the policy as its own do. Whatever is in the store is not
asked again, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.requests import (
  Asking,
  caption_request,
  reasoning_request,
)
from sophia_jax.rollout.store import Store
from sophia_jax.types import (
  Caption,
  Completion,
  Engine,
  Problem,
  Request,
  SophiaError,
  Trajectory,
)


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Both are 8 in the paper."""

  captions: int = 8
  """K, per problem."""
  trajectories: int = 8
  """N, per caption."""


def collect(
  problems: Sequence[Problem],
  policy: Engine,
  reasoners: Mapping[str, Engine],
  asking: Asking,
  verifier: Verifier,
  store: Store,
  config: RolloutConfig,
) -> Iterator[Trajectory]:
  """Samples what the store lacks; yields each trajectory once it is stored.

  Args:
    reasoners: difficulty -> who thinks about such problems.

  Raises:
    SophiaError: a problem's difficulty names no reasoner.
  """
  for problem in problems:
    if problem.difficulty not in reasoners:
      raise SophiaError(
        f"problem {problem.id}: difficulty {problem.difficulty!r} names no "
        f"reasoner; config.reasoners has {', '.join(sorted(reasoners))}"
      )
  for difficulty, reasoner in reasoners.items():
    mine = {p.id: p for p in problems if p.difficulty == difficulty}
    captions = _captions(mine, policy, asking, store, config.captions)
    requests = _reasoning(mine, captions, asking, store, config.trajectories)
    for completion in reasoner.generate(requests):
      yield _judged(mine, completion, asking, verifier, store)


def _captions(
  problems: Mapping[str, Problem],
  policy: Engine,
  asking: Asking,
  store: Store,
  count: int,
) -> Iterator[Caption]:
  """Stored captions first, then the missing ones as the policy writes them."""
  wanted = [(p, k) for p in problems.values() for k in range(count)]
  for problem, k in wanted:
    if (problem.id, k) in store.captions:
      yield store.captions[problem.id, k]
  missing = (
    caption_request(asking, problem, k)
    for problem, k in wanted
    if (problem.id, k) not in store.captions
  )
  for completion in policy.generate(missing):
    problem_id, k = _split(completion.request_id)
    caption = Caption(problem_id=problem_id, k=k, completion=completion)
    store.append(caption)
    yield caption


def _reasoning(
  problems: Mapping[str, Problem],
  captions: Iterator[Caption],
  asking: Asking,
  store: Store,
  count: int,
) -> Iterator[Request]:
  """Requests side by side for one caption, so its prompt is prefilled once."""
  for caption in captions:
    problem = problems[caption.problem_id]
    for n in range(count):
      if (caption.problem_id, caption.k, n) not in store.trajectories:
        yield reasoning_request(asking, problem, caption, n)


def _judged(
  problems: Mapping[str, Problem],
  completion: Completion,
  asking: Asking,
  verifier: Verifier,
  store: Store,
) -> Trajectory:
  caption_id, n = _split(completion.request_id)
  problem_id, k = _split(caption_id)
  item = completion.text, problems[problem_id], completion.finish_reason
  trajectory = Trajectory(
    problem_id=problem_id,
    k=k,
    n=n,
    completion=completion,
    verdict=verifier.verify([item])[0],
    length=asking.policy.count(completion.text),
  )
  store.append(trajectory)
  return trajectory


def _split(request_id: str) -> tuple[str, int]:
  """ "mv-17/3" -> ("mv-17", 3); a problem's id may itself hold slashes."""
  head, _, tail = request_id.rpartition("/")
  return head, int(tail)
