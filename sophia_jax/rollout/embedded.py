"""The embedded engine: continuous batching in JAX, with static shapes.

A fixed number of slots decodes in lockstep. After every `chunk` steps, a tick,
finished slots are returned and filled again; a prompt that several requests
share is prefilled once. Every shape is a constant or one of a few buckets, so a run
compiles a handful of programs whatever it is asked.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from sophia_jax.data.chat import Renderer
from sophia_jax.models.internvl import InternVL, KVCache, init_caches
from sophia_jax.rollout import sampling
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Prompt,
  Request,
  Role,
  Sampling,
  SophiaError,
)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Sizes of the embedded engine."""

  slots: int = 64
  """Requests decoded together."""
  length: int = 4096
  """Tokens of a prompt and its response together, at most."""
  prefill_rows: int = 8
  """Distinct prompts prefilled together."""
  chunk: int = 16
  """Decoding steps between two looks at what has finished."""


@flax.struct.dataclass
class Slots:
  """The state of S slots; a slot whose `left` is 0 is free or finished."""

  caches: tuple[KVCache, ...]
  token: Int[Array, "S"]
  """The token to be fed next, at `position`."""
  position: Int[Array, "S"]
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


@dataclasses.dataclass
class _Job:
  """A request in the tokens of this engine's model."""

  ticket: int
  id: str
  prompt: Prompt
  sampling: Sampling
  versions: list[tuple[int, int]]
  """(policy version, tokens drawn before it took over)."""


class EmbeddedEngine:
  """Serves a vision-language policy, or a text-only reasoner.

  `submit` puts a request into the inbox, and every `tick` draws from it, runs one
  chunk of decoding and returns what has finished. `generate` does both. What a
  tick computes depends on nothing but the requests and the ticks between them.

  Args:
    load_tiles: image path -> uint8[n, S, S, 3]; the one image path.
  """

  def __init__(
    self,
    model: InternVL,
    params: Any,
    renderer: Renderer,
    config: EngineConfig,
    load_tiles: Callable[[str, int], UInt8[np.ndarray, "n S S 3"]],
  ):
    self.model, self.params = model, params
    self.version: int | None = None
    """Policy version of the weights; None where they never change."""
    self.renderer, self.config = renderer, config
    self.load_tiles = load_tiles
    allowed = np.ones(model.cfg.decoder.vocab, bool)
    allowed[sorted(renderer.banned_ids)] = False
    allowed[renderer.vocab_size :] = False  # rows that no token has
    self._allowed = jnp.asarray(allowed)
    self._lock = threading.Lock()
    self._tickets = itertools.count()
    self._inbox: collections.deque[_Job] = collections.deque()
    self._running: list[_Job | None] = [None] * config.slots
    self._slots: Slots | None = None
    self._drawn = np.zeros(config.slots, np.int32)

  # -------------------------------------------------------------------- weights
  def load(self, params: Any, version: int) -> None:
    """Takes other weights, between two ticks; thread-safe.

    Requests in flight continue on what the weights before wrote into their
    caches; their completions name both versions.

    Args:
      params: arrays that nobody donates or deletes while they serve.
    """
    with self._lock:
      self.params, self.version = params, version
      for job, drawn in zip(self._running, self._drawn):
        if job is not None:
          job.versions.append((version, int(drawn)))

  # ------------------------------------------------------------------- requests
  def submit(self, request: Request) -> int:
    """Puts a request into the inbox and returns its ticket.

    Raises:
      SophiaError: it does not fit `config.length`.
    """
    prompt = request.prompt
    if isinstance(prompt, Chat):
      prompt = self.renderer.prompt(prompt.text, system=prompt.system)
    need = len(prompt) + request.sampling.max_new_tokens
    if need > self.config.length:
      raise SophiaError(
        f"request {request.id}: a prompt of {len(prompt)} tokens and "
        f"{request.sampling.max_new_tokens} new ones do not fit "
        f"length={self.config.length}; raise the engine's length or lower "
        "max_new_tokens"
      )
    ticket = next(self._tickets)
    job = _Job(ticket, request.id, prompt, request.sampling, [])
    self._inbox.append(job)
    return ticket

  @property
  def busy(self) -> bool:
    """Whether a tick would have something to do."""
    return bool(self._inbox) or any(self._running)

  @property
  def room(self) -> int:
    """Number of slots that no request has or waits for."""
    return self._running.count(None) - len(self._inbox)

  def tick(self) -> list[tuple[int, Completion]]:
    """Fills free slots from the inbox and decodes one chunk.

    Returns:
      Ticket and completion of each request that has finished.

    Raises:
      SophiaError: an image cannot be read.
    """
    with self._lock:
      self._fill_slots()
      if not any(self._running):
        return []
      truncated = any(
        job and (job.sampling.top_p < 1 or job.sampling.top_k)
        for job in self._running
      )
      slots = self._slots = _decode(
        self.model,
        self.params,
        self._slots,
        self._allowed,
        self.renderer.end_id,
        truncated,
        self.config.chunk,
      )
      # Copies: the next tick donates the slots.
      left, self._drawn = np.array(slots.left), np.array(slots.drawn)
      finished = [
        (place, job)
        for place, job in enumerate(self._running)
        if job and left[place] == 0
      ]
      if finished:
        tokens, logps = np.asarray(slots.tokens), np.asarray(slots.logps)
      completions = []
      for place, job in finished:
        self._running[place], n = None, self._drawn[place]
        completions.append(
          (
            job.ticket,
            self._completion(job, tokens[place, :n], logps[place, :n]),
          )
        )
      return completions

  def clear(self) -> None:
    """Drops every request, and frees the memory of the slots."""
    with self._lock:
      self._inbox.clear()
      self._running = [None] * self.config.slots
      self._slots = None

  def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
    """Yields completions as they finish; draws requests as slots free.

    Raises:
      SophiaError: as for `submit` and `tick`.
    """
    waiting = iter(requests)
    try:
      while True:
        for request in itertools.islice(waiting, self.room):
          self.submit(request)
        if not self.busy:
          return
        for _, completion in self.tick():
          yield completion
    finally:
      self.clear()

  def _fill_slots(self) -> None:
    """Starts as many requests of the inbox as there are free slots."""
    free = [i for i, job in enumerate(self._running) if job is None]
    new = [
      self._inbox.popleft() for _ in range(min(len(free), len(self._inbox)))
    ]
    if self._slots is None:
      self._slots = self._empty()
    for group in self._prefill_groups(new):
      places = [free.pop(0) for _ in group]
      self._slots = self._fill(self._slots, group, places)
      for place, job in zip(places, group):
        self._running[place] = job
        if self.version is not None:
          job.versions.append((self.version, 0))

  def _completion(self, job: _Job, tokens, logps) -> Completion:
    stopped = len(tokens) > 0 and tokens[-1] == self.renderer.end_id
    return Completion(
      request_id=job.id,
      text=self.renderer.decode(tokens),
      token_ids=tuple(tokens.tolist()),
      logps=tuple(logps.tolist()),
      finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
      versions=_stretches(job.versions, len(tokens)),
    )

  def _empty(self) -> Slots:
    s, c = self.config.slots, self.config.length
    return Slots(
      caches=init_caches(self.model.cfg, s, c),
      token=jnp.zeros(s, jnp.int32),
      position=jnp.zeros(s, jnp.int32),
      left=jnp.zeros(s, jnp.int32),
      drawn=jnp.zeros(s, jnp.int32),
      tokens=jnp.zeros((s, c), jnp.int32),
      logps=jnp.zeros((s, c), jnp.float32),
      keys=jnp.zeros((s, 2), jnp.uint32),
      temperature=jnp.ones(s, jnp.float32),
      top_p=jnp.ones(s, jnp.float32),
      top_k=jnp.zeros(s, jnp.int32),
    )

  def _prefill_groups(self, new: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Splits requests so that each group has at most `prefill_rows` prompts."""
    group: list[_Job] = []
    prompts: set[bytes] = set()
    for request in new:
      key = _prompt_key(request.prompt)
      if key not in prompts and len(prompts) == self.config.prefill_rows:
        yield group
        group, prompts = [], set()
      prompts.add(key)
      group.append(request)
    if group:
      yield group

  def _fill(self, slots: Slots, group: list[_Job], places: list[int]) -> Slots:
    """Prefills the group's distinct prompts and starts its requests."""
    rows: dict[bytes, int] = collections.OrderedDict()
    prompts: list[Prompt] = []
    for request in group:
      key = _prompt_key(request.prompt)
      if key not in rows:
        rows[key] = len(prompts)
        prompts.append(request.prompt)
    tokens, lengths, tile_slots, tiles = self._prompt_arrays(prompts)
    caches = _prefill(
      self.model, self.params, tokens, lengths, tile_slots, tiles
    )
    s = self.config.slots
    source = np.full(s, -1, np.int32)
    fresh = {
      name: np.zeros((s, *shape), dtype)
      for name, shape, dtype in (
        ("token", (), np.int32),
        ("position", (), np.int32),
        ("left", (), np.int32),
        ("keys", (2,), np.uint32),
        ("temperature", (), np.float32),
        ("top_p", (), np.float32),
        ("top_k", (), np.int32),
      )
    }
    for place, request in zip(places, group):
      how, prompt = request.sampling, request.prompt
      source[place] = rows[_prompt_key(prompt)]
      # The prompt's last token is fed by the first decoding step.
      fresh["token"][place] = prompt.token_ids[-1]
      fresh["position"][place] = len(prompt) - 1
      fresh["left"][place] = how.max_new_tokens
      fresh["keys"][place] = _key_data(how.seed)
      fresh["temperature"][place] = how.temperature
      fresh["top_p"][place] = how.top_p
      fresh["top_k"][place] = how.top_k
    return _insert(slots, caches, source, fresh)

  def _prompt_arrays(self, prompts: list[Prompt]):
    """Returns right-padded prompts in bucketed shapes, and the tiles they show."""
    n, longest = self.config.prefill_rows, max(map(len, prompts))
    length = min(_bucket(longest, 32), self.config.length)
    tokens = np.zeros((n, length), np.int32)
    lengths = np.ones(n, np.int32)
    tile_slots = np.full((n, length), -1, np.int32)
    tiles: list[np.ndarray] = []
    first: dict[tuple, int] = {}  # (images, tiles) -> the first of their slots
    slots = 0
    for row, prompt in enumerate(prompts):
      tokens[row, : len(prompt)] = prompt.token_ids
      lengths[row] = len(prompt)
      image = np.flatnonzero(prompt.roles == Role.IMAGE)
      shown = prompt.images, prompt.tiles
      if shown not in first:
        first[shown] = slots
        slots += len(image)
        tiles += map(self.load_tiles, prompt.images, prompt.tiles)
      tile_slots[row, image] = first[shown] + np.arange(len(image))
    return tokens, lengths, tile_slots, self._tile_array(tiles)

  def _tile_array(self, tiles: list[np.ndarray]) -> np.ndarray | None:
    vision = self.model.cfg.vision
    if vision is None:
      return None
    stacked = np.concatenate(tiles) if tiles else np.zeros((0,), np.uint8)
    side = vision.image_size
    room = _bucket(max(len(stacked), 1), self.config.prefill_rows)
    padded = np.zeros((room, side, side, 3), np.uint8)
    padded[: len(stacked)] = stacked.reshape(-1, side, side, 3)
    return padded


def _stretches(
  since: list[tuple[int, int]], tokens: int
) -> tuple[tuple[int, int], ...]:
  """Returns (version, tokens) of each stretch that is not empty."""
  ends = [start for _, start in since[1:]] + [tokens]
  return tuple(
    (version, end - start)
    for (version, start), end in zip(since, ends)
    if end > start
  )


def _prompt_key(prompt: Prompt) -> bytes:
  return prompt.token_ids.tobytes() + "\0".join(prompt.images).encode()


def _bucket(n: int, smallest: int) -> int:
  """Returns the first of smallest * (1, 1.5, 2, 3, 4, 6, ...) that holds n."""
  size = smallest
  while size < n:
    if n <= size * 3 // 2:
      return size * 3 // 2
    size *= 2
  return size


def _key_data(seed: int) -> UInt32[np.ndarray, "2"]:
  return np.asarray([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)


# ----------------------------------------------------- the three jitted programs
@functools.partial(jax.jit, static_argnums=0)
def _prefill(
  model, params, tokens, lengths, tile_slots, tiles
) -> tuple[KVCache, ...]:
  apply: Any = functools.partial(model.apply, {"params": params})
  embeds = None if tiles is None else apply(tiles, method="encode")
  _, caches = apply(tokens, lengths, tile_slots, embeds, method="prefill")
  return caches


@functools.partial(jax.jit, donate_argnums=0)
def _insert(slots: Slots, caches: tuple[KVCache, ...], source, fresh) -> Slots:
  """Copies prefilled row source[s] into slot s; -1 leaves the slot alone."""
  new = source >= 0
  rows = jnp.maximum(source, 0)

  def put(old, prompts):
    columns = tuple(map(slice, prompts.shape[1:]))
    mask = new[:, None, None, None]
    head = jnp.where(mask, prompts[rows], old[:, *columns])
    return jax.lax.dynamic_update_slice(old, head, (0,) * old.ndim)

  def choose(name, value):
    mask = new.reshape(-1, *[1] * (value.ndim - 1))
    return jnp.where(mask, value, getattr(slots, name))

  return dataclasses.replace(
    slots,
    caches=jax.tree.map(put, slots.caches, caches),
    drawn=jnp.where(new, 0, slots.drawn),
    **{name: choose(name, value) for name, value in fresh.items()},
  )


@functools.partial(jax.jit, static_argnums=(0, 5, 6), donate_argnums=2)
def _decode(
  model: InternVL,
  params: Any,
  slots: Slots,
  allowed: Bool[Array, "V"],
  end_id: Int[Array, ""],
  truncated: bool,
  steps: int,
) -> Slots:
  """Draws up to `steps` tokens in every running slot."""
  apply: Any = functools.partial(model.apply, {"params": params})
  rows = jnp.arange(slots.token.shape[0])

  def step(carry):
    i, s = carry
    hidden, caches = apply(s.token, s.position, s.caches, method="decode")
    token, logp = sampling.draw(
      apply(hidden, method="logits"),
      s.keys,
      s.drawn,
      s.temperature,
      allowed,
      (s.top_p, s.top_k) if truncated else None,
    )
    live = s.left > 0
    # A free slot writes out of bounds, which drops the write.
    column = jnp.where(live, s.drawn, s.tokens.shape[1])
    return i + 1, dataclasses.replace(
      s,
      caches=caches,
      token=jnp.where(live, token, s.token),
      position=jnp.where(live, s.position + 1, s.position),
      left=jnp.where(live & (token != end_id), s.left - 1, 0),
      drawn=s.drawn + live,
      tokens=s.tokens.at[rows, column].set(token, mode="drop"),
      logps=s.logps.at[rows, column].set(logp, mode="drop"),
    )

  running = lambda carry: (carry[0] < steps) & jnp.any(carry[1].left > 0)
  return jax.lax.while_loop(running, step, (0, slots))[1]
