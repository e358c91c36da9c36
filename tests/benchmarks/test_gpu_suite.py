"""The GPU suite where there is no GPU: every part runs, at toy sizes.

Here parts run in this process, which has imported everything; as processes, with
the quickstart, they are `make test-slow`'s.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as suite
from benchmarks.gpu.__main__ import Part

ROOT = Path(__file__).parents[2]
ON_PART = "tests.benchmarks.on_part"
# Half a minute in many processes; the module of another part, with 32k tokens.
SLOW = ("quickstart", "train 8b")
PARTS = [part for part in suite.PARTS if part.name not in SLOW]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


def lines(text):
  return [json.loads(x) for x in text.splitlines() if x.startswith("{")]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_runs(part, monkeypatch, capfd):
  """No result is wrong, and none failed."""
  monkeypatch.setattr(sys, "argv", [part.module, *part.arguments, "--dry"])
  importlib.import_module(part.module).main()
  found = lines(capfd.readouterr().out)
  assert found and all(line.get("ok", True) for line in found), found


@pytest.mark.slow
def test_the_whole_suite_runs(tmp_path):
  out = tmp_path / "gpu.jsonl"
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.gpu", "--dry", f"--out={out}"],
    cwd=ROOT,
  )
  assert done.returncode == 0
  found = lines(out.read_text(encoding="utf-8"))
  assert {line["part"] for line in found} == {p.name for p in suite.PARTS}


def test_a_result_is_kept_though_the_part_fails(capfd):
  part = Part("x", ON_PART, 60, ("--fail",))
  first, last = suite.results(part, 600, dry=True)
  assert first == {"name": "first", "s": 1}
  assert not last["ok"] and "off the bus" in last["error"]


def test_a_part_is_stopped_at_its_limit():
  *_, last = suite.results(Part("x", ON_PART, 60, ("--hang",)), 1, dry=True)
  assert not last["ok"] and last["error"] == "stopped at 1 s"


def test_a_part_without_time_is_not_started():
  assert list(suite.results(Part("x", "none", 60), 0, dry=False)) == [
    {"ok": False, "error": "no time was left"}
  ]


@pytest.mark.parametrize("flag, code", [("", 0), ("--wrong", 1)])
def test_a_wrong_result_is_the_exit_code(flag, code, tmp_path, monkeypatch):
  out = tmp_path / "new" / "gpu.jsonl"
  part = Part("x", ON_PART, 60, (flag,) if flag else ())
  monkeypatch.setattr(suite, "PARTS", (part,))
  monkeypatch.setattr(sys, "argv", ["gpu", "--dry", f"--out={out}"])
  with pytest.raises(SystemExit) as stop:
    suite.main()
  assert stop.value.code == code
  found = lines(out.read_text(encoding="utf-8"))
  assert found[0] == {"part": "x", "name": "first", "s": 1}
  assert "seconds" in found[-1]


def test_limits_fit_the_time():
  """Only the last part, the quickstart, may find less than its limit."""
  assert sum(part.seconds for part in suite.PARTS[:-1]) <= 8 * 60
