"""Attention on one CPU device: each request with its own keys only.

SGLang-JAX's native backend multiplies every query with the whole cache and masks
what is not its request's; it holds heads padded to 128 and does not cut its
output back. This one gathers, and takes heads of any width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int
from sgl_jax.srt.model_executor.forward_batch_info import ForwardMode

BLOCK = 16
"""Queries of one request that are computed together while a prompt is read."""
_AT_ONCE = 8
"""Such blocks; bounds the keys that are gathered at a time."""


def per_request(
  native: Callable[..., Array], context: int
) -> Callable[..., Array]:
  """Replaces the native backend's attention where we can do better.

  Args:
    native: its `forward_attention`.
    context: tokens of a request at most.
  """

  def attention(
    q: Float[Array, "T N H"],
    keys: Float[Array, "S M P"],
    values: Float[Array, "S M P"],
    lengths: Int[Array, "B"],
    loc: Int[Array, "L"],
    prefixes: Int[Array, "B"],
    extends: Int[Array, "B"],
    *heads: int,
    mode: Any,
    mesh: Any,
    page_size: int,
    scale: float,
    **settings: Any,
  ) -> Float[Array, "T N*H"]:
    tokens, _, width = q.shape
    if mesh.size > 1:
      out = native(
        *(q, keys, values, lengths, loc, prefixes, extends, *heads),
        mode=mode,
        mesh=mesh,
        page_size=page_size,
        scale=scale,
        **settings,
      )
      return out.reshape(tokens, heads[0], -1)[..., :width].reshape(tokens, -1)
    whole = NamedSharding(mesh, PartitionSpec())
    q, keys, values, lengths, loc = (
      jax.sharding.reshard(x, whole) for x in (q, keys, values, lengths, loc)
    )
    places = Places(loc, lengths, page_size, context)
    cache = keys[..., :width], values[..., :width]
    if mode == ForwardMode.DECODE:
      rows, seen = places.of(jnp.arange(tokens), lengths - 1)
      out = attend(q[:, None] * scale, cache, rows, seen[:, None])[:, 0]
    else:
      prefixes, extends = (
        jax.sharding.reshard(x, whole) for x in (prefixes, extends)
      )
      out = extend(q * scale, cache, places, prefixes, extends)
    return jax.sharding.reshard(
      out.reshape(tokens, -1),
      NamedSharding(mesh, PartitionSpec("data", "tensor")),
    )

  return attention


class Places:
  """Returns the place in the cache of each request's keys.

  `loc` holds the rows of one request after another, each request's part padded
  to whole pages.
  """

  def __init__(
    self,
    loc: Int[Array, "L"],
    lengths: Int[Array, "B"],
    page: int,
    context: int,
  ):
    aligned = -(-lengths // page) * page
    self._starts = jnp.cumsum(aligned) - aligned
    self._loc = loc
    self._width = min(-(-context // page) * page, loc.shape[0])

  def of(
    self, requests: Int[Array, "B"], last: Int[Array, "B"]
  ) -> tuple[Int[Array, "B W"], Bool[Array, "B W"]]:
    """Returns rows of the keys of `requests`, and which a query at `last` sees."""
    columns = jnp.arange(self._width)
    rows = self._loc[
      jnp.minimum(
        self._starts[requests][:, None] + columns, self._loc.shape[0] - 1
      )
    ]
    return rows, columns <= last[:, None]


def attend(
  q: Float[Array, "B T N H"],
  cache: tuple[Float[Array, "S M H"], Float[Array, "S M H"]],
  rows: Int[Array, "B W"],
  seen: Bool[Array, "B T W"],
) -> Float[Array, "B T N H"]:
  """Computes softmax(q k) v, softmax in fp32, over the rows of the cache that are seen."""
  k, v = (x[rows] for x in cache)
  b, t, n, h = q.shape
  grouped = q.reshape(b, t, k.shape[2], -1, h)
  logits = jnp.einsum("btmgh,bwmh->bmgtw", grouped, k).astype(jnp.float32)
  logits = jnp.where(seen[:, None, None], logits, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum("bmgtw,bwmh->btmgh", weights, v).reshape(b, t, n, h)


def extend(
  q: Float[Array, "T N H"],
  cache: tuple[Float[Array, "S M H"], Float[Array, "S M H"]],
  places: Places,
  prefixes: Int[Array, "B"],
  extends: Int[Array, "B"],
) -> Float[Array, "T N H"]:
  """Computes causal attention of prompts' new tokens, which lie one after another."""
  tokens, requests = len(q), len(extends)
  blocks = -(-extends // BLOCK)
  ends = jnp.cumsum(blocks)
  starts = jnp.cumsum(extends) - extends
  count = -(-tokens // BLOCK) + requests

  def block(b: Int[Array, ""]) -> tuple[Float[Array, "T N H"], Int[Array, "T"]]:
    r = jnp.minimum(jnp.searchsorted(ends, b, side="right"), requests - 1)
    offsets = (b - ends[r] + blocks[r]) * BLOCK + jnp.arange(BLOCK)
    real = (offsets < extends[r]) & (b < ends[-1])
    token = jnp.where(real, starts[r] + offsets, tokens)  # dropped below
    position = prefixes[r] + offsets
    rows, _ = places.of(r[None], position[:1])
    seen = jnp.arange(rows.shape[1]) <= position[:, None]
    mine = q[jnp.minimum(token, tokens - 1)]
    return attend(mine[None], cache, rows, seen[None])[0], token

  out, token = jax.lax.map(block, jnp.arange(count), batch_size=_AT_ONCE)
  return (
    jnp.zeros_like(q)
    .at[token.reshape(-1)]
    .set(out.reshape(-1, *q.shape[1:]), mode="drop")
  )
