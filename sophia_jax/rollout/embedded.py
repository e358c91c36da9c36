"""The embedded engine: continuous batching in JAX, with static shapes.

A fixed number of slots decodes in lockstep. After every `chunk` steps, a tick,
finished slots are returned and filled again; a prompt that several requests
share is prefilled once, and a later turn continues in the slot of the turn
before: only what was added to the ids is fed. On a CPU a step of a small model
keeps one core busy, so slots are split into lanes, which tick side by side.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sophia_jax import stopping
from sophia_jax.data.chat import Renderer
from sophia_jax.data.native import NOWHERE, Tiles, placed
from sophia_jax.models.internvl import InternVL
from sophia_jax.rollout import decoding, threads
from sophia_jax.rollout.decoding import Slots
from sophia_jax.rollout.lanes import Beginning, Finished, Job, Lane, Prefilled
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Prompt,
  Request,
  Role,
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
  lanes: int = 0
  """Shares of the slots, each decoded by a thread; 0: one on an accelerator, and
  on a CPU as many as it has cores, of 64 slots or more, which a core multiplies to
  the same bits whatever their number; two of 32 where there are no more."""

  def __post_init__(self) -> None:
    for name in ("slots", "length", "prefill_rows", "chunk"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}; use 1 or more")

  def shares(self) -> list[int]:
    """Returns the number of slots of each lane."""
    most = max(1, self.slots // 64, min(2, self.slots // 32))
    lanes = self.lanes or min(_cores(), most)
    return [(self.slots + i) // lanes for i in range(lanes)]


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
    self._inbox: collections.deque[Job] = collections.deque()
    shares = config.shares()
    self._prefill_rows = -(-config.prefill_rows // len(shares))
    self._lanes = [
      Lane(n, self._prefill_rows, self._empty, self._prefill, self._decode)
      for n in shares
    ]

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
      waiting = [job for lane in self._lanes for job in lane.reload(version)]
      waiting.sort(key=lambda job: job.ticket)
      self._inbox.extendleft(reversed(waiting))

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
    job = Job(ticket, request.id, prompt, request.sampling, [])
    with self._lock:
      place = self._place_to_continue(prompt)
      if place is None:
        self._inbox.append(job)
      else:
        place.lane.take_to_continue(job, place.slot)
    return ticket

  def _place_to_continue(self, prompt: Prompt) -> Beginning | None:
    """Returns where the longest beginning of a prompt is in the caches."""
    found = [lane.beginning(prompt) for lane in self._lanes]
    return max(
      (one for one in found if one), key=lambda one: one.length, default=None
    )

  @property
  def busy(self) -> bool:
    """Whether a tick would have something to do."""
    return bool(self._inbox) or any(lane.busy for lane in self._lanes)

  @property
  def room(self) -> int:
    """Number of slots that no request has or waits for."""
    return sum(lane.room for lane in self._lanes) - len(self._inbox)

  def tick(self) -> list[tuple[int, Completion]]:
    """Fills free slots from the inbox and decodes one chunk.

    Returns:
      Ticket and completion of each request that has finished.

    Raises:
      SophiaError: an image cannot be read.
    """
    with self._lock:
      self._hand_out()
      busy = [lane for lane in self._lanes if lane.busy]
      for lane in busy:
        for job in lane.waiting:
          if self.version is not None:
            job.versions.append((self.version, 0))
      return [
        (finished.job.ticket, self._completion(finished))
        for lane in threads.side_by_side([lane.tick for lane in busy])
        for finished in lane
      ]

  def _hand_out(self) -> None:
    """Gives the inbox to the lanes that have room: what shares a prompt, which is
    prefilled once, to one lane, and other prompts to the emptiest."""
    lane, key = self._lanes[0], b""
    while self._inbox:
      job = self._inbox[0]
      if job.key != key or not lane.room:
        lane, key = max(self._lanes, key=lambda one: one.room), job.key
        if not lane.room:
          return
      lane.take(self._inbox.popleft())

  def clear(self) -> None:
    """Drops every request, and frees the memory of the slots."""
    with self._lock:
      self._inbox.clear()
      for lane in self._lanes:
        lane.clear()

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

  def _empty(self, slots: int) -> Slots:
    return decoding.empty(self.model.cfg, slots, self.config.length)

  def _prefill(self, prompts: list[Prompt]) -> Prefilled:
    arrays = self._prompt_arrays(prompts)
    return decoding.prefill(self.model, self.params, *arrays)

  def _decode(self, slots: Slots, truncated: bool) -> Slots:
    return decoding.decode(
      self.model,
      self.params,
      slots,
      self._allowed,
      self.renderer.end_id,
      truncated,
      self.config.chunk,
    )

  def _completion(self, finished: Finished) -> Completion:
    job, tokens, logps = finished
    stopped = len(tokens) > 0 and tokens[-1] == self.renderer.end_id
    return Completion(
      request_id=job.id,
      text=self.renderer.decode(tokens),
      token_ids=tuple(tokens.tolist()),
      logps=tuple(logps.tolist()),
      finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
      versions=_stretches(job.versions, len(tokens)),
    )

  def _prompt_arrays(self, prompts: list[Prompt]):
    """Returns right-padded prompts in bucketed shapes, and the tiles they show
    with their places."""
    n, longest = self._prefill_rows, max(map(len, prompts))
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
    room = _bucket(max(count, 1), self._prefill_rows)
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


def _bucket(n: int, smallest: int) -> int:
  """Returns the first of smallest * (1, 1.5, 2, 3, 4, 6, ...) that holds n."""
  size = smallest
  while size < n:
    if n <= size * 3 // 2:
      return size * 3 // 2
    size *= 2
  return size


def _cores() -> int:
  """Returns how many cores the lanes have: one where a step uses a device or
  several, which it keeps busy."""
  if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
    return 1
  if hasattr(os, "sched_getaffinity"):  # macOS has none
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
