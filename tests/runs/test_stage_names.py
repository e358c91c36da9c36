"""Names of stages are names of folders and steps, so some are taken."""

import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from sophia_jax.runs.run import Run
from sophia_jax.types import SophiaError

CONFIGS = sorted(
  str(path.with_suffix("")).replace("/", ".")
  for folder in ("configs", "configs/digits")
  for path in Path(folder).glob("*.py")
  if path.stem != "__init__"
)


@pytest.mark.parametrize("name", ["data", "vision", "rounds", "after", "a b"])
def test_a_stage_that_another_thing_is_called_after_is_refused(name, tmp_path):
  config = ConfigDict({"seed": 0, "order": (name,)})
  config.stages = {name: {}}
  with pytest.raises(SophiaError, match="cannot name a stage") as caught:
    Run(config, str(tmp_path)).check_order()
  assert "\n" not in str(caught.value)


def test_ours_are_not(tmp_path):
  for module in CONFIGS:
    made = importlib.import_module(module)
    if not hasattr(made, "get_config"):
      continue
    config = made.get_config()
    if config.get("order"):
      Run(config, str(tmp_path)).check_order()
