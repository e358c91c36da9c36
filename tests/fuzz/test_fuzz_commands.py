"""Command lines of every kind: an answer of one line, and never a traceback.

One process imports a command and is forked for every line, which costs little.
"""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.fuzz.fuzzing import SCALE
from tests.fuzz.hostile import DEEP

FORKS = """
import json, os, runpy, signal, sys
module, out = sys.argv[1:]
import launch.cli
for number, line in enumerate(json.load(sys.stdin)):
  child = os.fork()
  if not child:
    signal.alarm(120)
    for fd, name in ((1, "out"), (2, "err")):
      os.dup2(os.open(f"{out}/{number}.{name}", os.O_WRONLY | os.O_CREAT), fd)
    sys.argv = [module, *line]
    code = 99
    try:
      runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as e:
      code = e.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
CONFIG = "--config=configs/quickstart.py"
ODD = [
  *("", "0", "-1", "nan", "1e999", "9" * 400, "None", "True", "[]", "{}"),
  *("../../evil", "/dev/null", "/proc/self/mem", "x" * 5000, "a\nb", "\t"),
  *("é", "\u202e", "'", '"', "$(touch evil)", "%s%n", "(1,", DEEP),
]
KEYS = {
  "launch.run": ("--name", "--stage"),
  "launch.sample": ("--shard", "--stage"),
  "launch.train": ("--name", "--coordinator", "--processes"),
  "launch.evaluate": (
    *("--name", "--samples", "--limit", "--benchmarks", "--judge", "--model"),
    *("--data", "--against"),
  ),
  "launch.convert": ("--src", "--dst", "--dtype", "--format", "--base"),
  "launch.score": ("--model", "--data", "--out", "--dtype"),
}
SETTINGS = (
  *("seed", "base", "order", "topology", "stages.sophia.train.rows"),
  *("stages.sophia.alpha", "engine.slots", "reward.workers", "mesh.fsdp"),
  *("policy.path", "data.heldout", "prompts.system", "nothing", "log"),
)


def lines(module, place):
  """Command lines of a module, each of which must be refused."""
  rng = random.Random(module)
  settings = not module.endswith(("convert", "score"))
  (place / "file").write_text("no workdir")
  for _ in range(12 * SCALE):
    line = [CONFIG, f"--workdir={place}/W"] if settings else []
    for _ in range(rng.randint(1, 2)):
      value = rng.choice(ODD)
      if settings and rng.random() < 0.5:
        line.append(f"--config.{rng.choice(SETTINGS)}={value}")
      else:
        line.append(f"{rng.choice(KEYS[module])}={value}")
    if settings:  # where every flag is right, this one is not
      line.append(f"--config.base={place}/nothing")
    yield line
  if module == "launch.run":
    yield [CONFIG, f"--workdir={place}/file"]
  if settings:
    yield [CONFIG]
  yield ["--no_such_flag"]
  yield ["argument", *([CONFIG, "--workdir=/x"] if settings else [])]


@pytest.mark.parametrize("module", KEYS)
def test_wrong_command_lines(module, tmp_path):
  given = [
    [argument for argument in line if "\x00" not in argument]
    for line in lines(module, tmp_path)
  ]
  done = subprocess.run(
    [sys.executable, "-c", FORKS, module, str(tmp_path)],
    input=json.dumps(given),
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  codes = [int(code) for code in done.stdout.split()]
  assert len(codes) == len(given)
  for number, (line, code) in enumerate(zip(given, codes)):
    said = (tmp_path / f"{number}.err").read_text(errors="replace")
    shown = f"{[a[:80] for a in line]}: {code}: {said[-2000:]}"
    assert code == 1, shown
    assert "Traceback" not in said, shown
    *log, last = said.splitlines()
    assert last.startswith("error: ") and len(last) < 1500, shown
    assert not any("error" in each for each in log), shown
  assert not list(tmp_path.rglob("evil*")) and not (tmp_path / "W").exists()
