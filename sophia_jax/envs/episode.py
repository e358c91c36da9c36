"""An episode: what a policy's answers do to an environment.

An answer is <think>...</think><answer>up || left</answer>: a thought, then one or
more actions; other forms leave the thought or all tags out. Whatever else a policy
writes is no action, costs the penalty and is counted; it is never evaluated.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Sequence

import numpy as np

from sophia_jax.envs.contract import Environment, Pixels
from sophia_jax.types import SophiaError

_log = logging.getLogger("sophia_jax")
SEPARATOR = "||"
FORMS = ("think", "answer", "plain")
"""Forms of an answer: a thought and tagged actions; tagged actions; actions."""
FAULTS = (
  ArithmeticError,
  AssertionError,
  AttributeError,
  LookupError,
  RuntimeError,
  TypeError,
  ValueError,
)
"""Errors of an environment that end its episode and not the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """The form of an episode."""

  turns: int = 5
  """Answers of an episode, at most."""
  actions: int = 10
  """Actions of an episode, at most."""
  actions_per_turn: int = 5
  """Actions of an answer that are taken; further ones are left out."""
  penalty: float = 0.1
  """Cost of an answer without the form, or with something that is no action."""
  form: str = "think"
  """Form of an answer, one of FORMS."""

  def __post_init__(self) -> None:
    for name in ("turns", "actions", "actions_per_turn"):
      if getattr(self, name) < 1:
        raise SophiaError(
          f"{name}: {getattr(self, name)} leaves an episode without actions; "
          "use 1 or more"
        )
    if self.form not in FORMS:
      raise SophiaError(
        f"form: {self.form!r} is unknown; use one of {', '.join(FORMS)}"
      )


class End(enum.StrEnum):
  """The reason why an episode is over."""

  DONE = "done"
  """The environment ended it."""
  LIMIT = "limit"
  """All turns or actions are used: an environment that never ends, ends."""
  CONTEXT = "context"
  """The next turn does not fit the context."""
  BROKEN = "broken"
  """The environment raised an error."""


@dataclasses.dataclass(frozen=True)
class Parsed:
  """An answer as actions."""

  actions: tuple[int, ...]
  """Numbers of the actions before the first invalid one."""
  valid: bool
  """Whether it has the form, and every action is one of the environment's."""


def parse(text: str, actions: Sequence[str], form: str = "think") -> Parsed:
  """Reads an answer; any text has a result.

  Args:
    actions: names of the environment's actions; letter case does not matter.
    form: one of FORMS.
  """
  inside = _inside(text.strip(), form)
  if inside is None:
    return Parsed((), False)
  numbers = {name.casefold(): i for i, name in enumerate(actions)}
  names = [name.strip().casefold() for name in inside.split(SEPARATOR)]
  known: list[int] = []
  for name in names:
    if name not in numbers:
      return Parsed(tuple(known), False)
    known.append(numbers[name])
  return Parsed(tuple(known), True)


def _inside(text: str, form: str) -> str | None:
  """Returns the actions of an answer, unread; None without the form."""
  if form == "plain":
    return text
  if form == "think":
    if not text.startswith("<think>"):
      return None
    _, end, text = text.partition("</think>")
    if not end:
      return None
    text = text.strip()
  if not (text.startswith("<answer>") and text.endswith("</answer>")):
    return None
  inside = text.removeprefix("<answer>").removesuffix("</answer>")
  return None if "answer>" in inside else inside


def said(actions: Sequence[str], form: str = "think", thought: str = "") -> str:
  """Returns an answer in the form that `parse` reads."""
  inside = f" {SEPARATOR} ".join(actions)
  if form == "plain":
    return inside
  before = f"<think>{thought}</think>" if form == "think" else ""
  return f"{before}<answer>{inside}</answer>"


def observed(reward: float, state: str, left: int) -> str:
  """Returns what a turn after the first is shown.

  Args:
    reward: reward of the turn before.
    state: the observation in words; "": it is in a picture.
    left: actions that may still be taken.
  """
  lines = f"Reward: {reward:.4g}", state, f"Actions left: {left}"
  return "\n".join(filter(None, lines))


class Episode:
  """The state of an episode; `answer` takes one turn.

  Args:
    environment: its rules and start.
    limits: its form.
    seed: all chance of the episode comes from it, so the same answers have the
      same effects.
  """

  def __init__(self, environment: Environment, limits: Limits, seed: int):
    self._environment, self._limits = environment, limits
    self._chance = np.random.default_rng(seed)
    self.state = environment.start()
    self.rewards: list[float] = []
    """Sum of the environment's rewards of each turn, penalties left out."""
    self.penalties: list[float] = []
    """Penalty of each turn: 0, or below."""
    self.taken = 0
    """Number of actions so far."""
    self.end: End | None = None
    self._invalid = 0

  @property
  def left(self) -> int:
    """Number of actions that may still be taken."""
    return self._limits.actions - self.taken

  @property
  def solved(self) -> bool:
    """Whether the goal is reached."""
    return self.end is End.DONE and self._environment.solved(self.state)

  @property
  def invalid(self) -> int:
    """Number of turns without the form, or with something that is no action."""
    return self._invalid

  def answer(self, text: str) -> None:
    """Takes the actions of an answer, one after the other.

    An environment that raises ends the episode, which keeps the rewards before.
    """
    limits = self._limits
    parsed = parse(text, self._environment.actions, limits.form)
    self.rewards.append(0.0)
    self.penalties.append(0.0 if parsed.valid else -limits.penalty)
    self._invalid += not parsed.valid
    for action in parsed.actions[: min(limits.actions_per_turn, self.left)]:
      try:
        self._take(action)
      except FAULTS as e:
        _log.warning("an environment raised %s: %s", type(e).__name__, e)
        self.end = End.BROKEN
      if self.end is not None:
        return
    if self.left < 1 or len(self.rewards) >= limits.turns:
      self.end = End.LIMIT

  def _take(self, action: int) -> None:
    step = self._environment.step(self.state, action, self._chance)
    self.state, self.taken = step.state, self.taken + 1
    self.rewards[-1] += float(step.reward)
    if step.done:
      self.end = End.DONE

  def observation(self, seen: bool) -> tuple[str, Pixels | None]:
    """Returns what the policy is shown before its next answer.

    Args:
      seen: whether the state is shown as a picture, where there is one.
    """
    picture = self._environment.picture(self.state) if seen else None
    text = "" if picture is not None else self._environment.text(self.state)
    reward = self.rewards[-1] + self.penalties[-1]
    return observed(reward, text, self.left), picture
