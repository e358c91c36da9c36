"""A share of the embedded engine's slots, which one thread decodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from sophia_jax.models.internvl import KVCache
from sophia_jax.rollout import decoding
from sophia_jax.rollout.decoding import QUEUE, Slots
from sophia_jax.types import Prompt, Sampling

Prefilled = tuple[tuple[KVCache, ...], Int[Array, "B"]]
"""Caches of prompts, and their rotary offsets (`decoding.prefill`)."""


@dataclasses.dataclass
class Job:
  """A request in the tokens of the engine's model."""

  ticket: int
  id: str
  prompt: Prompt
  sampling: Sampling
  versions: list[tuple[int, int]]
  """(policy version, tokens drawn before it took over)."""
  cached: int = 0
  """Tokens of the prompt that are in the caches when it starts."""

  @property
  def key(self) -> bytes:
    """Identity of the prompt: jobs that have it in common are prefilled once."""
    prompt = self.prompt
    return prompt.token_ids.tobytes() + "\0".join(prompt.images).encode()


class Finished(NamedTuple):
  """A job whose last token is drawn."""

  job: Job
  tokens: Int[np.ndarray, "N"]
  logps: Float[np.ndarray, "N"]


class _Cached(NamedTuple):
  """Content of a slot's caches."""

  ids: bytes
  images: tuple[tuple[str, ...], tuple[int, ...]]


class Beginning(NamedTuple):
  """A slot whose caches hold the first tokens of a prompt."""

  lane: Lane
  slot: int
  length: int
  """Tokens."""


class Lane:
  """Slots that decode in lockstep, and the requests they have.

  What a tick computes depends on nothing but the jobs and the ticks between
  them. One thread at a time may use it.

  Args:
    slots: how many.
    prefill_rows: distinct prompts prefilled together, at most.
    empty: returns so many free slots.
    decode: (slots, whether one of them truncates by top-p or top-k) -> the same
      a chunk of steps later.
  """

  def __init__(
    self,
    slots: int,
    prefill_rows: int,
    empty: Callable[[int], Slots],
    prefill: Callable[[list[Prompt]], Prefilled],
    decode: Callable[[Slots, bool], Slots],
  ):
    self._prefill_rows = prefill_rows
    self._empty, self._prefill, self._decode = empty, prefill, decode
    self._new: list[Job] = []
    """Jobs that start at the next tick."""
    self._running: list[Job | None] = [None] * slots
    self._slots: Slots | None = None
    self._drawn = np.zeros(slots, np.int32)
    self._cached: dict[int, _Cached] = {}
    """Content of the slots whose job has finished."""
    self._continuing: dict[int, Job] = {}
    """Jobs that wait for a tick, by the slot whose caches they continue."""

  # ----------------------------------------------------------------------- jobs
  @property
  def busy(self) -> bool:
    """Whether a tick would have something to do."""
    return bool(self._new or self._continuing) or any(self._running)

  @property
  def room(self) -> int:
    """Number of slots that no job has or waits for."""
    waiting = len(self._new) + len(self._continuing)
    return self._running.count(None) - waiting

  @property
  def waiting(self) -> list[Job]:
    """The jobs that start at the next tick."""
    return [*self._continuing.values(), *self._new]

  def take(self, job: Job) -> None:
    """Gives a job one of the free slots."""
    self._new.append(job)

  def beginning(self, prompt: Prompt) -> Beginning | None:
    """Finds the longest beginning of a prompt in the caches, if what is left is
    short; none is shorter than a whole turn and its answer."""
    ids, images = prompt.token_ids.tobytes(), (prompt.images, prompt.tiles)
    width = prompt.token_ids.itemsize
    found = [
      Beginning(self, slot, len(cached.ids) // width)
      for slot, cached in self._cached.items()
      if 0 < len(ids) - len(cached.ids) <= (1 + QUEUE) * width
      and cached.images == images
      and ids.startswith(cached.ids)
    ]
    return max(found, key=lambda one: (one.length, -one.slot), default=None)

  def take_to_continue(self, job: Job, slot: int) -> None:
    """Gives a job the slot whose caches hold the beginning of its prompt."""
    ids = self._cached.pop(slot).ids
    job.cached = len(ids) // job.prompt.token_ids.itemsize
    self._continuing[slot] = job

  def reload(self, version: int) -> list[Job]:
    """Notes in the jobs in flight that other weights take over; returns those
    that waited to continue what the weights before wrote."""
    waiting = list(self._continuing.values())
    self._cached.clear()
    self._continuing.clear()
    for job, drawn in zip(self._running, self._drawn):
      if job is not None:
        job.versions.append((version, int(drawn)))
    return waiting

  def clear(self) -> None:
    """Drops every job, and frees the memory of the slots."""
    self._new.clear()
    self._cached.clear()
    self._continuing.clear()
    self._running = [None] * len(self._running)
    self._slots = None

  # ----------------------------------------------------------------------- tick
  def tick(self) -> list[Finished]:
    """Starts the jobs that wait, decodes one chunk and returns what finished."""
    if self._slots is None:
      self._slots = self._empty(len(self._running))
    self._fill()
    slots = self._slots = self._decode(self._slots, self._truncated)
    # Copies: the next tick donates the slots.
    left, self._drawn = np.array(slots.left), np.array(slots.drawn)
    places = [
      place
      for place, job in enumerate(self._running)
      if job and left[place] == 0
    ]
    if not places:
      return []
    tokens, logps = np.asarray(slots.tokens), np.asarray(slots.logps)
    positions = np.asarray(slots.position)
    finished = []
    for place in places:
      job, self._running[place] = self._running[place], None
      assert job is not None
      n = self._drawn[place]
      found = Finished(job, tokens[place, :n].copy(), logps[place, :n].copy())
      self._keep(place, found, positions[place])
      finished.append(found)
    return finished

  @property
  def _truncated(self) -> bool:
    return any(
      job and (job.sampling.top_p < 1 or job.sampling.top_k)
      for job in self._running
    )

  def _keep(self, place: int, finished: Finished, position: int) -> None:
    """Notes what the caches of a finished job hold, its answer included."""
    prompt = finished.job.prompt
    if len(finished.tokens):
      both = [prompt.token_ids, finished.tokens]
      ids = np.concatenate(both, dtype=np.int32)
      self._cached[place] = _Cached(
        ids[:position].tobytes(), (prompt.images, prompt.tiles)
      )

  # -------------------------------------------------------------------- filling
  def _fill(self) -> None:
    """Starts the jobs that wait."""
    assert self._slots is not None
    if self._continuing:
      self._continue()
    free = [i for i, job in enumerate(self._running) if job is None]
    new, self._new = self._new, []
    for group in self._prefill_groups(new):
      places = [free.pop(0) for _ in group]
      self._slots = self._inserted(self._slots, group, places)
      self._begin(group, places)

  def _continue(self) -> None:
    """Starts the jobs whose beginning is in the caches of their slot."""
    places, group = list(self._continuing), list(self._continuing.values())
    self._continuing.clear()
    new = np.zeros(len(self._running), bool)
    new[places] = True
    fresh = self._fresh(group, places)
    self._slots = decoding.restart(self._slots, new, fresh)
    self._begin(group, places)

  def _begin(self, group: Sequence[Job], places: Sequence[int]) -> None:
    for place, job in zip(places, group):
      self._running[place] = job
      self._cached.pop(place, None)

  def _prefill_groups(self, new: Sequence[Job]) -> Iterator[list[Job]]:
    """Splits jobs so that each group has at most `prefill_rows` prompts."""
    group: list[Job] = []
    prompts: set[bytes] = set()
    for job in new:
      if job.key not in prompts and len(prompts) == self._prefill_rows:
        yield group
        group, prompts = [], set()
      prompts.add(job.key)
      group.append(job)
    if group:
      yield group

  def _inserted(
    self, slots: Slots, group: list[Job], places: list[int]
  ) -> Slots:
    """Prefills the group's distinct prompts and starts its jobs."""
    rows: dict[bytes, int] = {}
    prompts: list[Prompt] = []
    for job in group:
      if job.key not in rows:
        rows[job.key] = len(prompts)
        prompts.append(job.prompt)
    caches, offsets = self._prefill(prompts)
    source = np.full(len(self._running), -1, np.int32)
    for place, job in zip(places, group):
      source[place] = rows[job.key]
      job.cached = len(job.prompt) - 1
    fresh = self._fresh(group, places)
    return decoding.insert(slots, caches, offsets, source, fresh)

  def _fresh(
    self, group: Sequence[Job], places: Sequence[int]
  ) -> dict[str, np.ndarray]:
    """Returns the fields of Slots with which requests start at `places`."""
    s = len(self._running)
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


def _key_data(seed: int) -> UInt32[np.ndarray, "2"]:
  return np.asarray([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
