"""New weights for servers that sample, while they sample.

Weights travel by files: the trainer writes a checkpoint into a directory that it
shares with the servers (tmpfs on one machine, a shared file system on several).
Two directories take turns, so that none is written that a server may read. Each
server retracts its requests, loads, and resumes them with the new weights; a
request that is in flight has tokens of both, and says which.

      save          pause(retract)     update        continue     probe
  params ──► root/1 ──────────────► every server ──────────────► version 7?
             root/0   the version before: what a server goes back to
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from sophia_jax.rollout.client import Client
from sophia_jax.rollout.endpoints import Endpoint, backoff_s
from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import Completion, Request, SophiaError

_PAUSE_S = 60.0
TURNS = ("0", "1")
"""Names of the two directories."""

Save = Callable[[Any, Path], None]
"""Writes parameters as a whole checkpoint, e.g. `checkpoints.save_params` with a
model's config and tokenizer bound; with several processes all of them call it."""


@dataclasses.dataclass(frozen=True)
class Loaded:
  """Times of one update of all servers, in seconds."""

  export: float
  """Writing the checkpoint."""
  update: float
  """Time from the first pause to the last resumption."""
  probe: float
  """Time of the greedy answers, at most `probe_s`."""


@dataclasses.dataclass(frozen=True)
class _Current:
  """A version of the weights, and its directory."""

  directory: Path
  version: int


class ServedWeights:
  """The weights of the servers of one role.

  Example:
    weights = ServedWeights([engine], Path("/dev/shm/run-7"), save, probe)
    weights.load(state.params, version=3)
  """

  def __init__(
    self,
    engines: Sequence[Client],
    root: Path,
    save: Save,
    probe: Request,
    tolerance: float = 0.1,
    probe_s: float = 10.0,
  ):
    """Writes and asks nothing yet.

    Args:
      engines: clients of the same servers, by their own URLs: a router passes no
        update on.
      root: below the directory that the servers take weights from
        (`config.serve.weights`).
      probe: a greedy request for a few tokens, asked after each update.
      tolerance: how far the probe's log-probabilities may lie from the expected.
      probe_s: how long `load` waits for the probes. A server whose places are all
        taken answers later: then the next `load` raises what the probe found.
    """
    self._engines, self._root = list(engines), root.absolute()
    self._save, self._probe = save, probe
    self._tolerance, self._probe_s = tolerance, probe_s
    self._probing: dict[Endpoint, asyncio.Task[None]] = {}
    """Probes of the last update, by server."""
    self._current: _Current | None = None
    self._before: _Current | None = None

  @property
  def version(self) -> int:
    """The version that the servers serve; 0 until the first `load`."""
    return self._current.version if self._current else 0

  def load(
    self, params: Any, version: int, expected: Completion | None = None
  ) -> Loaded:
    """Exports `params`, and returns once every server answers with them.

    A server that is down is waited for, for `config.give_up_s`. May be called
    again after an error. With several processes all of them call it; the first
    one talks to the servers.

    Args:
      version: larger than any before.
      expected: the trainer's own greedy completion of the probe.

    Raises:
      SophiaError: names the server that does not serve this version, and why.
        It serves the weights before, if it serves at all.
    """
    if version <= 0:
      raise ValueError(f"versions count from 1, not {version}")
    engine = self._engines[0]
    engine.wait(self._finish_probes())
    start = time.monotonic()
    taken = self._current and self._current.directory.name
    directory = self._root / (TURNS[1] if taken == TURNS[0] else TURNS[0])
    self._save(params, directory)
    export = time.monotonic() - start
    if jax.process_index() > 0:
      self._before, self._current = self._current, _Current(directory, version)
      return Loaded(export, 0.0, 0.0)
    wanted = _Current(directory, version)
    update, probe = engine.wait(self._load_all(wanted, expected))
    self._before, self._current = self._current, wanted
    for engine in self._engines:
      engine.least_version = version
      engine.revive = self._revive
    return Loaded(export, update, probe)

  async def _load_all(
    self, wanted: _Current, expected: Completion | None
  ) -> tuple[float, float]:
    endpoints = self._engines[0].endpoints
    start = time.monotonic()
    await _all(endpoints, wanted.version, lambda e: self._load_one(e, wanted))
    updated = time.monotonic()
    self._probing = {
      e: asyncio.create_task(self._check(e, wanted, expected))
      for e in endpoints
    }
    done, _ = await asyncio.wait(self._probing.values(), timeout=self._probe_s)
    probed = [e for e, task in self._probing.items() if task in done]
    await _all(endpoints, wanted.version, self._probing.pop, only=probed)
    return updated - start, time.monotonic() - updated

  async def _finish_probes(self) -> None:
    """Raises what late probes have found; a probe that still waits is dropped."""
    late, self._probing = self._probing, {}
    for task in late.values():
      if not task.done():
        task.cancel()
    done = [e for e, task in late.items() if task.done()]
    endpoints = self._engines[0].endpoints
    await _all(endpoints, self.version, late.__getitem__, only=done)

  async def _load_one(self, endpoint: Endpoint, wanted: _Current) -> None:
    """Updates one server; one that does not answer is asked again.

    Raises:
      Trouble: it did not answer for too long.
      Refused: it keeps the weights it has.
    """
    config = self._engines[0].config
    deadline, attempt = time.monotonic() + config.give_up_s, 0
    while True:
      try:
        await self._update(endpoint, wanted)
        return
      except Trouble:
        if time.monotonic() > deadline:
          raise
      await asyncio.sleep(backoff_s(config, attempt))
      attempt += 1

  async def _update(self, endpoint: Endpoint, wanted: _Current) -> None:
    """Retracts, loads and resumes; resumes after an error as well."""
    call = self._engines[0].call
    body = {
      "model_path": str(wanted.directory),
      "weight_version": str(wanted.version),
    }
    try:
      await call(endpoint, "/pause_generation", {"mode": "retract"}, _PAUSE_S)
      await call(
        endpoint,
        "/update_weights_from_disk",
        body,
        self._engines[0].config.deadline_s,
      )
    finally:
      await call(endpoint, "/continue_generation", {}, _PAUSE_S)

  async def _check(
    self, endpoint: Endpoint, wanted: _Current, expected: Completion | None
  ) -> None:
    """Compares the probe's answer; takes the update back if it is wrong.

    After `load` has returned it takes nothing back.

    Raises:
      Trouble: it is.
    """
    before = self._current
    try:
      found = await self._engines[0].ask_at(endpoint, self._probe)
    except Trouble:  # it was lost after its update, and with it the weights
      await self._load_one(endpoint, wanted)
      found = await self._engines[0].ask_at(endpoint, self._probe)
    why = _difference(found, expected, self._tolerance)
    versions = {version for version, _ in found.versions}
    if found.versions and versions != {wanted.version}:
      why = f"it says that it serves version {sorted(versions)}"
    if not why:
      return
    if before and self._current is before:
      await self._update(endpoint, before)
      why += f"; it serves version {before.version} again"
    raise Trouble(why)

  async def _revive(self, endpoint: Endpoint) -> None:
    """Gives a server that was down the weights that the others have."""
    if self._current:
      await self._update(endpoint, self._current)


async def _all(
  endpoints: Sequence[Endpoint],
  version: int,
  work: Callable[[Endpoint], Any],
  only: Sequence[Endpoint] | None = None,
) -> None:
  """Does `work` at every endpoint at once, or at some of them only.

  Raises:
    SophiaError: one line for all that failed.
  """
  some = endpoints if only is None else only
  done = await asyncio.gather(*map(work, some), return_exceptions=True)
  failed = []
  for endpoint, error in zip(some, done, strict=True):
    if isinstance(error, Trouble | SophiaError):
      failed.append(f"{endpoint.url} ({error})")
    elif error is not None:
      raise error
  if failed:
    raise SophiaError(
      f"version {version} of the weights is not served by "
      f"{', '.join(failed)}; {len(endpoints) - len(failed)} of "
      f"{len(endpoints)} servers have it: look at that server's log, and give "
      "the same command again"
    )


def _difference(
  found: Completion, expected: Completion | None, tolerance: float
) -> str:
  """Says where a greedy answer differs from the trainer's; "" if nowhere.

  Where two tokens are nearly as likely, rounding decides: such an answer is
  compared up to there.
  """
  if expected is None or expected.logps is None or found.logps is None:
    return ""
  pairs = zip(
    found.token_ids,
    expected.token_ids,
    found.logps,
    expected.logps,
    strict=False,
  )
  for place, (theirs, ours, their_logp, our_logp) in enumerate(pairs):
    gap = abs(their_logp - our_logp)
    if not math.isfinite(gap) or gap > tolerance:
      return (
        f"its probe differs from the trainer's at token {place}: log p "
        f"{their_logp:.4f} of {theirs}, expected {our_logp:.4f} of {ours}"
      )
    if theirs != ours:
      return ""
  return ""
