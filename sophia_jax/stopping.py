"""SIGTERM as a flag, which every stage looks at between two pieces of its work.

An exception that a handler raises may be lost: in a callback, in a destructor,
in a coroutine. So the handler only notes the signal. Where several processes run
together, jax.distributed has the handler, and they agree on when to stop
(`train.session.Session.stopping`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

LOOK_S = 0.2
"""Longest time between two looks at the flag while something is waited for,
seconds."""


class Preempted(Exception):
  """SIGTERM arrived; what was finished is saved."""


class _Flag:
  raised = False


def _note(number: int, frame: FrameType | None) -> None:
  del number, frame
  _Flag.raised = True


def install() -> None:
  """Makes SIGTERM a flag for the rest of this process."""
  signal.signal(signal.SIGTERM, _note)


def release() -> None:
  """Lets SIGTERM end this process at once, also one that arrived before."""
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  if _Flag.raised:
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Makes SIGTERM a flag in the block, if it is not one already.

  Only the main thread may set handlers; in others nothing changes.
  """
  main = threading.current_thread() is threading.main_thread()
  if not main or signal.getsignal(signal.SIGTERM) is _note:
    yield
    return
  before = signal.getsignal(signal.SIGTERM)
  install()
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    _Flag.raised = False


def requested() -> bool:
  """Returns whether SIGTERM arrived."""
  return _Flag.raised


def check(what: str = "") -> None:
  """Ends the work in progress if SIGTERM arrived.

  Args:
    what: where that leaves the work, for the message.

  Raises:
    Preempted: it did.
  """
  if _Flag.raised:
    raise Preempted(f"SIGTERM; {what}" if what else "SIGTERM")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
  """Says where SIGTERM left the work of the block."""
  try:
    yield
  except Preempted:
    raise Preempted(f"SIGTERM; {what}") from None
