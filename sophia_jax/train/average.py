"""A copy of the policy that follows it slowly, saved beside it."""

from __future__ import annotations

import functools
from typing import Any, Self

import jax
import jax.numpy as jnp

from sophia_jax.algorithms.contract import Average
from sophia_jax.train.annotate import Scorer
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.session import Session
from sophia_jax.train.state import Params, TrainState, copied
from sophia_jax.types import SophiaError

DIRECTORY = "average"


class Follower:
  """The copy m of a session's trained parameters; a context manager.

    m <- decay m + (1 - decay) theta        after every so many updates

  It begins as the policy does. A resumed one is as it was after the update that
  its session stands at.
  """

  def __init__(self, session: Session, how: Average, identity: dict[str, Any]):
    """Restores the copy, or makes it where nothing is learnt yet.

    Args:
      session: of the policy, entered.
      identity: what a resumed run may not change.

    Raises:
      SophiaError: the copy of the session's update is missing.
    """
    self._session, self._how = session, how
    directory = session.directory / DIRECTORY / "checkpoints"
    # After a kill the copy may be one checkpoint ahead of the policy.
    keep = max(2, session.config.keep)
    self._checkpoints = Checkpoints(directory, keep, identity, session.step)
    self._params = copied(session.trained)
    restored = self._checkpoints.restore(self._state())
    found = int(restored[0].step) if restored else 0
    if found != session.step:
      self._checkpoints.close()
      raise SophiaError(
        f"{directory}: no copy of the policy after update {session.step}, the "
        f"newest is of {found}; remove {session.directory}/checkpoints and "
        f"{directory}, and run the stage again"
      )
    if restored:
      self._params = restored[0].params

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: Any) -> None:
    self._checkpoints.close()

  def follow(self) -> None:
    """Moves the copy if it is its turn; call after each update."""
    if self._session.step % self._how.every == 0:
      self._params = moved(self._params, self._session.trained, self._how.decay)

  def scorer(self) -> Scorer:
    """Returns the model with the copy's parameters, valid until it moves."""
    params = {**self._session.model_params, **self._params}
    return Scorer(self._session.module, params)

  def save(self, cursor: dict[str, Any]) -> None:
    """Saves the copy in the background, as of the session's update."""
    self._checkpoints.save(self._state(), {"cursor": cursor, "metrics": {}})

  def wait_saved(self) -> None:
    """Waits until every checkpoint is on disk."""
    self._checkpoints.wait()

  def _state(self) -> TrainState:
    step = jnp.asarray(self._session.step, jnp.int32)
    return TrainState(step=step, params=self._params, opt_state=(), frozen={})


@functools.partial(jax.jit, donate_argnums=0)
def moved(slow: Params, policy: Params, decay: float) -> Params:
  """Returns decay slow + (1 - decay) policy; `slow` is donated."""
  return jax.tree.map(
    lambda m, p: (decay * m + (1 - decay) * p).astype(m.dtype), slow, policy
  )
