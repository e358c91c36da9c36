"""W/report.json for programs and W/report.html for people.

The page is one file that needs no network and no script. Texts of models are
hostile: the template escapes them, they are cut to a length, and characters that
cannot be encoded or that reorder text are replaced.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from sophia_jax.data.images import open_image
from sophia_jax.evals import charts
from sophia_jax.files import write_text
from sophia_jax.types import (
  Group,
  Problem,
  Rollout,
  SophiaError,
  Status,
  Verdict,
)

TEXT_CHARS = 2500
"""Longest text of a model that is shown, characters."""
IMAGE_SIDE = 512
"""Longest side of an image, pixels."""
_UNSHOWABLE = re.compile(
  "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True, kw_only=True)
class Answer:
  """Answers of the policy to a held-out problem, before and after training."""

  problem: Problem
  before: tuple[str, Verdict]
  """Response and verdict of the policy before training."""
  after: tuple[str, Verdict]
  """Response and verdict of the policy after training."""


@dataclass(frozen=True, kw_only=True)
class Samples:
  """Contents of the page besides the numbers of report.json."""

  groups: Sequence[Group] = ()
  """The few problems to show in full."""
  selected: Container[str] = ()
  """Ids of the trajectories that were selected for training."""
  answers: Sequence[Answer] = ()
  caption_rewards: Sequence[float] = ()
  """Reward of every caption of the run (`tally`)."""
  lengths: Mapping[str, Sequence[int]] | None = None
  """Lengths of the trajectories that are "all", "right" and "selected", tokens."""
  alpha: float | None = None
  """Threshold of caption rewards, shown in their histogram."""


@dataclass(frozen=True, kw_only=True)
class Tally:
  """`counts` and `caption_reward_mean` of report.json, and the plotted values."""

  counts: dict[str, Any]
  caption_reward_mean: float
  caption_rewards: tuple[float, ...]
  lengths: dict[str, tuple[int, ...]]


def tally(groups: Iterable[Group], selected: Container[str]) -> Tally:
  """Counts what was sampled; a caption's R(c) is its "accuracy" (Eq. 5)."""
  status: Counter[str] = Counter({s.value: 0 for s in Status})
  rewards: list[float] = []
  lengths: dict[str, list[int]] = {"all": [], "right": [], "selected": []}
  problems = 0
  for group in groups:
    problems += 1
    for caption, row in branches(group):
      if caption is not None:
        rewards.append(_caption_reward(caption))
      for trajectory in row:
        assert trajectory.verdict is not None
        status[trajectory.verdict.status.value] += 1
        lengths["all"].append(trajectory.length)
        if trajectory.verdict.status is Status.RIGHT:
          lengths["right"].append(trajectory.length)
        if trajectory.id in selected:
          lengths["selected"].append(trajectory.length)
  return Tally(
    counts={
      "problems": problems,
      "captions": len(rewards),
      "trajectories": len(lengths["all"]),
      "selected": len(lengths["selected"]),
      "status": dict(status),
    },
    caption_reward_mean=math.fsum(rewards) / len(rewards) if rewards else 0.0,
    caption_rewards=tuple(rewards),
    lengths={name: tuple(values) for name, values in lengths.items()},
  )


def branches(
  group: Group,
) -> list[tuple[Rollout | None, tuple[Rollout, ...]]]:
  """Returns the graded rollouts of a group by the caption they were built on;
  None: on no caption."""
  captions = [r for r in group.depth(1) if r.verdict is None]
  if not captions:
    return [(None, group.rollouts)]
  return [(caption, group.children(caption.path)) for caption in captions]


def write_report(
  workdir: str | os.PathLike[str],
  report: Mapping[str, Any],
  curves: Mapping[str, Sequence[tuple[float, float]]],
  samples: Samples,
) -> Path:
  """Writes report.json and report.html; returns the path of the page.

  Args:
    report: at least the keys that `validate` checks. "pass_at_1" holds null for
      what is not measured; "title" heads the page;
      "comparison" ({"gained", "lost", "p"}) is shown under the scores.
    curves: stage -> (step, loss) points, in the order of the stages.

  Raises:
    SophiaError: the report lacks a key, or `workdir` cannot be written.
  """
  plain = to_plain(report)
  validate(plain)
  folder = Path(workdir)
  page = render(plain, curves, samples)
  write_text(folder / "report.json", json.dumps(plain, indent=2) + "\n")
  write_text(folder / "report.html", page)
  return folder / "report.html"


def validate(report: Mapping[str, Any]) -> None:
  """Checks the keys that scripts rely on.

  Raises:
    SophiaError: a key is absent or has another form; the first is named.
  """
  _number(report, "seed")
  for when in ("before", "after"):
    where = f"pass_at_1.{when}"
    if _look_up(report, where) is None:
      continue  # not measured
    low, value, high = (
      _number(report, f"{where}.{key}") for key in ("low", "value", "high")
    )
    if not 0 <= low <= value <= high <= 1:
      raise SophiaError(
        f"report: {where}: needs 0 <= low <= value <= high <= 1"
      )
    _number(report, f"{where}.n")
  for key in ("problems", "captions", "trajectories", "selected"):
    _number(report, f"counts.{key}")
  _number(report, "caption_reward_mean")
  for path in ("counts.status", "seconds"):
    for key, value in _mapping(report, path).items():
      _finite(value, f"{path}.{key}")
  _mapping(report, "versions")
  _mapping(report, "config")


def render(
  report: Mapping[str, Any],
  curves: Mapping[str, Sequence[tuple[float, float]]],
  samples: Samples,
) -> str:
  """Returns the page as text that UTF-8 can encode."""
  template = environment().get_template("report.html.jinja")
  lengths = samples.lengths or {}
  longest = max((max(v) for v in lengths.values() if v), default=0)
  status = report["counts"]["status"]
  page = template.render(
    report=report,
    samples=samples,
    curves=[charts.line(name, tuple(p)) for name, p in curves.items()],
    rewards=charts.levels("caption reward", samples.caption_rewards),
    lengths=[
      charts.histogram(name, values, low=0, high=longest * 1.001)
      for name, values in lengths.items()
    ],
    status_total=max(1, sum(status.values())),
    total_seconds=max(1e-9, sum(report["seconds"].values())),
    settings=list(flatten(report["config"])),
    caption_reward=_caption_reward,
    branches=branches,
    above=_share_above(samples),
    open_captions=lambda group: _open_captions(group, samples.selected),
  )
  return clean(page)


def environment() -> jinja2.Environment:
  """Returns the environment of the pages' templates, which escape all values."""
  templates = jinja2.Environment(
    loader=jinja2.PackageLoader("sophia_jax.evals", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  templates.filters["clip"] = clip
  templates.filters["number"] = charts.number
  templates.filters["duration"] = duration
  templates.filters["image"] = image_uri
  return templates


# ----------------------------------------------------------- values on the page
def clip(text: str, limit: int = TEXT_CHARS) -> dict[str, Any]:
  """Returns {"text", "cut"}: at most `limit` characters, and the number left out."""
  return {"text": text[:limit], "cut": max(0, len(text) - limit)}


def clean(text: str) -> str:
  """Replaces surrogates, control and text-reordering characters."""
  return _UNSHOWABLE.sub("\ufffd", text)


def duration(seconds: float) -> str:
  """Formats 12.3 as "12 s", 754 as "12 min 34 s", 7260 as "2 h 1 min"."""
  if seconds < 10:
    return f"{seconds:.1f} s"
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s"
  return f"{whole // 3600} h {whole % 3600 // 60} min"


def image_uri(path: str) -> str | None:
  """Returns a small PNG of what a model sees, as a data URI.

  None if it cannot be read.
  """
  try:
    small = open_image(path, at_least=IMAGE_SIDE)
  except SophiaError:
    return None
  small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
  data = io.BytesIO()
  small.save(data, "PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def flatten(
  values: Mapping[str, Any], prefix: str = ""
) -> Iterable[tuple[str, str]]:
  """Yields ("train.learning_rate", "2e-05"), ... of a nested mapping."""
  for key, value in values.items():
    if isinstance(value, Mapping) and value:
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def to_plain(value: Any) -> Any:
  """Converts to JSON values: numpy scalars unpacked, nan and inf null."""
  if isinstance(value, Mapping):
    return {str(k): to_plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple, set, frozenset)):
    return [to_plain(v) for v in value]
  if isinstance(value, (np.generic, np.ndarray)):
    return to_plain(value.tolist())
  if isinstance(value, float):
    return float(value) if math.isfinite(value) else None
  if value is None or isinstance(value, (bool, int, str)):
    return value
  return str(value)


# --------------------------------------------------------------------- internals
def _share_above(samples: Samples) -> float:
  """Returns the share of captions whose reward is above alpha."""
  if samples.alpha is None or not samples.caption_rewards:
    return 0.0
  above = sum(r > samples.alpha for r in samples.caption_rewards)
  return above / len(samples.caption_rewards)


def _caption_reward(caption: Rollout) -> float:
  reward = caption.rewards["accuracy"]
  assert isinstance(reward, float)
  return reward


def _open_captions(
  group: Group, selected: Container[str]
) -> set[tuple[int, ...]]:
  """Returns the paths of captions that are shown unfolded: those of selected
  trajectories, or the first."""
  chosen = {r.path[:-1] for r in group.rollouts if r.id in selected}
  return chosen or {(0,)}


def _look_up(report: Mapping[str, Any], path: str) -> Any:
  value: Any = report
  for key in path.split("."):
    if not isinstance(value, Mapping) or key not in value:
      raise SophiaError(f"report: {path} is missing")
    value = value[key]
  return value


def _number(report: Mapping[str, Any], path: str) -> float:
  return _finite(_look_up(report, path), path)


def _finite(value: Any, path: str) -> float:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    raise SophiaError(f"report: {path} is {value!r}, not a finite number")
  return value


def _mapping(report: Mapping[str, Any], path: str) -> Mapping[str, Any]:
  value = _look_up(report, path)
  if not isinstance(value, Mapping):
    raise SophiaError(f"report: {path} is {value!r}, not a mapping")
  return value
