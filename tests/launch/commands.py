"""Command lines of the tests, and ways to watch a command."""

import time
from pathlib import Path

import pytest

from configs.digits import world
from sophia_jax.checkpoints import save_params
from tests.rollout import little

ROOT = Path(__file__).parents[2]
CONFIG = "--config=configs/quickstart.py"

# Updates enough to be killed in.
TINY = world.TOY | {
  "stages.reasoner.train.epochs": 2,
  "stages.warmup.train.epochs": 4,
  "stages.sophia.train.epochs": 20,
  "stages.sophia.train.checkpoint_every": 10,
  "stages.sophia.train.log_every": 5,
}


def overrides(values):
  """Returns {"seed": 2} as flags."""
  return [f"--config.{key}={value}" for key, value in values.items()]


def export(directory, words, vision):
  """A checkpoint of random weights at `directory`, its tokenizer at `words`."""
  model = little.model(little.renderer(str(words), vision))
  save_params(little.params(model), model.cfg, directory, words)
  return directory


def until(process, reached):
  """Lets a command run until `reached()`, which it must see running."""
  deadline = time.monotonic() + 600
  while not reached():
    if process.poll() is not None or time.monotonic() > deadline:
      process.kill()
      pytest.fail("".join(process.communicate()))
    time.sleep(0.002)


def assert_refused(done, *said):
  """One line that says so, and nothing else."""
  assert done.returncode != 0
  lines = done.stderr.splitlines()
  assert len(lines) == 1, done.stderr
  assert lines[0].startswith("error: ")
  for text in said:
    assert text in lines[0]
  assert not done.stdout
