"""Pretraining of the quickstart's vision encoder.

InternViT is published pretrained, and this encoder must be too: with both parts
random, the language model predicts its prior for hundreds of steps, because
neither part has a useful signal for the other. Naming the scan under each image
token takes the encoder about a hundred steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sophia_jax.digits import scenes
from sophia_jax.models.internvl import InternVL

CLASSES = (11, len(scenes.INKS), len(scenes.PAPERS))
"""Classes of a token's three labels: no digit or a digit, ink, paper. An unclear
digit is one class more."""


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
  unclear: float = 0.0,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
  """Trains vision encoder and projector to name the contents of each token.

  Linear heads read each image token after the projector and are discarded.

  Args:
    unclear: share of the digits that are unclear, and are to be called so.

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

  def loss_fn(trained, tiles, labels):
    live, head = trained
    tokens = model.apply({"params": live}, tiles, method="encode")
    loss = 0.0
    heads = jnp.split(tokens @ head, np.cumsum(classes)[:-1], axis=-1)
    for logits, names in zip(heads, labels.reshape(-1, len(classes)).T):
      loss += optax.softmax_cross_entropy_with_integer_labels(
        logits, names
      ).mean()
    digits = labels[..., 0].ravel()
    shown = digits > 0
    right = jnp.sum((heads[0].argmax(-1) == digits) & shown) / jnp.sum(shown)
    return loss, right

  @jax.jit
  def step(trained, opt_state, tiles, labels):
    (loss, right), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      trained, tiles, labels
    )
    updates, opt_state = tx.update(grads, opt_state, trained)
    return optax.apply_updates(trained, updates), opt_state, loss, right

  trained = (live, head)
  opt_state = tx.init(trained)
  history = []
  for i, (tiles, labels) in enumerate(_batches(seed, scans, config, unclear)):
    trained, opt_state, loss, right = step(trained, opt_state, tiles, labels)
    if i % 20 == 0 or i == config.steps - 1:
      history.append({"step": i, "loss": float(loss), "accuracy": float(right)})
  return {**params, **trained[0]}, history
