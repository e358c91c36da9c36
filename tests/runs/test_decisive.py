"""Which config fields decide results: whoever adds a field must say so here."""

import dataclasses

import pytest

from sophia_jax.config import FREE, decisive
from sophia_jax.runs.policies import ReasonerConfig, RuntimeConfig
from sophia_jax.runs.stage import StageConfig
from sophia_jax.train.session import TrainConfig

DECIDE = {
  RuntimeConfig: ["dtype", "param_dtype"],
  ReasonerConfig: [],
  StageConfig: [
    *("algorithm", "model", "sampler", "rounds", "groups", "draws"),
    *("minibatches", "ahead", "correction", "correction_high"),
  ],
  TrainConfig: [
    *("learning_rate", "schedule", "final_fraction", "warmup_steps"),
    *("weight_decay", "b1", "b2", "clip_norm"),
    *("trained", "lora_rank", "lora_alpha", "lora_targets"),
    *("epochs", "updates", "order", "rows", "length", "tiles"),
    "microbatches",
  ],
}


@pytest.mark.parametrize("config", DECIDE)
def test_every_field_is_decisive_or_free(config):
  fields = [f for f in dataclasses.fields(config) if FREE not in f.metadata]
  assert [f.name for f in fields] == DECIDE[config]


def test_only_decisive_fields_are_compared():
  one = TrainConfig(learning_rate=1.0, log_every=1, keep=1)
  two = TrainConfig(learning_rate=1.0, log_every=2, keep=9)
  assert decisive(one) == decisive(two)
  assert decisive(one) != decisive(TrainConfig(learning_rate=2.0))
