"""The loop over data that are there: every batch of a loader, in order."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from sophia_jax.data.loader import Loader
from sophia_jax.stopping import Preempted
from sophia_jax.train.metrics import NotFinite
from sophia_jax.train.session import Session
from sophia_jax.train.state import Params
from sophia_jax.types import Batch, SophiaError


def fit(session: Session, loader: Loader) -> Params:
  """Trains to the end of the loader, from the newest checkpoint if there is one.

  Returns:
    All parameters of the model.

  Raises:
    SophiaError: the loss is not finite, or the checkpoint is of other data.
    Preempted: SIGTERM arrived; everything is saved, and a restart resumes.
  """
  with _saving_bad_batches(session, loader):
    for batch in _waited_for(session, loader.after(session.cursor)):
      session.update(batch)
      stop, last = session.stopping(), session.step == loader.steps
      if stop or last or session.step % session.config.checkpoint_every == 0:
        session.save(loader.cursor(session.step))
      if stop:
        raise Preempted(f"saved update {session.step} in {session.directory}")
  return session.model_params


def _waited_for(session: Session, batches: Iterator[Batch]) -> Iterator[Batch]:
  """Yields batches; the seconds until one is there count as "input_wait"."""
  while True:
    with session.waiting("input_wait"):
      batch = next(batches, None)
    if batch is None:
      return
    yield batch


@contextlib.contextmanager
def _saving_bad_batches(session: Session, loader: Loader) -> Iterator[None]:
  """Saves the batch after which a loss is not finite."""
  try:
    yield
  except NotFinite as e:
    batch = dataclasses.asdict(loader[e.update - 1])
    part = f"-{jax.process_index()}" if jax.process_count() > 1 else ""
    path = session.directory / f"update-{e.update}{part}.npz"
    np.savez_compressed(path, **batch.pop("streams"), **batch)
    raise SophiaError(f"{e}, which is in {path}") from e
