"""The stores of a workdir as the browser shows them, from its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sophia_jax.data.images import ImageConfig
from sophia_jax.evals.browser.table import Place
from sophia_jax.rollout.store import HEADER
from sophia_jax.runs import saved
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import CONFIG, UPDATES, Run
from sophia_jax.runs.stage import Stage
from sophia_jax.types import SophiaError

FACTS = ("alpha", "keep_n", "random", "no_caption_reward")
"""Settings of a method that its selection is explained by."""


class Workdir:
  """A workdir, perhaps of a run in flight; only read.

  A config of another version of the code costs what needs it: the selection,
  the problems' texts.

  Raises:
    SophiaError: there is no such directory, or it has neither a config nor a
      store.
  """

  def __init__(self, path: str, letter: str):
    self.path, self.letter = Path(path).absolute(), letter
    self.notes: list[str] = []
    """Sentences that say what could not be read, and what it costs."""
    self._stages: dict[str, Stage] = {}
    self._run: Run | None = None
    if not self.path.is_dir():
      raise SophiaError(f"{path}: no such workdir; give one of launch.run")
    if (self.path / CONFIG).is_file():
      self._read()
    elif not any(self._directories()):
      raise SophiaError(
        f"{path}: neither {CONFIG} nor a store there; give the workdir of a run"
      )

  def _read(self) -> None:
    try:
      self._run = Run(saved.get_config(str(self.path / CONFIG)), str(self.path))
    except (SophiaError, OSError) as e:
      self.notes.append(f"{self.path.name}: {e}")
      return
    for name in self._run.config.order:
      try:
        self._stages[name] = stages.read(self._run.config, name)
      except SophiaError as e:
        self.notes.append(f"{self.path.name}: no selection of {name}: {e}")

  @property
  def images(self) -> ImageConfig:
    """How the policy's images are tiled."""
    if self._run is None:
      return ImageConfig()
    try:
      return self._run.section(ImageConfig, "images")
    except (SophiaError, KeyError):
      return ImageConfig()

  @property
  def config(self) -> Mapping[str, Any]:
    return self._run.config.to_dict() if self._run else {}

  # --------------------------------------------------------------------- stores
  def places(self) -> Iterator[Place]:
    """Yields the stores that are there now."""
    for directory in self._directories():
      inside = directory.relative_to(self.path)
      name = self._stage_of(inside)
      stage = self._stages.get(name)
      number = inside.parts[-1]
      yield Place(
        name=f"{self.letter}/{inside}",
        directory=directory,
        stage=name,
        round=int(number) if number.isdecimal() else 0,
        seed=self._run.seed if self._run else 0,
        algorithm=stage.algorithm if stage else None,
        data=self._data(stage),
        facts=_facts(stage),
        rounds=number.isdecimal(),
      )

  def _directories(self) -> Iterator[Path]:
    patterns = (
      "trajectories",
      "*/trajectories",
      "rounds/*",
      "*/rounds/*",
      f"{UPDATES}/*/rounds/*",
    )
    for pattern in patterns:
      for header in sorted(self.path.glob(f"{pattern}/{HEADER}")):
        yield header.parent

  def _stage_of(self, inside: Path) -> str:
    """Returns the name of the stage whose store is in a directory of the
    workdir."""
    if len(inside.parts) > 1 and inside.parts[0] in self._stages:
      return inside.parts[0]
    sampling = [s for s in self._stages.values() if s.samples]
    if inside.parts[-1] == "trajectories":
      sampling = [s for s in sampling if s.config.rounds == 1][:1]
    else:
      sampling = [s for s in sampling if s.config.rounds > 1][-1:]
    return sampling[0].name if sampling else ""

  def _data(self, stage: Stage | None) -> Path | None:
    if stage is None or self._run is None:
      return None
    name = stage.config.data or self._run.config.data.problems
    return self._run.path(name) if name else None

  # ---------------------------------------------------------------- beside them
  def tokenizers(self) -> dict[str, Path]:
    """Returns the tokenizer of each role whose model is there."""
    if self._run is None:
      return {}
    config = self._run.config
    policy = self._run.path(config.policy.path)
    found = {"policy": policy, "caption": policy}
    for values in config.reasoners.values():
      found.setdefault("reasoner", self._run.path(values.path))
    files = {role: path / "tokenizer.json" for role, path in found.items()}
    return {role: path for role, path in files.items() if path.is_file()}

  def metrics(self) -> dict[str, Path]:
    """Returns the metrics files of the workdir by stage."""
    found = {}
    for path in sorted(self.path.glob("*/metrics.jsonl")):
      found[path.parent.name] = path
    for path in sorted(self.path.glob(f"{UPDATES}/*/metrics.jsonl")):
      found[f"{UPDATES}/{path.parent.name}"] = path
    own = self.path / "metrics.jsonl"
    if own.is_file():
      order = list(self._stages)
      found[order[-1] if order else "run"] = own
    return found


def _facts(stage: Stage | None) -> tuple[tuple[str, str], ...]:
  if stage is None:
    return ()
  names = {f.name for f in dataclasses.fields(stage.method)}
  return tuple(
    (name, str(getattr(stage.method, name))) for name in FACTS if name in names
  )
