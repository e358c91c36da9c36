"""For every test."""

import jax
import pytest
from hypothesis import settings

# A property holds or does not; how long an example takes depends on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Their files take longest, and would otherwise be the last that one worker has
# while the others have none.
FIRST = ("tests/launch/", "tests/train/")


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope="module")
def quick_to_compile():
  """For programs that run for milliseconds and compile for seconds."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
