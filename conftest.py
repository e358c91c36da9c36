"""For every test."""

import importlib.util
import re

import jax
import pytest
from hypothesis import settings

# A property holds or does not; how long an example takes depends on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Their files take longest, and would otherwise be the last that one worker has
# while the others have none.
FIRST = ("tests/launch/", "tests/train/")


TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = re.compile(r"^(import torch|from tests\.parity)\b", re.M)


class WithoutTorch(pytest.Module):
  """A file that compares with torch, where torch is not installed."""

  def collect(self):
    pytest.skip("torch is not installed; it is compared with in Python 3.11")


def pytest_pycollect_makemodule(module_path, parent):
  if not TORCH and NEEDS_TORCH.search(module_path.read_text("utf-8")):
    return WithoutTorch.from_parent(parent, path=module_path)
  return None


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope="module")
def quick_to_compile():
  """For programs that run for milliseconds and compile for seconds."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
