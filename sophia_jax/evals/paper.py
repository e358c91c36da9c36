"""The paper's results, shown beside an evaluation.

Source: SOPHIA, arXiv 2507.16814, main table: pass@1 in percent, zero-shot,
temperature 1.0, top-p 0.8, 16,384 new tokens, answers extracted by an LLM and,
for MMMU, MathVerse and MV-MATH, judged by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

NAMES = (
  "mmmu",
  "mmmu_pro",
  "mathvista",
  "mathverse",
  "dynamath",
  "mathvision",
  "mv_math",
  "olympiadbench",
)
SETTINGS = {"temperature": 1.0, "top_p": 0.8, "max_new_tokens": 16384}

RESULTS: Mapping[str, tuple[float, ...]] = {
  "InternVL2.5-38B": (61.22, 42.14, 69.50, 37.44, 52.95, 31.32, 27.08, 23.06),
  "InternVL2.5-38B + SOPHIA": (66.33, 49.65, 74.70, 45.30, 63.13, 47.96, 35.94, 49.22),
  "InternVL3-38B": (69.33, 46.47, 72.20, 42.13, 60.72, 32.93, 26.78, 25.50),
  "InternVL3-38B + MPO": (69.33, 49.08, 74.60, 45.18, 65.65, 35.39, 27.87, 29.01),
  "InternVL3-38B + GRPO": (66.67, 49.88, 75.00, 43.02, 68.22, 42.23, 29.82, 32.96),
  "InternVL3-38B + SOPHIA": (69.00, 52.60, 75.20, 47.46, 65.33, 49.08, 35.44, 49.95),
  "InternVL3-38B + SOPHIA + GRPO": (70.22, 56.59, 76.60, 49.11, 65.87, 50.40, 37.63, 51.79),
  "InternVL3-8B": (51.11, 33.99, 67.80, 33.12, 47.34, 25.66, 21.95, 19.40),
  "InternVL3-8B + SOPHIA": (60.67, 38.27, 64.40, 35.91, 55.39, 37.89, 26.48, 38.67),
}  # fmt: skip
"""Percentages of each model, in the order of NAMES."""

_MODEL = re.compile(
  r"internvl[_-]?(?P<generation>2[_.]5|3(?:[_.]0)?)[_-](?P<size>\d+b)"
  r"(?:-hf|-instruct)*",
  re.IGNORECASE,
)


class Row(NamedTuple):
  """A model's result in the paper."""

  model: str
  value: float
  """pass@1 in [0, 1]."""
  same: bool
  """Whether the evaluated model has the same name."""


def rows(benchmark: str, model: str) -> list[Row]:
  """Returns the paper's rows of a benchmark; none where it has none.

  Args:
    model: the name of the checkpoint's directory. "InternVL2_5-38B" is the
      paper's InternVL2.5-38B; a longer name (MPO, a fine-tune) or another one
      ("export") is no model of the paper, and all rows are references.
  """
  if benchmark not in NAMES:
    return []
  column = NAMES.index(benchmark)
  own = known(model)
  return [
    Row(name, values[column] / 100, name == own)
    for name, values in RESULTS.items()
  ]


def known(model: str) -> str | None:
  """Returns the paper's name of a model, or None if the paper lacks it."""
  match = _MODEL.fullmatch(model)
  if match is None:
    return None
  generation = match["generation"].replace("_", ".").removesuffix(".0")
  name = f"InternVL{generation}-{match['size'].upper()}"
  return name if name in RESULTS else None


def differences(settings: Mapping[str, float]) -> list[str]:
  """Lists the sampling settings that differ from the paper's."""
  return [
    f"{key} {settings[key]:g} (paper: {theirs:g})"
    for key, theirs in SETTINGS.items()
    if settings[key] != theirs
  ]
