"""SLINVIT: look-ahead over a language model's proposals in copied environments.

From each node of a tree the proposed actions are tried in copies of the
environment; the `breadth` children with the best alpha p(a | s) + V(s') are kept,
`depth` levels deep. A path's score is

  c + V(leaf),   c <- gamma c + alpha p(a | s)   at each of its steps.

Of the best path the first action is taken, or all of them. arXiv 2402.16181 and
the authors' code; docs/algorithms/linvit.md says where they differ.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from sophia_jax.types import SophiaError, host, quoted


@host
class Step:
  """The outcome of an action."""

  reward: float
  ended: bool
  legal: bool = True
  """False: the action was none, and nothing has changed."""


class Environment(Protocol):
  """A world that can be copied.

  A copy continues on its own. Where chance decides, it draws other numbers than
  the original, so that looking ahead does not foresee them.
  """

  @property
  def solved(self) -> bool:
    """Whether the episode has reached its goal."""
    ...

  def text(self) -> str:
    """Returns what a model is asked for the next action."""
    ...

  def actions(self) -> tuple[str, ...]:
    """Returns the legal actions; () where any text may be one."""
    ...

  def step(self, action: str) -> Step:
    """Takes an action."""
    ...

  def copy(self) -> Environment:
    """Returns a copy, from here on."""
    ...


Proposals = Callable[[Environment], Sequence[tuple[str, float]]]
"""Actions and their probabilities under a prior, the likeliest first."""
Value = Callable[[Environment], float]
"""A guess of what a state is worth."""


class ContextExceeded(Exception):
  """The text of a state does not fit the model that is asked."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """Settings of the look-ahead."""

  breadth: int = 2
  """k, children that are kept of each node."""
  depth: int = 2
  """N, actions that are looked ahead."""
  prior_weight: float = 0.1
  """alpha, weight of the prior's probability of an action."""
  discount: float = 1.0
  """gamma, factor of the score of earlier steps at each further one."""
  whole: bool = False
  """Whether the whole path is taken; False: its first action, then another
  look ahead."""
  budget: int = 50
  """Actions of an episode."""
  penalty: float = 0.1
  """Cost of an action that cannot be read or is not legal."""

  def __post_init__(self):
    for name in ("breadth", "depth", "budget"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")


class Ending(enum.StrEnum):
  """How an episode ended."""

  SOLVED = "solved"
  ENDED = "ended"
  """Its end was reached, and not the goal."""
  BUDGET = "budget"
  """It had as many actions as it may."""
  STUCK = "stuck"
  """Nothing was proposed."""
  CONTEXT = "context"
  """Its text grew beyond the model's context."""


@host
class Episode:
  """An episode that was played."""

  ending: Ending
  actions: tuple[str, ...]
  """Actions in their order, illegal ones included."""
  reward: float
  """Sum of the rewards, less the penalties."""
  last: float
  """The last reward."""
  illegal: int
  """Number of actions taken that were not legal."""
  tried: int
  """Number of actions tried in copies."""


@dataclasses.dataclass(frozen=True)
class _Node:
  environment: Environment
  path: tuple[str, ...] = ()
  prior: float = 0.0
  """c of the module's equation."""
  value: float = 0.0
  ended: bool = False


def look_ahead(
  environment: Environment,
  propose: Proposals,
  value: Value,
  config: SearchConfig,
  tally: collections.Counter[str] | None = None,
) -> tuple[str, ...]:
  """Returns the best path found; (); nothing was proposed.

  A path of one illegal action is returned where no other was proposed.

  Args:
    environment: is copied and not changed.
    tally: counts what was "tried" in copies, and what was "refused" as illegal.
  """
  tally = collections.Counter() if tally is None else tally
  level = [_Node(environment)]
  leaves: list[_Node] = []
  fallback: tuple[str, ...] = ()
  for _ in range(config.depth):
    below = []
    for node in level:
      found = list(propose(node.environment))
      fallback = fallback or (*node.path, *(action for action, _ in found[:1]))
      children = _children(node, found, value, config, tally)
      below += children
      if node.path and not children:
        leaves.append(node)
    leaves += [node for node in below if node.ended]
    level = [node for node in below if not node.ended]
  leaves += level
  if not leaves:
    return fallback
  return max(leaves, key=lambda node: node.prior + node.value).path


def _children(
  node: _Node,
  found: Sequence[tuple[str, float]],
  value: Value,
  config: SearchConfig,
  tally: collections.Counter[str],
) -> list[_Node]:
  """Tries the proposed actions of a node; the best are kept."""
  ranked = []
  for action, probability in found:
    copy = node.environment.copy()
    step = copy.step(action)
    tally["tried"] += 1
    if not step.legal:
      tally["refused"] += 1
      continue
    weight = config.prior_weight * probability
    child = _Node(
      environment=copy,
      path=(*node.path, action),
      prior=config.discount * node.prior + weight,
      value=value(copy),
      ended=step.ended,
    )
    ranked.append((weight + child.value, child))
  ranked.sort(key=lambda pair: -pair[0])  # stable: the likelier one of a tie
  return [child for _, child in ranked[: config.breadth]]


def play(
  environment: Environment,
  propose: Proposals,
  value: Value,
  config: SearchConfig,
  name: str = "environment",
) -> Episode:
  """Plays an episode to its end, or to the end of its budget.

  Args:
    environment: is changed.
    name: of the episode, for the error.

  Raises:
    SophiaError: the environment itself failed.
  """
  tally: collections.Counter[str] = collections.Counter()
  taken: list[str] = []
  rewards: list[float] = []
  illegal, ending = 0, Ending.BUDGET
  try:
    while len(taken) < config.budget and ending is Ending.BUDGET:
      path = look_ahead(environment, propose, value, config, tally)
      if not path:
        ending = Ending.STUCK
      for action in path[: None if config.whole else 1]:
        step = environment.step(action)
        taken.append(action)
        rewards.append(step.reward)
        illegal += not step.legal
        if step.ended:
          ending = Ending.SOLVED if environment.solved else Ending.ENDED
        if step.ended or not step.legal or len(taken) == config.budget:
          break
  except ContextExceeded:
    ending = Ending.CONTEXT
  except (ValueError, LookupError, ArithmeticError, RuntimeError, OSError) as e:
    raise SophiaError(
      f"{name}: action {len(taken) + 1} raised {type(e).__name__}: "
      f"{quoted(str(e))}; fix the environment"
    ) from e
  return Episode(
    ending=ending,
    actions=tuple(taken),
    reward=sum(rewards) - config.penalty * illegal,
    last=rewards[-1] if rewards else 0.0,
    illegal=illegal,
    tried=tally["tried"],
  )
