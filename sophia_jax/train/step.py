"""The update: one pure function of (state, batch). It fits on one screen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sophia_jax.algorithms.legacy.losses import Term
from sophia_jax.train.state import Params, TrainState
from sophia_jax.types import Batch

Metrics = dict[str, Float[Array, ""]]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def response_logps(
  model: nn.Module, params: Params, batch: Batch, block: int
) -> Float[Array, "B T"]:
  """log p(targets) of packed rows, teacher-forced; 0 if a target is -1."""
  apply: Any = functools.partial(model.apply, {"params": params})
  shown = "vision" in params and len(batch.tiles) > 0
  embeds = apply(batch.tiles, method="encode") if shown else None
  hidden = apply(
    batch.tokens, batch.segment_ids, batch.positions, batch.tile_slots, embeds
  )
  return apply(hidden, batch.targets, block, method="token_logps")


def learnt_only(batch: Batch, terms: Sequence[Term]) -> Batch:
  """The batch without the targets that no term weighs: they become -1."""
  weighed = jnp.stack([batch.streams[t.weights] != 0 for t in terms])
  targets = jnp.where(jnp.any(weighed, axis=0), batch.targets, -1)
  return dataclasses.replace(batch, targets=targets)


def work(batch: Batch) -> Metrics:
  """What a batch asks of the model: the terms of models.flops.Work."""
  live = batch.segment_ids > 0
  shown = jnp.max(batch.tile_slots, axis=(1, 2)) + 1  # of each microbatch
  return {
    "fill_rate": jnp.mean(live),
    "pairs": jnp.sum(jnp.where(live, batch.positions + 1.0, 0.0)),
    "image_tokens": jnp.sum(shown),
  }


def make_train_step(
  model: nn.Module,
  terms: Sequence[Term],
  tx: optax.GradientTransformation,
  layout: TrainState,
  block: int = 1024,
) -> StepFn:
  """Builds (state, batch) -> (state, metrics); batch fields are [A, B, T].

  The A microbatches are accumulated. Every term is divided by its count over
  the whole step, so A changes memory and nothing else.

  Args:
    layout: where the state lies (`state.layout`). Gradients and their sum lie
      as their parameters do: left alone, XLA keeps them whole on every device.
  """

  def objective(params: Params, frozen: Params, batch: Batch, counts: Metrics):
    asked = learnt_only(batch, terms)
    logps = response_logps(model, {**params, **frozen}, asked, block)
    sums = {
      t.name: jnp.sum(batch.streams[t.weights] * t.loss(logps, batch.streams))
      / counts[t.name]
      for t in terms
    }
    learnt = batch.streams[terms[0].weights] > 0
    logp = jnp.sum(logps * learnt) / counts["tokens"]
    loss = sum(sums.values())
    return loss, {**sums, "loss": loss, "logp": logp}

  def laid_out(grads: Params) -> Params:
    return jax.lax.with_sharding_constraint(grads, layout.params)

  def train_step(state: TrainState, batch: Batch):
    counts = {t.name: jnp.sum(batch.streams[t.normaliser]) for t in terms}
    counts["tokens"] = jnp.sum(batch.streams[terms[0].weights] > 0)
    counts = jax.tree.map(lambda n: jnp.maximum(n, 1e-9), counts)
    gradient = jax.grad(objective, has_aux=True)

    def accumulate(total, micro: Batch):
      part = gradient(state.params, state.frozen, micro, counts)
      grads, metrics = jax.tree.map(jnp.add, total, part)
      return (laid_out(grads), metrics), None

    first = jax.tree.map(lambda x: x[0], batch)
    shapes = jax.eval_shape(gradient, state.params, state.frozen, first, counts)
    zeros, none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = laid_out(zeros), none
    (grads, metrics), _ = jax.lax.scan(accumulate, start, batch)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics["grad_norm"] = optax.global_norm(grads)
    metrics |= work(batch) | {"tokens": counts["tokens"]}
    params = optax.apply_updates(state.params, updates)
    new = dataclasses.replace(
      state, step=state.step + 1, params=params, opt_state=opt_state
    )
    return new, metrics

  return train_step


def jit_train_step(step: StepFn, layout: TrainState) -> jax.stages.Wrapped:
  """Compiles once: the new state takes the place and the layout of the old."""
  return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
