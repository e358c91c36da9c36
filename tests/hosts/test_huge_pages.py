"""A command starts itself again for huge pages, once, where they are offered."""

import os
import subprocess
import sys

import pytest

from sophia_jax.hosts import huge_pages

COMMAND = """
import os, sys
from pathlib import Path
from sophia_jax.hosts import huge_pages
print("begins", flush=True)
huge_pages.OFFERED = Path(sys.argv[1])
huge_pages.ask()
print(os.getpid(), os.environ.get(huge_pages.NAME), *sys.argv[2:])
"""
ABSENT = {k: v for k, v in os.environ.items() if k != huge_pages.NAME}


def said(offered, environment, code=COMMAND, *arguments):
  command = [sys.executable, "-c", code, offered, *arguments]
  with subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, text=True
  ) as process:
    out, _ = process.communicate()
  assert process.returncode == 0
  return out.replace(f"{process.pid} ", "PID ").splitlines()


@pytest.fixture
def offered(tmp_path):
  path = tmp_path / "enabled"
  path.write_text("always [madvise] never\n")
  return path


def test_a_command_starts_again_as_the_same_process(offered):
  told = said(offered, ABSENT, COMMAND, "a b", "--c=ä")
  assert told == ["begins", "begins", f"PID {huge_pages.VALUE} a b --c=ä"]


@pytest.mark.parametrize(
  "kernel", ["[always] madvise never\n", "always madvise [never]\n", None]
)
def test_nothing_happens_where_nothing_would_change(kernel, offered):
  offered.unlink() if kernel is None else offered.write_text(kernel)
  assert said(offered, ABSENT) == ["begins", "PID None"]


def test_a_setting_of_the_users_stays(offered):
  environment = {**ABSENT, huge_pages.NAME: "glibc.malloc.perturb=0"}
  told = ["begins", "PID glibc.malloc.perturb=0"]
  assert said(offered, environment) == told


LAUNCHED = """
import os, sys
sys.argv[0] = "-m"  # as while `python -m launch.run` imports its package
import launch
from sophia_jax.hosts import huge_pages
print(os.environ.get(huge_pages.NAME))
"""


def test_launch_asks_before_it_loads_jax():
  (told,) = said("", ABSENT, LAUNCHED + "assert 'jax' not in sys.modules")
  wanted = huge_pages.VALUE if huge_pages._offered() else None
  assert told == str(wanted)
