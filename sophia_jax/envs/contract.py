"""Rules of an environment, as pure functions of its states."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "H W 3"]


class Step(NamedTuple):
  """The effect of an action."""

  state: Any
  reward: float
  done: bool
  """Whether the episode ends."""


class Environment(Protocol):
  """One start: rules, and the state that every episode begins with.

  States are hashable values. All chance is in the generator that `step` takes.
  """

  @property
  def actions(self) -> tuple[str, ...]:
    """Names of the actions, by their numbers."""
    ...

  def start(self) -> Any: ...

  def step(
    self, state: Any, action: int, chance: np.random.Generator
  ) -> Step: ...

  def solved(self, state: Any) -> bool:
    """Returns whether the goal is reached."""
    ...

  def text(self, state: Any) -> str:
    """Returns the observation in words."""
    ...

  def picture(self, state: Any) -> Pixels | None:
    """Returns the observation as an image; None where there is nothing to see."""
    ...

  def rules(self) -> str:
    """Returns the explanation that a first observation begins with."""
    ...

  def advice(self, state: Any) -> int:
    """Returns the best action."""
    ...
