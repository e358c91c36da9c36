"""The decoding state of the embedded engine, and its jitted programs.

Every shape is a constant or one of a few buckets, so a run compiles a handful of
programs whatever it is asked.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from sophia_jax.models import InternVLConfig
from sophia_jax.models.internvl import InternVL, KVCache, init_caches
from sophia_jax.rollout import sampling

QUEUE = 64
"""Most tokens that are fed one by one to continue a cached prompt; a longer rest
is cheaper to prefill with all of the prompt."""


@flax.struct.dataclass
class Slots:
  """The state of S slots; a slot whose `left` is 0 is free or finished."""

  caches: tuple[KVCache, ...]
  token: Int[Array, "S"]
  """The token to be fed next, at `position`."""
  position: Int[Array, "S"]
  offset: Int[Array, "S"]
  """Distance from `position` to the rotary position (`InternVL.offsets`)."""
  left: Int[Array, "S"]
  """Tokens that may still be drawn."""
  drawn: Int[Array, "S"]
  tokens: Int[Array, "S C"]
  """Drawn so far; the first `drawn` of a row are valid."""
  logps: Float[Array, "S C"]
  keys: UInt32[Array, "S 2"]
  temperature: Float[Array, "S"]
  top_p: Float[Array, "S"]
  top_k: Int[Array, "S"]
  queue: Int[Array, "S Q"]
  """Rest of a prompt that continues a cached one, last token first."""
  queued: Int[Array, "S"]
  """Tokens of `queue` that are still to be fed, before any is drawn."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def empty(cfg: InternVLConfig, slots: int, length: int) -> Slots:
  """Returns `slots` free slots of `length` tokens."""
  s, c = slots, length
  return Slots(
    caches=init_caches(cfg, s, c),
    token=jnp.zeros(s, jnp.int32),
    position=jnp.zeros(s, jnp.int32),
    offset=jnp.zeros(s, jnp.int32),
    left=jnp.zeros(s, jnp.int32),
    drawn=jnp.zeros(s, jnp.int32),
    tokens=jnp.zeros((s, c), jnp.int32),
    logps=jnp.zeros((s, c), jnp.float32),
    keys=jnp.zeros((s, 2), jnp.uint32),
    temperature=jnp.ones(s, jnp.float32),
    top_p=jnp.ones(s, jnp.float32),
    top_k=jnp.zeros(s, jnp.int32),
    queue=jnp.zeros((s, QUEUE), jnp.int32),
    queued=jnp.zeros(s, jnp.int32),
  )


@functools.partial(jax.jit, static_argnums=0)
def prefill(
  model, params, tokens, lengths, tile_slots, tiles, tile_places
) -> tuple[tuple[KVCache, ...], Int[Array, "B"]]:
  """Returns the caches of prompts, and `InternVL.offsets` of them."""
  apply: Any = functools.partial(model.apply, {"params": params})
  shown = tiles is not None
  embeds = apply(tiles, tile_places, method="encode") if shown else None
  args = tokens, lengths, tile_slots, embeds, tile_places
  _, caches = apply(*args, method="prefill")
  return caches, apply(lengths, tile_slots, tile_places, method="offsets")


@functools.partial(jax.jit, donate_argnums=0)
def insert(
  slots: Slots,
  caches: tuple[KVCache, ...],
  offsets: Int[Array, "B"],
  source,
  fresh,
) -> Slots:
  """Copies prefilled row source[s] into slot s; -1 leaves the slot alone."""
  new = source >= 0
  rows = jnp.maximum(source, 0)

  def put(old, prompts):
    columns = tuple(map(slice, prompts.shape[1:]))
    mask = new[:, None, None, None]
    head = jnp.where(mask, prompts[rows], old[:, *columns])
    return jax.lax.dynamic_update_slice(old, head, (0,) * old.ndim)

  filled = dataclasses.replace(
    slots,
    caches=jax.tree.map(put, slots.caches, caches),
    offset=jnp.where(new, offsets[rows], slots.offset),
  )
  return _started(filled, new, fresh)


@functools.partial(jax.jit, donate_argnums=0)
def restart(slots: Slots, new: Bool[Array, "S"], fresh) -> Slots:
  """Starts requests in slots whose caches they continue."""
  return _started(slots, new, fresh)


def _started(slots: Slots, new: Bool[Array, "S"], fresh) -> Slots:
  def choose(name, value):
    mask = new.reshape(-1, *[1] * (value.ndim - 1))
    return jnp.where(mask, value, getattr(slots, name))

  return dataclasses.replace(
    slots,
    drawn=jnp.where(new, 0, slots.drawn),
    **{name: choose(name, value) for name, value in fresh.items()},
  )


@functools.partial(jax.jit, static_argnums=(0, 5, 6), donate_argnums=2)
def decode(
  model: InternVL,
  params: Any,
  slots: Slots,
  allowed: Bool[Array, "V"],
  end_id: Int[Array, ""],
  truncated: bool,
  steps: int,
) -> Slots:
  """Feeds or draws up to `steps` tokens in every running slot."""
  apply: Any = functools.partial(model.apply, {"params": params})
  rows = jnp.arange(slots.token.shape[0])
  # Inside the loop a CPU copies every weight for every token; an accelerator reads
  # them where they are, and would hold them twice.
  once = jax.default_backend() == "cpu"
  layers = apply(method="layers") if once else None

  def step(carry):
    i, s = carry
    args = s.token, s.position, s.caches, s.offset, layers
    hidden, caches = apply(*args, method="decode")
    token, logp = sampling.draw(
      apply(hidden, method="logits"),
      s.keys,
      s.drawn,
      s.temperature,
      allowed,
      (s.top_p, s.top_k) if truncated else None,
    )
    live = s.left > 0
    fed = live & (s.queued > 0)
    drawn = live & ~fed
    following = s.queue[rows, jnp.maximum(s.queued - 1, 0)]
    # A free slot writes out of bounds, which drops the write.
    column = jnp.where(drawn, s.drawn, s.tokens.shape[1])
    left = jnp.where(drawn & (token != end_id), s.left - 1, 0)
    return i + 1, dataclasses.replace(
      s,
      caches=caches,
      token=jnp.where(fed, following, jnp.where(live, token, s.token)),
      position=jnp.where(live, s.position + 1, s.position),
      left=jnp.where(fed, s.left, left),
      drawn=s.drawn + drawn,
      queued=s.queued - fed,
      tokens=s.tokens.at[rows, column].set(token, mode="drop"),
      logps=s.logps.at[rows, column].set(logp, mode="drop"),
    )

  running = lambda carry: (carry[0] < steps) & jnp.any(carry[1].left > 0)
  return jax.lax.while_loop(running, step, (0, slots))[1]
