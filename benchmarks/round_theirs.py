"""Their side of benchmarks.round: TRL in a process of another environment."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax

from benchmarks.round_task import Task
from sophia_jax.servers import environments
from sophia_jax.servers.backends.base import Packages, Platform
from sophia_jax.types import SophiaError

HERE = Path(__file__).parent


class TRL:
  """The environment of TRL's GRPOTrainer."""

  name = "trl"
  pythons = ("3.11", "3.12", "3.13")

  def packages(self, platform: Platform) -> tuple[Packages, ...]:
    del platform
    return (
      Packages(HERE / "round_trl.txt"),
      Packages(HERE / "round_trl_no_deps.txt", ("--no-deps",)),
    )

  def finish_install(self, python: Path, platform: Platform) -> None:
    del python, platform


class Theirs:
  """TRL in a process that waits between its rounds.

  Raises:
    SophiaError: it ended, or its prompts are not ours.
  """

  def __init__(
    self, task: Task, prompt: Sequence[int], log: Path, omp_wait: str
  ):
    """Prepares the process.

    Args:
      prompt: ids of the first question's prompt, which TRL must render too.
      log: file for what its libraries print.
      omp_wait: OMP_WAIT_POLICY of its threads.
    """
    platform: Platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    python = environments.python_of(TRL(), platform)
    self._prompt, self._path = list(prompt), log
    self._omp_wait = omp_wait
    self._command = [
      str(python),
      str(HERE / "round_trl.py"),
      json.dumps(dataclasses.asdict(task)),
    ]

  def __enter__(self) -> Self:
    with open(self._path, "wb") as log:
      self._process = subprocess.Popen(
        self._command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={
          **os.environ,
          "HF_HUB_OFFLINE": "1",
          "OMP_WAIT_POLICY": self._omp_wait,
        },
      )
    return self

  def __exit__(self, *error: Any) -> None:
    self._process.communicate()  # no more lines: it ends

  def __call__(self) -> dict[str, float]:
    assert self._process.stdin and self._process.stdout
    try:
      self._process.stdin.write("\n")
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # the empty answer says so
    line = self._process.stdout.readline()
    if not line:
      text = self._path.read_text(errors="replace").strip()
      raise SophiaError("TRL ended: " + text.rpartition("\n")[2])
    found = json.loads(line)
    if found.pop("prompt_ids") != self._prompt:
      raise SophiaError("TRL's prompts are not ours: other ids")
    return found
