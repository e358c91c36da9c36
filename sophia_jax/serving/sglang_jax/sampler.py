"""Draws tokens as the embedded engine does, in the place of SGLang-JAX's sampler.

SGLang-JAX's own noise is one 24-bit hash XORed with a constant per token, so two
tokens that dominate a distribution are not drawn in proportion; and it scores a
token at the temperature it was drawn at. Here noise is Gumbel noise of a proper
generator, keyed by the request's seed and the position, and log-probabilities
are those of the model: temperature 1, full vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from sgl_jax.srt.layers.sampler import Sampler

from sophia_jax.rollout.sampling import draw


class ModelSampler(Sampler):
  """Never draws an id that is not allowed, and scores over all of them."""

  def __init__(
    self, rngs: nnx.Rngs, mesh: Mesh, allowed: Bool[np.ndarray, "V"]
  ):
    super().__init__(rngs, mesh=mesh)
    self.allowed = nnx.Variable(jax.device_put(allowed, self._whole()))

  def _greedy_sampling(
    self, operands: tuple[Any, ...]
  ) -> tuple[Int[Array, "B"], Float[Array, "B V"]]:
    logits = self._logits(operands[0])
    allowed = jnp.where(self.allowed.value, logits, -jnp.inf)
    return self._result(jnp.argmax(allowed, axis=-1), logits)

  def _regular_sampling(
    self, operands: tuple[Any, ...]
  ) -> tuple[Int[Array, "B"], Float[Array, "B V"]]:
    logits, metadata = self._logits(operands[0]), operands[1]
    if metadata.sampling_seeds is None:
      raise ValueError("start with --enable-deterministic-sampling")
    top_p, top_k, seeds, positions, temperature = (
      jax.sharding.reshard(x, self._whole())
      for x in (
        metadata.top_ps,
        metadata.top_ks,
        metadata.sampling_seeds,
        metadata.positions,
        metadata.temperatures[:, 0],
      )
    )
    # Greedy rows of a mixed batch come as top_k = 1 at temperature 1.
    temperature = jnp.where(top_k == 1, 0.0, temperature)
    keys = jnp.stack([jnp.zeros_like(seeds), seeds], axis=-1)
    known = (logits, keys.astype(jnp.uint32), positions, temperature)
    truncated = jnp.any(
      (temperature > 0) & ((top_p < 1) | (top_k < logits.shape[-1]))
    )
    tokens = jax.lax.cond(
      truncated,
      lambda: draw(*known, self.allowed.value, (top_p, top_k))[0],
      lambda: draw(*known, self.allowed.value, None)[0],
    )
    return self._result(tokens, logits)

  def _logits(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    whole = jax.sharding.reshard(logits, self._whole())
    return whole.astype(jnp.float32)

  def _result(
    self, tokens: Int[Array, "B"], logits: Float[Array, "B V"]
  ) -> tuple[Int[Array, "B"], Float[Array, "B V"]]:
    logps = jax.nn.log_softmax(logits, axis=-1)
    return (
      jax.sharding.reshard(
        tokens.astype(jnp.int32),
        NamedSharding(self.mesh, PartitionSpec("data")),
      ),
      jax.sharding.reshard(
        logps, NamedSharding(self.mesh, PartitionSpec("data", "tensor"))
      ),
    )

  def _whole(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())
