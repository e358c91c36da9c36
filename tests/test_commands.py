"""The commands outside launch/: bad arguments are one line and exit code 1."""

import importlib

import pytest

from sophia_jax import commands, faults
from sophia_jax.types import SophiaError

WRONG = {
  "sophia_jax.envs.__main__": (
    ([], "required: env, out"),
    (["lake", "out"], "invalid choice: 'lake'"),
    (["sokoban", "out", "--size=six"], "invalid int value: 'six'"),
    (["sokoban", "out", "--szie=6"], "unrecognized arguments: --szie=6"),
    (["bandit", "/proc/none", "--problems=2", "--heldout=2"], "/proc/none"),
  ),
  "sophia_jax.datasets.__main__": (
    ([], "required: command"),
    (["chekc", "a.jsonl"], "'chekc'"),
    (["check"], "required: file"),
    (["import", "a", "b"], "required: --from"),
    (["import", "a", "b", "--from=x", "--as=y"], "invalid choice: 'y'"),
    (["hardest", "a", "--keep", "x"], "invalid int value: 'x'"),
    (["decontaminate", "x" * 5000], "required: --against"),
    (["schema", "\u202e" * 3000], "unrecognized arguments"),
  ),
  "sophia_jax.evals.score": (
    ([], "required: --benchmark"),
    (["--workers=two"], "invalid int value: 'two'"),
    (
      ["--benchmark=no", "--data=d", "--responses=r", "--out=o"],
      "'no'",
    ),
  ),
  "sophia_jax.evidence.__main__": (
    ([], "required: command"),
    (["run"], "required: experiment"),
    (["table", "unclear", "--sedes=1"], "unrecognized arguments: --sedes=1"),
    (["run", "uncler"], "uncler: no such experiment"),
  ),
}


def ended(main, arguments):
  try:
    return main(arguments)
  except SystemExit as e:
    return e.code


@pytest.mark.parametrize(
  ("module", "arguments", "said"),
  [(module, *case) for module, cases in WRONG.items() for case in cases],
)
def test_bad_input_is_one_line(module, arguments, said, capsys, monkeypatch):
  main = importlib.import_module(module).main
  assert ended(main, arguments) == 1
  out, err = capsys.readouterr()
  assert not out
  (line,) = err.splitlines()
  assert line.startswith("error: ") and said in line
  assert len(line) < 1500


@pytest.mark.parametrize("module", WRONG)
def test_help_has_an_example(module, capsys):
  main = importlib.import_module(module).main
  assert ended(main, ["--help"]) == 0
  name = module.removesuffix(".__main__")
  assert f"example: python -m {name} " in " ".join(
    capsys.readouterr().out.split()
  )


def raising(error):
  def work():
    raise error

  return work


@pytest.mark.parametrize(
  ("error", "code", "said"),
  [
    (SophiaError("a:1: no\nway"), 1, "error: a:1: no way"),
    (KeyboardInterrupt(), 130, "interrupted; nothing is written"),
    (ValueError("odd"), faults.CODE, "error: ValueError: odd; this is a fault"),
  ],
)
def test_exit_codes(error, code, said, capsys, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert commands.run(raising(error)) == code
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(said)
