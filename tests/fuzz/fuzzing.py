"""Checks of every fuzz test: one line, no hang, bounded memory.

A short run is part of `make test`; `make test-slow` runs FUZZ_SCALE times as many
examples.
"""

import os

from hypothesis import HealthCheck, settings

from sophia_jax.types import SophiaError

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))


def examples(count):
  """Settings for `count` examples in a short run."""
  return settings(
    max_examples=count * SCALE,
    deadline=None,
    derandomize=SCALE == 1,
    suppress_health_check=list(HealthCheck),
  )


def one_line(work):
  """Calls `work`, which may refuse its input in one short line."""
  try:
    return work()
  except SophiaError as e:
    text = str(e)
    assert text and "\n" not in text, text
    assert len(text) < 4000, len(text)
    return None
