"""Pretraining of the quickstart's vision encoder.

InternViT is published pretrained, and this encoder must be too: with both parts
random, the language model predicts its prior for hundreds of steps, because
neither part has a useful signal for the other. Naming the scan under each image
token takes the encoder about a hundred steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sophia_jax import stopping
from sophia_jax.digits import scenes
from sophia_jax.models.internvl import InternVL
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.state import TrainState, create

CLASSES = (11, len(scenes.INKS), len(scenes.PAPERS))
"""Classes of a token's three labels: no digit or a digit, ink, paper. An unclear
digit is one class more."""
CHECKPOINT_EVERY = 100
"""Updates between checkpoints."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Settings of the vision encoder's pretraining."""

  steps: int = 400
  """Updates."""
  images: int = 64
  """Images of a step."""
  learning_rate: float = 2e-3
  """Largest learning rate."""
  weight_decay: float = 0.05
  """Weight decay of AdamW."""


def _batches(
  seed: int, scans: scenes.Scans, config: VisionConfig, unclear: float
) -> Iterator:
  rng = np.random.default_rng([seed, 6])
  for _ in range(config.steps):
    pairs = [
      scenes.sample_dense(rng, scans, unclear=unclear)
      for _ in range(config.images)
    ]
    yield tuple(map(np.stack, zip(*pairs)))


def pretrain_vision(
  model: InternVL,
  params: dict[str, Any],
  scans: scenes.Scans,
  config: VisionConfig,
  seed: int,
  checkpoints: Path,
  unclear: float = 0.0,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
  """Trains vision encoder and projector to name the contents of each token.

  Linear heads read each image token after the projector and are discarded.
  A killed run resumes from the newest checkpoint, and ends with the same bits.

  Args:
    checkpoints: directory of its checkpoints, one for this seed and config.
    unclear: share of the digits that are unclear, and should be called so.

  Raises:
    Preempted: SIGTERM arrived; the state is saved.

  Returns:
    The parameters with "vision" and "projector" replaced, and the loss and
    accuracy (on non-empty cells) of every 20th step.
  """
  width = model.cfg.decoder.width
  classes = (CLASSES[0] + (unclear > 0), *CLASSES[1:])
  head = jax.random.normal(jax.random.key(seed), (width, sum(classes))) * 0.02
  live = {"vision": params["vision"], "projector": params["projector"]}
  tx = optax.adamw(
    optax.cosine_onecycle_schedule(config.steps, config.learning_rate, 0.1),
    weight_decay=config.weight_decay,
  )
  step = _step(model, classes, tx)
  state = create({"live": live, "head": head}, tx, ("live", "head"))
  identity = dataclasses.asdict(config) | {"seed": seed, "unclear": unclear}
  history: list[dict[str, float]] = []
  saved = Checkpoints(checkpoints, 1, identity)
  with contextlib.closing(saved), stopping.watched():
    if restored := saved.restore(state):
      state, history = restored[0], restored[1]["history"]
    first = int(state.step)
    batches = _batches(seed, scans, config, unclear)
    for i, batch in enumerate(itertools.islice(batches, first, None), first):
      state, loss, right = step(state, *batch)
      if i % 20 == 0 or i == config.steps - 1:
        row = {"step": i, "loss": float(loss), "accuracy": float(right)}
        history.append(row)
      if stopping.requested() or (i + 1) % CHECKPOINT_EVERY == 0:
        saved.save(state, {"history": history})
        stopping.check(f"saved update {i + 1} in {checkpoints}")
  return {**params, **state.params["live"]}, history


def _step(
  model: InternVL, classes: Sequence[int], tx: optax.GradientTransformation
) -> Callable[..., tuple[TrainState, Any, Any]]:
  """Returns one update: (state, tiles, labels) -> state, loss and accuracy."""

  def loss_fn(trained, tiles, labels):
    tokens = model.apply({"params": trained["live"]}, tiles, method="encode")
    logits = tokens @ trained["head"]
    loss = 0.0
    heads = jnp.split(logits, np.cumsum(classes)[:-1], axis=-1)
    for each, names in zip(heads, labels.reshape(-1, len(classes)).T):
      loss += optax.softmax_cross_entropy_with_integer_labels(
        each, names
      ).mean()
    digits = labels[..., 0].ravel()
    shown = digits > 0
    right = jnp.sum((heads[0].argmax(-1) == digits) & shown) / jnp.sum(shown)
    return loss, right

  @jax.jit
  def step(state, tiles, labels):
    (loss, right), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, tiles, labels
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    made = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    )
    return made, loss, right

  return step
