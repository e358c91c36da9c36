"""XLA's flags for GPUs: known to the installed XLA, and never against the user."""

import os
import subprocess
import sys
from pathlib import Path

import jaxlib
import pytest

from sophia_jax.hosts import xla_flags

LIBRARY = Path(jaxlib.__file__).with_name("libjax_common.so")
ROOT = Path(__file__).parents[2]


def test_the_installed_xla_takes_them_all():
  """An unknown flag ends the process."""
  flags = xla_flags.completed("", lambda _: True)
  subprocess.run(
    [sys.executable, "-c", "import jax; jax.numpy.zeros(1) + 1"],
    env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    check=True,
  )


def test_names_are_found_in_the_library():
  known = xla_flags.names(LIBRARY)
  assert all(known(name) for name in xla_flags.FLAGS)
  assert not known("xla_gpu_no_such_flag")
  assert not known("xla_gpu_enable_async_all_gather")  # dropped


def test_what_the_user_sets_stays():
  mine = "--xla_gpu_enable_triton_gemm=true --xla_dump_to=/tmp/x"
  found = xla_flags.completed(mine, lambda _: True).split()
  assert found[-2:] == mine.split()
  assert sum("triton_gemm" in flag for flag in found) == 1
  assert len(found) == len(xla_flags.FLAGS) + 1


def test_an_unknown_flag_is_left_out():
  found = xla_flags.completed("", lambda name: "combine" in name)
  assert [flag.count("combine") for flag in found.split()] == [1, 1, 1]


@pytest.mark.parametrize("platforms", ["cpu", "tpu,cpu"])
def test_other_platforms_are_left_alone(platforms):
  environment = {"JAX_PLATFORMS": platforms}
  xla_flags.apply(environment)
  assert environment == {"JAX_PLATFORMS": platforms}


def test_the_guide_lists_them():
  guide = (ROOT / "docs/guides/gpus.md").read_text(encoding="utf-8")
  for name, value in xla_flags.FLAGS.items():
    assert f"| `{name}` | `{value}` |" in guide
