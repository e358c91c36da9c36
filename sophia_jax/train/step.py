"""The update: pure functions of arrays, each compiled once.

An update takes as many microbatches as its sequences need, so it is several
programs of fixed shape: `count` adds up the normalisers of all microbatches,
`accumulate` adds the gradient of one, `apply` moves the parameters. Every term is
divided by its normaliser over the whole update: neither packing, nor the number
of microbatches, nor the mesh changes its value.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sophia_jax.algorithms.contract import Algorithm, Forward, Moment, Term
from sophia_jax.train import outputs
from sophia_jax.train.state import Params, TrainState
from sophia_jax.types import Batch

Metrics = dict[str, Float[Array, ""]]
Tokens = dict[str, Float[Array, "B T"]]
"""Values of the watched terms at the targets of a microbatch."""


class Sums(NamedTuple):
  """Sums and maxima over the microbatches so far."""

  gradient: Params
  metrics: Metrics
  maxima: Metrics


class Scalars(NamedTuple):
  """Numbers of an update that the host computes; traced, so none recompiles."""

  coefficients: dict[str, float]
  """c of each term."""
  numbers: dict[str, float]
  """Constant streams of the algorithm."""


Rate = Callable[[optax.OptState], Float[Array, ""]]

WORK = ("microbatches", "places", "live", "pairs", "image_tokens")


class Step:
  """The compiled programs of an update."""

  def __init__(
    self,
    model: nn.Module,
    algorithm: Algorithm,
    tx: optax.GradientTransformation,
    layout: TrainState,
    block: int = 1024,
    rate: Rate | None = None,
    watched: Sequence[Term] = (),
  ):
    """Builds the programs; the first call of each compiles it.

    Args:
      algorithm: its terms are learnt, its metrics are reported.
      layout: where the state lies (`state.layout`). Gradients and their sum lie
        as their parameters do: left alone, XLA keeps them whole on every device.
      block: tokens of a row whose logits exist at the same time.
      rate: the learning rate by the optimizer's state, for the metrics.
      watched: terms whose values are returned target by target.
    """
    outputs.check(algorithm.outputs)
    self._model, self._block = model, block
    self._algorithm = algorithm
    self._tx, self._rate, self._watched = tx, rate, watched
    self._layout = layout
    # Frozen parts do not pass through: they would be copied.
    bare = dataclasses.replace(layout, frozen={})
    sums = Sums(layout.params, None, None)  # type: ignore[arg-type]
    self.start = jax.jit(self._start, out_shardings=(None, sums))
    self.count = jax.jit(self._count, donate_argnums=0)
    self.accumulate = jax.jit(
      self._accumulate, donate_argnums=0, out_shardings=(sums, None)
    )
    self.apply = jax.jit(
      self._apply, donate_argnums=0, out_shardings=(bare, None)
    )

  def __call__(
    self,
    state: TrainState,
    microbatches: Sequence[Batch],
    scalars: Scalars,
  ) -> tuple[TrainState, Metrics, list[Tokens]]:
    """Makes one update of any number of microbatches; `state` is donated.

    Returns:
      The new state, the metrics, and the watched values of each microbatch.
    """
    counts, sums = self.start(state.params)
    counts = functools.reduce(self.count, microbatches, counts)
    tokens: list[Tokens] = []
    for micro in microbatches:
      sums, seen = self.accumulate(
        sums, state.params, state.frozen, micro, counts, scalars
      )
      tokens.append(seen)
    bare = dataclasses.replace(state, frozen={})
    new, metrics = self.apply(bare, sums, counts)
    return dataclasses.replace(new, frozen=state.frozen), metrics, tokens

  # ---------------------------------------------------------------- the programs
  def _start(self, params: Params) -> tuple[Metrics, Sums]:
    """Makes the counts and sums of no microbatch."""
    terms = (*self._algorithm.terms, *self._algorithm.metrics)
    zeros = lambda names: {name: jnp.zeros(()) for name in names}
    counts = zeros([*(t.normaliser for t in terms), "tokens"])
    return counts, Sums(
      gradient=jax.tree.map(jnp.zeros_like, params),
      metrics=zeros([*(t.name for t in terms), "loss", "logp", *WORK]),
      maxima={t.name: -jnp.inf * jnp.ones(()) for t in self._algorithm.maxima},
    )

  def _count(self, counts: Metrics, batch: Batch) -> Metrics:
    """Adds the normalisers of a microbatch, and the targets it learns."""
    found = {n: jnp.sum(batch.streams[n]) for n in counts.keys() - {"tokens"}}
    found["tokens"] = jnp.sum(learnt(batch, self._algorithm.terms))
    return jax.tree.map(jnp.add, counts, found)

  def _accumulate(
    self,
    sums: Sums,
    params: Params,
    frozen: Params,
    batch: Batch,
    counts: Metrics,
    scalars: Scalars,
  ) -> tuple[Sums, Tokens]:
    """Adds the gradient and the metrics of a microbatch; returns its watched
    values beside them."""
    counts = jax.tree.map(lambda n: jnp.maximum(n, 1e-9), counts)
    gradient = jax.grad(self._objective, has_aux=True)
    grads, (metrics, maxima, tokens) = gradient(
      params, frozen, batch, counts, Scalars(*scalars)
    )
    grads, metrics = jax.tree.map(jnp.add, sums[:2], (grads, metrics))
    grads = jax.lax.with_sharding_constraint(grads, self._layout.params)
    maxima = jax.tree.map(jnp.maximum, sums.maxima, maxima)
    return Sums(grads, metrics, maxima), tokens

  def _objective(
    self,
    params: Params,
    frozen: Params,
    batch: Batch,
    counts: Metrics,
    scalars: Scalars,
  ) -> tuple[Float[Array, ""], tuple[Metrics, Metrics, Tokens]]:
    """Returns a microbatch's part of L = sum_k c_k sum_t w_t loss_t / count_k."""
    terms, seen = self._algorithm.terms, self._algorithm.metrics
    largest = self._algorithm.maxima
    per_tile = self._model.cfg.tokens_per_tile
    batch = with_numbers(batch, scalars.numbers)
    asked = outputs.only(batch, learnt(batch, (*terms, *seen, *largest)))
    out = outputs.forward(
      self._model,
      {**params, **frozen},
      asked,
      self._algorithm.outputs,
      self._block,
    )
    out = self._with_views(out, {**params, **frozen}, asked)
    parts = {t.name: value(t, out, batch, counts) for t in terms}
    scaled = [scalars.coefficients[n] * part for n, part in parts.items()]
    loss = functools.reduce(jnp.add, scaled)
    out = jax.lax.stop_gradient(out)
    parts |= {t.name: value(t, out, batch, counts) for t in seen}
    logp = jnp.sum(out.logps * learnt(batch, terms)) / counts["tokens"]
    metrics = {**parts, "loss": loss, "logp": logp, **work(batch, per_tile)}
    maxima = {t.name: maximum(t, out, batch) for t in largest}
    tokens = {t.name: t.loss(out, batch) for t in self._watched}
    return loss, (metrics, maxima, tokens)

  def _with_views(self, out: Forward, params: Params, asked: Batch) -> Forward:
    """Adds the log-probabilities under each view of the algorithm."""
    views = {
      name: outputs.response_logps(
        self._model,
        params,
        outputs.viewed(self._model, asked, view),
        self._block,
      )
      for name, view in self._algorithm.views.items()
    }
    return dataclasses.replace(out, views=views)

  def _apply(
    self, state: TrainState, sums: Sums, counts: Metrics
  ) -> tuple[TrainState, Metrics]:
    """Moves the parameters; where nothing is learnt, only the step advances."""
    grads, metrics, maxima = sums
    updates, opt_state = self._tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {n: jnp.where(m > -jnp.inf, m, 0.0) for n, m in maxima.items()}
    metrics |= {
      "grad_norm": optax.global_norm(grads),
      "tokens": counts["tokens"],
      "fill_rate": metrics["live"] / metrics.pop("places"),
    }
    if self._rate is not None:
      metrics["learning_rate"] = self._rate(state.opt_state)
    step = state.step + 1
    new = TrainState(step=step, params=params, opt_state=opt_state, frozen={})
    # Neither weight decay nor momentum may move a weight without a token.
    chosen = lambda new, old: jnp.where(counts["tokens"] > 0, new, old)
    old = dataclasses.replace(state, step=step)
    return jax.tree.map(chosen, new, old), metrics


def value(
  term: Term, out: Forward, batch: Batch, counts: Metrics
) -> Float[Array, ""]:
  """Returns a microbatch's part of sum_t w_t loss_t / count."""
  losses = batch.streams[term.weights] * term.loss(out, batch)
  return jnp.sum(losses) / counts[term.normaliser]


def maximum(term: Term, out: Forward, batch: Batch) -> Float[Array, ""]:
  """Returns the largest loss_t of a microbatch where w_t > 0; -inf if nowhere."""
  weighed = batch.streams[term.weights] > 0
  return jnp.max(jnp.where(weighed, term.loss(out, batch), -jnp.inf))


def with_numbers(batch: Batch, numbers: dict[str, float]) -> Batch:
  """Adds a constant stream for each number."""
  constant = {
    name: jnp.full(batch.tokens.shape, number, jnp.float32)
    for name, number in numbers.items()
  }
  return dataclasses.replace(batch, streams={**batch.streams, **constant})


def learnt(batch: Batch, terms: Sequence[Term]) -> Array:
  """Returns which targets any of the terms weighs."""
  return outputs.nonzero(batch, [term.weights for term in terms])


def scalars(algorithm: Algorithm, moment: Moment) -> Scalars:
  """Evaluates the algorithm's schedules on the host."""
  return Scalars(
    {t.name: float(t.coefficient(moment)) for t in algorithm.terms},
    {n: float(number(moment)) for n, number in algorithm.numbers.items()},
  )


def work(batch: Batch, tokens_per_tile: int) -> Metrics:
  """Counts what a microbatch asks of the model (`models.flops.Work`)."""
  live = batch.segment_ids > 0
  tiles = jnp.sum(batch.tile_places[:, 0] >= 0, dtype=jnp.float32)
  return {
    "microbatches": jnp.float32(1),
    "places": jnp.float32(live.size),
    "live": jnp.sum(live, dtype=jnp.float32),
    "pairs": jnp.sum(jnp.where(live, batch.positions + 1.0, 0.0)),
    "image_tokens": tiles * tokens_per_tile,
  }
