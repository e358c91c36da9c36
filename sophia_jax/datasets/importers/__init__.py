"""Data sets as they are published -> problems or instruction examples.

  python -m sophia_jax.datasets import --from=mathvision SRC DST.jsonl

One small module a data set; its docstring says where the data comes from,
under which licence, how it must lie on disk and what it gives. Nothing is
downloaded here.

Each row is right, left out for a reason, or broken. Broken ones are listed as
FILE:LINE: what; remedy. The rest is written, or nothing with --strict. What is
written keeps the rules of the check: image-token strings, control
characters and lone surrogates make a row broken; long text does not.
"""

from __future__ import annotations

import importlib

from sophia_jax.config import nearest
from sophia_jax.datasets.importers.base import Importer
from sophia_jax.types import SophiaError

IMPORTERS = {
  name: f"{__name__}.{name}"
  for name in (
    "amc_aime",
    "chat",
    "columns",
    "dynamath",
    "internvl",
    "math",
    "mathv360k",
    "mathverse",
    "mathverse_all",
    "mathvision",
    "mathvista",
    "mmmu",
    "mmmu_pro",
    "mv_math",
    "numinamath",
    "olympiadbench",
    "rlaif_v",
    "seed_bench_r1",
    "seed_bench_r1_train",
    "verl",
    "wildvision",
  )
}
"""Name of a data set -> its module, imported on demand."""


ALIASES = {
  "easyr1": "columns",
  "llava": "chat",
  "ms_swift": "chat",
  "sharegpt": "chat",
}
"""Names of shapes that another importer reads."""


def find_importer(name: str) -> Importer:
  """Returns the importer called `name`; "mv-math" is "mv_math".

  Raises:
    SophiaError: there is none; the nearest and all names are given.
  """
  key = name.lower().replace("-", "_")
  module = IMPORTERS.get(ALIASES.get(key, key))
  if module is None:
    hint = nearest(name, [*IMPORTERS, *ALIASES])
    known = ", ".join(sorted([*IMPORTERS, *ALIASES]))
    if known not in hint:
      hint = f"{hint} Known: {known}"
    raise SophiaError(f"--from={name}: no such data set; {hint}")
  return importlib.import_module(module).IMPORTER
