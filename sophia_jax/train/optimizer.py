"""AdamW and its learning-rate schedules; cosine as in the paper (App. B.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, Float

from sophia_jax.train.state import Params
from sophia_jax.types import quoted


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of AdamW and of its learning rate."""

  learning_rate: float = 2e-5
  """Largest learning rate."""
  schedule: str = "cosine"
  """Key of SCHEDULES."""
  final_fraction: float = 0.25
  """Fraction of the learning rate at which the cosine ends."""
  warmup_steps: int = 0
  """Updates of linear warm-up."""
  weight_decay: float = 0.05
  """Weight decay of AdamW."""
  b1: float = 0.9
  """Decay of AdamW's first moment."""
  b2: float = 0.999
  """Decay of AdamW's second moment."""
  clip_norm: float = 1.0
  """Largest norm of the whole gradient."""

  def __post_init__(self) -> None:
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f"schedule is {quoted(self.schedule)}; use one of {', '.join(SCHEDULES)}"
      )
    for name in ("learning_rate", "final_fraction", "weight_decay"):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f"{name} is {getattr(self, name)}; use 0 or more")
    for name in ("b1", "b2"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 0 to below 1")
    if not self.clip_norm > 0:
      raise ValueError(f"clip_norm is {self.clip_norm}; use more than 0")


def _cosine(config: OptimizerConfig, updates: int) -> optax.Schedule:
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if config.warmup_steps else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=max(updates, config.warmup_steps + 1),
    end_value=config.final_fraction * config.learning_rate,
  )


def _constant(config: OptimizerConfig, updates: int) -> optax.Schedule:
  return optax.warmup_constant_schedule(
    init_value=0.0 if config.warmup_steps else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
  )


SCHEDULES: dict[str, Callable[[OptimizerConfig, int], optax.Schedule]] = {
  "cosine": _cosine,
  "constant": _constant,
}


def schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
  """Returns the learning rate by the number of updates made before.

  Args:
    updates: updates of the whole run; "constant" needs none.
  """
  return SCHEDULES[config.schedule](config, updates)


def decayed(params: Params) -> Params:
  """Selects what weight decay reaches: matrices, no norms, biases or scales."""
  matrices = ("kernel", "embedding", "head", "a", "b")
  is_matrix = lambda path, _: path[-1].key in matrices
  return jax.tree_util.tree_map_with_path(is_matrix, params)


def make_optimizer(
  config: OptimizerConfig, updates: int
) -> optax.GradientTransformation:
  """Returns the optimizer of a run of `updates` updates."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      schedule(config, updates),
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=decayed,
    ),
  )


def learning_rate(
  config: OptimizerConfig, updates: int
) -> Callable[[optax.OptState], Float[Array, ""]]:
  """Returns a function of the optimizer's state: its next learning rate."""
  rate = schedule(config, updates)

  def of(state: optax.OptState) -> Float[Array, ""]:
    counts = optax.tree_utils.tree_get_all_with_path(state, "count")
    return jax.numpy.asarray(rate(counts[-1][1]), "float32")

  return of
