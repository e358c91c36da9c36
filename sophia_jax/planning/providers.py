"""Proposals and values for the look-ahead: by rule, by a model, by roll-out."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from sophia_jax.planning.lookahead import Environment, Proposals, Value
from sophia_jax.types import Chat, Completion, Engine, Request, Sampling

CRITIC = (
  "{state}\nHow likely is it that the goal is reached from here? Give a number "
  "from 0 to 1 in the form: value = NUMBER"
)
"""The question to a critic."""
_VALUE = re.compile(r"=\s{0,8}(-?\d{1,9}(?:\.\d{0,9})?)")
_SPACES = re.compile(r"\s+")


class Scorer(Protocol):
  """Anything that knows log-likelihoods of given responses."""

  def logps(self, chat: Chat, responses: Sequence[str]) -> Sequence[float]:
    """Returns log p(response | chat) of each response, its end included.

    Raises:
      ContextExceeded: the text does not fit the model.
    """
    ...


class Asked:
  """An engine that is asked one question at a time, and remembers the answers.

  Args:
    engine: any that generates.
    how: settings by which tokens are drawn.
    samples: answers to each question.
    seed: of the draws; equal questions have equal answers.
  """

  def __init__(
    self, engine: Engine, how: Sampling, samples: int = 1, seed: int = 0
  ):
    self._engine, self._how = engine, how
    self._samples, self._seed = samples, seed
    self._known: dict[str, list[Completion]] = {}

  def __call__(self, text: str) -> list[Completion]:
    """Returns the answers to a question, in the order of their numbers."""
    if text not in self._known:
      name = f"{self._seed}/{text}".encode(errors="surrogatepass")
      digest = hashlib.blake2b(name, digest_size=8).hexdigest()
      requests = [
        Request(
          id=f"plan-{digest}/{number}",
          prompt=Chat(text=text),
          sampling=self._seeded(digest, number),
        )
        for number in range(self._samples)
      ]
      found = {c.request_id: c for c in self._engine.generate(requests)}
      self._known[text] = [found[request.id] for request in requests]
    return self._known[text]

  def _seeded(self, digest: str, number: int) -> Sampling:
    how = self._how
    return Sampling(
      temperature=how.temperature,
      top_p=how.top_p,
      top_k=how.top_k,
      max_new_tokens=how.max_new_tokens,
      seed=(int(digest, 16) + number) >> 1,
    )


# ------------------------------------------------------------------- proposals
def by_likelihood(scorer: Scorer, keep: int = 0) -> Proposals:
  """Returns proposals by the softmax of log-likelihoods over legal actions.

  Args:
    keep: number of the likeliest that are proposed; 0: all.
  """

  def propose(environment: Environment) -> list[tuple[str, float]]:
    actions = environment.actions()
    if not actions:
      return []
    logps = scorer.logps(Chat(text=environment.text()), actions)
    best = max(logps)
    weights = [math.exp(logp - best) for logp in logps]
    ranked = sorted(
      zip(actions, (weight / sum(weights) for weight in weights)),
      key=lambda pair: -pair[1],
    )
    return ranked[: keep or None]

  return propose


def by_samples(
  ask: Callable[[str], Sequence[Completion]],
  counts: Counter[str] | None = None,
  keep: int = 0,
) -> Proposals:
  """Returns proposals by samples of an engine, ranked by mean token probability.

  The probabilities are renormalised over the actions proposed. Where an engine
  knows no log-probabilities, an action weighs as often as it was sampled. An
  answer that names no legal action is left out and counted as "unparseable".

  Args:
    ask: question -> answers.
    counts: counts "unparseable" answers.
    keep: number of the best that are proposed; 0: all.
  """
  counts = Counter() if counts is None else counts

  def propose(environment: Environment) -> list[tuple[str, float]]:
    legal = {_plain(action): action for action in environment.actions()}
    weights: dict[str, float] = {}
    for answer in ask(environment.text()):
      text = answer.text.strip()
      action = legal.get(_plain(text)) if legal else text
      if not action:
        counts["unparseable"] += 1
        continue
      if answer.logps:
        mean = math.exp(math.fsum(answer.logps) / len(answer.logps))
        weights[action] = max(weights.get(action, 0.0), mean)
      else:
        weights[action] = weights.get(action, 0.0) + 1
    total = math.fsum(weights.values())
    ranked = sorted(
      ((a, w / total if total else 0.0) for a, w in weights.items()),
      key=lambda pair: -pair[1],
    )
    return ranked[: keep or None]

  return propose


def all_equal(environment: Environment) -> list[tuple[str, float]]:
  """Returns all legal actions, each as probable as the others."""
  actions = environment.actions()
  return [(action, 1 / len(actions)) for action in actions]


def _plain(text: str) -> str:
  """Returns an action without case, spaces and a full stop."""
  return _SPACES.sub(" ", text).strip(" .").lower()


# ---------------------------------------------------------------------- values
def by_critic(
  ask: Callable[[str], Sequence[Completion]],
  counts: Counter[str] | None = None,
  otherwise: float = 0.0,
) -> Value:
  """Returns values that a model is asked for: the number after its last "=".

  Args:
    ask: question -> answers; the first counts.
    counts: counts "unparseable" answers, whose value is `otherwise`.
  """
  counts = Counter() if counts is None else counts

  def value(environment: Environment) -> float:
    answer = ask(CRITIC.format(state=environment.text()))[0].text
    numbers = _VALUE.findall(answer)
    if not numbers:
      counts["unparseable"] += 1
      return otherwise
    return float(numbers[-1])

  return value


def by_rollout(propose: Proposals, horizon: int = 5) -> Value:
  """Returns values by following the first proposal in a copy: the last reward.

  Args:
    horizon: actions at most; none are taken in a state that is solved.
  """

  def value(environment: Environment) -> float:
    if environment.solved:
      return 1.0
    copy, reward = environment.copy(), 0.0
    for _ in range(horizon):
      found = propose(copy)
      if not found:
        break
      step = copy.step(found[0][0])
      reward = step.reward
      if step.ended or not step.legal:
        break
    return reward

  return value
