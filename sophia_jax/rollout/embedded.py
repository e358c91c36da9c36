"""The embedded engine: continuous batching in JAX, with static shapes.

A fixed number of slots decodes in lockstep. After every `chunk` steps, a tick,
finished slots are returned and filled again; a prompt that several requests
share is prefilled once, and a later turn continues in the slot of the turn
before: only what was added to the ids is fed.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

from sophia_jax import stopping
from sophia_jax.data.chat import Renderer
from sophia_jax.data.native import NOWHERE, Tiles, placed
from sophia_jax.models.internvl import InternVL
from sophia_jax.rollout import decoding
from sophia_jax.rollout.decoding import QUEUE, Slots
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
  drop_oversize: bool = True
  """Whether problems that `length` has no room for are left out of sampling,
  counted and named; False: they are refused before anything is sampled. A
  reasoner's prompt counts with the longest caption, since none is there yet."""


@dataclasses.dataclass
class _Job:
  """A request in the tokens of this engine's model."""

  ticket: int
  id: str
  prompt: Prompt
  sampling: Sampling
  versions: list[tuple[int, int]]
  """(policy version, tokens drawn before it took over)."""
  cached: int = 0
  """Tokens of the prompt that are in the caches when it starts."""


class _Cached(NamedTuple):
  """Content of a slot's caches."""

  ids: bytes
  images: tuple[tuple[str, ...], tuple[int, ...]]


class EmbeddedEngine:
  """Serves a vision-language policy, or a text-only reasoner.

  `submit` puts a request into the inbox, and every `tick` draws from it, runs one
  chunk of decoding and returns what has finished. `generate` does both. What a
  tick computes depends on nothing but the requests and the ticks between them.

  Args:
    load_tiles: (image path, number of tiles) -> tiles; the one image path.
  """

  def __init__(
    self,
    model: InternVL,
    params: Any,
    renderer: Renderer,
    config: EngineConfig,
    load_tiles: Callable[[str, int], Tiles],
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
    self._cached: dict[int, _Cached] = {}
    """Content of the slots whose request has finished."""
    self._continuing: dict[int, _Job] = {}
    """Requests that wait for a tick, by the slot whose caches they continue."""

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
      self._cached.clear()
      self._inbox.extendleft(reversed(self._continuing.values()))
      self._continuing.clear()
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
      prompt = self.renderer.prompt(prompt.text, prompt.images, prompt.system)
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
    with self._lock:
      place = self._place_to_continue(prompt)
      if place is None:
        self._inbox.append(job)
      else:
        job.cached = (
          len(self._cached.pop(place).ids) // prompt.token_ids.itemsize
        )
        self._continuing[place] = job
    return ticket

  def _place_to_continue(self, prompt: Prompt) -> int | None:
    """Returns the slot that holds the longest beginning of a prompt, if what is
    left is short; no beginning is shorter than a whole turn and its answer."""
    ids, images = prompt.token_ids.tobytes(), (prompt.images, prompt.tiles)
    width = prompt.token_ids.itemsize
    found = [
      (len(cached.ids), -place)
      for place, cached in self._cached.items()
      if 0 < len(ids) - len(cached.ids) <= (1 + QUEUE) * width
      and cached.images == images
      and ids.startswith(cached.ids)
    ]
    return -max(found)[1] if found else None

  @property
  def busy(self) -> bool:
    """Whether a tick would have something to do."""
    waiting = self._inbox or self._continuing
    return bool(waiting) or any(self._running)

  @property
  def room(self) -> int:
    """Number of slots that no request has or waits for."""
    waiting = len(self._inbox) + len(self._continuing)
    return self._running.count(None) - waiting

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
      slots = self._slots = decoding.decode(
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
        positions = np.asarray(slots.position)
      completions = []
      for place, job in finished:
        self._running[place], n = None, self._drawn[place]
        self._keep(place, job, tokens[place, :n], positions[place])
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
      self._cached.clear()
      self._continuing.clear()
      self._running = [None] * self.config.slots
      self._slots = None

  def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
    """Yields completions as they finish; draws requests as slots free.

    Raises:
      SophiaError: as for `submit` and `tick`.
      Preempted: SIGTERM arrived.
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
        stopping.check()
    finally:
      self.clear()

  def _keep(self, place: int, job: _Job, tokens, position) -> None:
    """Notes what the caches of a finished request hold, its answer included."""
    prompt = job.prompt
    if len(tokens):
      ids = np.concatenate([prompt.token_ids, tokens], dtype=np.int32)
      self._cached[place] = _Cached(
        ids[:position].tobytes(), (prompt.images, prompt.tiles)
      )

  def _fill_slots(self) -> None:
    """Starts as many requests of the inbox as there are free slots."""
    if self._slots is None:
      self._slots = decoding.empty(
        self.model.cfg, self.config.slots, self.config.length
      )
    if self._continuing:
      self._continue()
    free = [i for i, job in enumerate(self._running) if job is None]
    count = min(len(free), len(self._inbox))
    new = [self._inbox.popleft() for _ in range(count)]
    for group in self._prefill_groups(new):
      places = [free.pop(0) for _ in group]
      self._slots = self._fill(self._slots, group, places)
      self._begin(group, places)

  def _continue(self) -> None:
    """Starts the requests whose beginning is in the caches of their slot."""
    assert self._slots is not None
    places, group = list(self._continuing), list(self._continuing.values())
    self._continuing.clear()
    new = np.zeros(self.config.slots, bool)
    new[places] = True
    fresh = self._fresh(group, places)
    self._slots = decoding.restart(self._slots, new, fresh)
    self._begin(group, places)

  def _begin(self, group: Sequence[_Job], places: Sequence[int]) -> None:
    for place, job in zip(places, group):
      self._running[place] = job
      self._cached.pop(place, None)
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
    caches, offsets = decoding.prefill(
      self.model, self.params, *self._prompt_arrays(prompts)
    )
    source = np.full(self.config.slots, -1, np.int32)
    for place, job in zip(places, group):
      source[place] = rows[_prompt_key(job.prompt)]
      job.cached = len(job.prompt) - 1
    fresh = self._fresh(group, places)
    return decoding.insert(slots, caches, offsets, source, fresh)

  def _fresh(
    self, group: Sequence[_Job], places: Sequence[int]
  ) -> dict[str, np.ndarray]:
    """Returns the fields of Slots with which requests start at `places`."""
    s = self.config.slots
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
        ("queue", (QUEUE,), np.int32),
        ("queued", (), np.int32),
      )
    }
    for place, job in zip(places, group):
      how = job.sampling
      # The token after those in the cache is fed by the first decoding step.
      token, *rest = job.prompt.token_ids[job.cached :]
      fresh["token"][place] = token
      fresh["position"][place] = job.cached
      fresh["queue"][place, : len(rest)] = rest[::-1]
      fresh["queued"][place] = len(rest)
      fresh["left"][place] = how.max_new_tokens
      fresh["keys"][place] = _key_data(how.seed)
      fresh["temperature"][place] = how.temperature
      fresh["top_p"][place] = how.top_p
      fresh["top_k"][place] = how.top_k
    return fresh

  def _prompt_arrays(self, prompts: list[Prompt]):
    """Returns right-padded prompts in bucketed shapes, and the tiles they show
    with their places."""
    n, longest = self.config.prefill_rows, max(map(len, prompts))
    length = min(_bucket(longest, 32), self.config.length)
    tokens = np.zeros((n, length), np.int32)
    lengths = np.ones(n, np.int32)
    tile_slots = np.full((n, length), -1, np.int32)
    images: list[tuple[Tiles, str]] = []
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
        tiles = map(self.load_tiles, prompt.images, prompt.tiles)
        images += zip(tiles, prompt.images)
      tile_slots[row, image] = first[shown] + np.arange(len(image))
    return tokens, lengths, tile_slots, *self._tile_arrays(images)

  def _tile_arrays(
    self, images: list[tuple[Tiles, str]]
  ) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Returns the tiles of images with their names, padded to a bucket, and their
    places."""
    vision = self.model.cfg.vision
    if vision is None:
      return None, None
    count = sum(math.prod(tiles.shape[:-3]) for tiles, _ in images)
    side = vision.image_size
    channels = images[0][0].shape[-1] if images else 3
    room = _bucket(max(count, 1), self.config.prefill_rows)
    padded = np.zeros((room, side, side, channels), np.uint8)
    places = np.full((room, 4), NOWHERE, np.int32)
    first = 0
    for tiles, name in images:
      here = slice(first, first + math.prod(tiles.shape[:-3]))
      padded[here], places[here] = placed(tiles, first, name)
      first = here.stop
    return padded, places


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
