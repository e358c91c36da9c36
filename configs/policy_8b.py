"""InternVL3-8B that learns from its own samples: what the methods share.

The settings of a method are those of its paper; the policy, the context of
16,384 new tokens and the optimizer's other settings are SOPHIA's (arXiv
2507.16814, App. B.1 and B.2).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import internvl3_8b
from configs.internvl3_8b import TILES
from sophia_jax.runs.stage import stage

TRAIN = {
  "rows": 8,
  "tiles": 8 * TILES,
  "length": 32768,
  "block": 1024,
  "learning_rate": 1e-6,
  "schedule": "constant",
  "log_every": 1,
}
"""Optimizer and shape of an update; rows of a topology replace these."""


def run_of(algorithm: str, **values: Any) -> ConfigDict:
  """Returns a run of one stage.

  Args:
    algorithm: name in `algorithms.registry.ALGORITHMS`.
    values: as for `stage`; `train` is merged into TRAIN.
  """
  c = internvl3_8b.get_config()
  c.reasoners = ConfigDict()
  c.answering.max_new_tokens = 16384
  train = {**TRAIN, **values.pop("train", {})}
  c.stages = {algorithm: stage(algorithm, train=train, **values)}
  c.order = (algorithm,)
  return c
