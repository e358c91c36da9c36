"""For every test."""

import collections
import gc
import hashlib
import importlib.util
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings


def _programs() -> Path:
  """Where compiled programs are kept, for this kind of processor alone."""
  about = Path("/proc/cpuinfo")
  lines = about.read_text().splitlines() if about.exists() else []
  features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
  kind = hashlib.sha256(features.encode()).hexdigest()[:8]
  return Path(__file__).parent / ".pytest_cache" / f"xla-{kind}"


# Before jax is imported, and for all that tests start. Most programs run for
# milliseconds and compile for seconds, and many are compiled again and again.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):  # others do not know it, and end
  # Half of the time to compile; some sums are rounded in another way.
  os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_programs()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# As the commands do (launch/cli.py).
gc.set_threshold(10_000)

# A property holds or does not; how long an example takes depends on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Their files take longest, and would otherwise be the last that one worker has
# while the others have none.
FIRST = ("tests/launch/", "tests/train/")


TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = re.compile(
  r"^(import torch|from tests\.parity|from benchmarks\.round_ours)\b", re.M
)


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


def pytest_terminal_summary(terminalreporter):
  """One line for each reason of skipped tests; -rs has one for each test."""
  skipped = terminalreporter.stats.get("skipped", ())
  reasons = (str(r.longrepr[-1]).removeprefix("Skipped: ") for r in skipped)
  for reason, count in collections.Counter(reasons).items():
    terminalreporter.write_line(f"skipped {count}: {reason}")
